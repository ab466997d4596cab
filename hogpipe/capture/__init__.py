"""[capture]: packets or kernel counters become flow batches, in an executor thread.

The order that data takes, for packets:

    pcap.py             libpcap handles: frames of an interface, as a `FrameBatch`; filters
    length_filter.py    PURE: the socket filter that compares claimed lengths with the frame's
    decode/             PURE: frames -> packets with their wire key (the five-tuple as on the wire)
    wire_table.py       PURE: wire keys -> slots of flows in the flow table (`hogpipe/flows/`)
      wire_interfaces.py    PURE: the interfaces that have wire keys: what makes flows of new ones
      orientation.py        PURE: which side of a packet is local, in which namespace
      vector_orientation.py PURE: the same, for many packets at once
      local_addresses.py    PURE: what is local, as one interface sees it
    batch_counter.py    packets of batches, counted in the flow table
    handoff.py          batches from the capture thread to the event loop, bounded

The sources (`source.py` has their protocol):

    live/               interfaces of this host, followed as they come and go
    savefile.py         a recorded file, as a source
      savefile_reader.py  reads the file in chunks, and applies the filter
      formats/            PURE: pcap and pcapng: bytes -> frames of several interfaces
    ebpf/               the kernel counts at sockets; no packet is copied to user space
    frame_tap.py        what a source shows its frames to, where packets are written
    dns/                DNS answers that pass, apart from what is counted: names of peers
    stop_signal.py      ends the wait of a live or ebpf source, from another thread

Constraints
    - Bytes are conserved. Each captured byte is in a flow or in a counter of `CaptureCounts` that
      says why not; a full queue merges batches and drops nothing.
    - One thread owns all capture handles: libpcap's breakloop is not available in pcapy-ng, and a
      handle must not be closed while another thread reads it.
    - Lengths are IP lengths: fast reading of an interface gives no original frame lengths, and the
      padding of short frames is not traffic.
    - No packet counts more bytes than its frame has behind the link header, whatever its IP header
      claims: the sum of bytes is at most the sum of the frames' lengths on the link.

Known limits
    - A captured GSO or GRO packet counts one header for several segments, as the interface shows
      it; the source `ebpf` counts each segment with its headers.
    - A BIG TCP packet that no link announced counts with the least length it can have, until the
      interface is read with original lengths (`length_floored`).
    - Packets of a container that was not known yet when they passed have no container's side: they
      count on the host's side, if it has one, or as not local.
"""
