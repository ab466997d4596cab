"""The BPF object and its loader: what the kernel reports about sockets, and counts at them.

Modules
-------
- `hogpipe.bpf.c` and its headers: the programs; `hogpipe.bpf.o` is compiled from them
  (packaging/build_bpf.py) and part of the repository.
- `programs`: attaches one of the sets of programs, with maps of the sizes asked for.
- `loader`: loads and attaches; `obstacles`: why that may fail, and the remedy.
- `libbpf`: the functions of the distribution's libbpf that are called, over ctypes.
- `shapes`: the structs, enums and maps that C and Python share; `btf` reads those of the object.
- `maps`: losses and arrays, read through their file descriptors; `ring_buffer`: events likewise.
- `process_events`: which processes use a socket for the first time.
- `packet_hooks`: attaches a program to interfaces, as they come and go; `sender_map`: the senders
  of packet and raw sockets that the ledger's recorded there.
- `traffic_maps`, `traffic_rows`: what the traffic and payload programs counted; `connection_maps`,
  `health_rows`: connections and their health, also of the programs for health alone.

The life of a packet that the traffic programs count
----------------------------------------------------
1. A process creates, binds, connects or sends from a socket. A hook of control groups runs in that
   process (`owner_*`, traffic_owners.bpf.h) and records it as the owner in the socket's storage.
   The first time in ten seconds that a process does so, an event with its pid goes to a ring buffer
   (processes.bpf.h); Python reads /proc/PID at once, while the process lives.
2. An established TCP connection (`owner_sockops`, traffic_connections.bpf.h) gets a copy of its
   listening socket's storage, and is marked as owned by the listener.
3. The packet reaches its socket, or leaves it: `count_ingress` or `count_egress`
   (traffic_count.bpf.h) finds the row of its flow in the current epoch, taking the next free one if
   there is none, and adds the packet to the row's counters. A new row copies the owner. If every
   row is taken, the packet is added to the row of its process.
4. The process closes the socket: `owner_release` records it as the owner if only the listener was
   known, and marks the row as released.
5. Python begins another epoch (`TrafficMaps.begin_epoch`): programs fill the other buffer from then
   on. It copies the rows of the epoch that ended, and aggregates them (hogpipe.capture.ebpf).

The life of a socket that the ledger's programs report
------------------------------------------------------
The same hooks (`ledger_*`, ledger.bpf.h) put an event into the ring buffer for each socket that is
bound, listens, connects, is accepted, first sends, or is released. Python decodes the events
(hogpipe.attribution.ledger.socket_events). New processes are reported as above.

Packets that pass no socket hook
--------------------------------
What is written to a packet socket passes the hook of its interface (packet_sockets.bpf.h): the
traffic program there counts it in a row as above, the ledger's records its sender in a map.
"""

from pathlib import Path

_OBJECT = Path(__file__).with_name("hogpipe.bpf.o")


def object_path() -> Path:
    """Return where the compiled object is."""
    return _OBJECT
