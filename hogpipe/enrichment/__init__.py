"""Attributes of processes beyond the pid: names, user, systemd unit, container, pod.

processes       reads and caches processes
process_refresh keeps the descriptions of processes in use current
process_watch   reads new processes at once, in a thread, when the kernel reports them
cgroup_paths    PURE: unit, container and pod, by the names in control group paths
"""
