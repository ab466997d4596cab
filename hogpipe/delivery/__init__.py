"""From records to sinks: for each a queue, a task, retries, and a spool if it has one."""
