"""Attributes of processes beyond the pid: names, user, systemd unit, container, pod.

processes       reads and caches processes
cgroup_paths    PURE: unit, container and pod, by the names in control group paths
"""
