"""The ledger: whose socket a flow was, as the kernel told it when the socket was used.

`events.py` reads what the BPF programs of `hogpipe.bpf` tell, `book.py` keeps it and answers with
what `contract.py` defines, `places.py` finds sockets, `identities.py` adds when a process started,
`kernel.py` joins these to the running kernel, and `cookies.py` knows network namespaces by the
numbers that the kernel gives them.
"""
