"""`[security]`: which rights a run keeps once it has begun, and how it gives up the others.

    file_trust      whose configuration and plugins a privileged program uses
    rights          PURE: the capabilities that each thread needs, and why
    host_facts      what this host has that takes rights: containers, translation, an older kernel
    denied_calls    PURE: the system calls that no thread needs
    write_bounds    where sinks may write to and connect to (Landlock), and what a reload may add
    user_choice     the user of the run, and whether that user can use what the run needs
    named_files     the files that the tables of sinks name
    confinement     gives rights up, in order, and starts the threads that keep some
    confined_start  how a command that captures loads its configuration in between
    run_threads     the threads of a run that have rights of their own

Order of a start
    1. The configuration is read, with its references; no plugin is loaded.
    2. The process changes its user while it has no other threads.
    3. The threads that read packets and processes are started. They have what the start takes.
    4. The main thread drops all capabilities. What it starts from then on has none: plugins, the
       event loop, the sinks and their threads.
    5. Once the source is open, the other threads drop what only the start took.
    With the capabilities, system calls are given up that a thread does not need. Before sinks are
    opened, Landlock restricts the main thread to their folders.

Known limit: threads share memory. What this keeps from a plugin is what the kernel checks: a file
that is opened, a program that is executed. Code of a plugin that is malicious, and not only wrong,
can have another thread act for it.
"""
