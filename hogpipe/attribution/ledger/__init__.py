"""The ledger: which process used a socket, and when, as the kernel recorded it.

- `kernel_ledger`: reads events from the BPF ring buffer; `socket_events` decodes them.
- `ledger`: ingests events and answers lookups; `known_socket`, `socket_index`, `socket_lookup`,
  `retention` and `invalidation` are its parts.
- `socket_snapshot`, `snapshot_merge`: the sockets that existed before the programs were attached.
- `ledger_access`, `ledger_resolver`, `precedence`: the resolver that asks the ledger first, then
  /proc, and chooses between the two.
"""
