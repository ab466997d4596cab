"""The `ebpf` source: the kernel counts at each socket, and knows whose that is.

`source.py` has the thread that reads the kernel's tables (`hogpipe.bpf.traffic`) once a window,
`sorting.py` and `joining.py` turn their entries into flows with their owners, `owners.py` finds the
processes that the kernel named, `noted.py` keeps what it said of the flows that /proc is asked
about, and `farewells.py` asks for the packets that pass beside all sockets.
"""
