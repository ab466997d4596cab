"""The `ebpf` source: the kernel counts at each socket and records its owner.

- `ebpf_source`: the thread that ends epochs and windows, and reads the maps in between.
- `row_aggregation`: rows of an epoch to sums by owner and to flows that attribution looks up.
- `row_joins`: adds rows that belong to a connection to that connection.
- `row_properties`: the port of the service of each row, and its named network.
- `row_names`: rows as the flows whose peers have names.
- `row_flows`: the flows of rows, as the words of the flow table.
- `unresolved_rows`: rows that attribution looks up, as packets of the flow table.
- `row_owners`: the processes that rows name, read from /proc while they live.
- `owner_groups`: rows with the same owner brought together.
- `earlier_owners`: the owners of datagram sockets that existed before the programs.
- `flow_sockets`: the sockets of the flows that are looked up, offered to attribution as a ledger.
- `flow_socket_table`: these sockets in columns.
- `time_wait`: the packets of closed connections that pass no hook.

The maps and the programs that fill them are described in `hogpipe.linux.bpf`.
"""
