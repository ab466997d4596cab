"""The `ebpf` source: the kernel counts at each socket and records its owner.

- `ebpf_source`: the thread that reads the kernel's maps (`linux.bpf.traffic_maps`) once a window.
- `row_aggregation`, `row_joins`: map rows to owned flows.
- `process_owners`, `row_owners`: the processes that rows name.
- `flow_sockets`: the flows that attribution still resolves, offered to it as a ledger.
- `time_wait`: packets of closed connections, which pass no hook.
"""
