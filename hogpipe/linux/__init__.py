"""The kernel's interfaces: the only package that opens /proc, netlink sockets or libbpf.

Nothing here knows of flows' owners, records or settings. Formats are parsed by pure functions; the
functions that `read_` do the input.

/proc
    procfs                the reader of a procfs: socket tables, and the files of each process
    listening_ports       the ports on which TCP sockets listen, and the range of ephemeral ones
    procfs_addresses      local addresses of a network namespace, from fib_trie and if_inet6
    process_exits         the exits of watched processes, through pidfds
    process_starts        start times of processes, which make a pid an identity
    held_sockets          the sockets of a process, by their cookies
    kcmp                  whether two threads have one table of fds
    socket_table          PURE: rows of /proc/net/tcp and its siblings
    service_manager       state of the run for the service manager (sd_notify)
    self_usage            CPU time, memory and descriptors of this process
    distribution          the command that installs a package here
    capabilities          capabilities of this process, and whether they apply to the host
    credentials           giving up rights: the user, capabilities, new privileges, core dumps
    landlock              folders and ports that a thread is restricted to
    seccomp               denying system calls to a thread, over libseccomp
    host_features         what a host has that takes rights: containers, translation

Netlink
    sock_diag             socket tables in binary form, and sockets by five-tuple
    packet_sockets        packet sockets, over sock_diag or from /proc/net/packet
    sock_diag_messages    PURE: the messages of sock_diag
    destroyed_sockets     TCP sockets as they are destroyed; destroyed_messages is PURE
    ctnetlink             connections that the kernel tracks, by five-tuple
    ctnetlink_messages    PURE: the messages of ctnetlink
    netlink_messages      PURE: the form of all messages of netlink
    rtnetlink             links and addresses, and change notifications
    process_forks         forks, as the kernel reports them; fork_messages is PURE
    netns/                network namespaces: their processes, inodes, cookies and ids

Others
    rooted_files          files below the root of another host, whose links stay there
    cgroups               the control group tree: its mount point, paths by id
    clocks                the boot clock of the kernel's events
    packet_reader         packets of all interfaces that a filter accepts
    socket_filter         the classic BPF program on a socket: reading and attaching
    system_calls          system calls for which libc has no function
    memory                memory that libc holds although nothing uses it
    limits                descriptors and memory: raising limits, errors that report a shortage
    bpf/                  the BPF programs, their loader, maps and ring buffer
"""
