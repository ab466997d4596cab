"""Owners of flows from the kernel's socket tables and the fds of processes.

A lookup takes a batch of flows through these steps (`procfs_resolver`):

1. Read the socket tables that the flows need.
    table_reader          which tables, which rows, with which reader
    reader_choice         PURE: the cheaper of /proc/net and sock_diag
    tcp_lookup            TCP sockets over sock_diag, by five-tuple or by dump
    table_source          where the tables of a network namespace are read
    container_tables      tables of other network namespaces
2. Match each flow to candidate sockets.
    matching              PURE: the order of the kernel's own lookup
    recorded_sockets      flows matched to the sockets of a recorded /proc, in columns
    recorded_owners       the attributions of those
3. Find the process that owns each socket.
    fd_cache              sockets by inode -> owners, as cheaply as changes in /proc allow
    fd_scanner            scans of many processes, within a bound
    fd_reader             fds of single processes
    fd_table              PURE: the cached fds
    unconnected_ports     PURE: whether an early lookup gains something for datagrams at a port
    shared_sockets        the owner of a socket, or of a port, that several processes share
4. Name an owner for flows without a socket, where the evidence suffices.
    kernel_senders        PURE: what tunnels, file systems and the like transmit in the kernel
    kernel_resolution     the same for the flows of a lookup
    packet_holders        who holds the packet sockets of an interface
    endpoint_heuristic    PURE: evidence by remote endpoint, and when to sample for it
"""
