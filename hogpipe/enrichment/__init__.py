"""Attributes of processes beyond the pid (names, user, systemd unit, container, pod), and ports.

processes       reads and caches processes
container_names reads what containers and pods are called, from what runtimes leave on disk
container_state PURE: names of containers in state files
ancestors       reads who started a process
process_refresh keeps the descriptions of processes in use current
process_watch   reads new processes at once, in a thread, when the kernel reports them
service_port_refresh  keeps what is known of listening ports current
peer_naming     names the peers of flows, by answers of DNS that pass, and by reverse DNS
flow_names      PURE: the names of flows in columns, each decided when the flow begins
address_names   PURE: the names by which addresses were asked for
reverse_names   PURE: the names of addresses in reverse DNS, and which to ask about next
reverse_lookups asks about them in the background (dnspython)
cgroup_paths    PURE: unit, container and pod, by the names in control group paths
"""
