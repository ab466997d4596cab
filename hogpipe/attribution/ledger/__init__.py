"""The ledger: which process used a socket, and when, as the kernel recorded it.

- `kernel_ledger`: the ledger of the running kernel, safe from any thread (`fair_lock`).
  `event_reader` reads the BPF ring buffer, `socket_events` decodes it, `event_owners` identifies
  the processes, `privileged_calls` ingests for threads that may not.
- `ledger`: ingests events and answers lookups, without I/O; `known_socket`, `socket_index`,
  `socket_lookup`, `retention` and `invalidation` are its parts.
- `packet_senders`: who sends through packet sockets, which no socket event reports.
- `socket_snapshot`, `snapshot_merge`: the sockets that existed before the programs were attached.
- `socket_ledger`: what attribution needs of a ledger; opens the one of the running kernel.
- `flow_lookup`: looks flows up in a ledger, across network namespaces and by time span.
- `owner_processes`: from recorded owners to processes.
- `ledger_resolver`: the resolver that asks the ledger first, then /proc; `precedence` chooses.
"""
