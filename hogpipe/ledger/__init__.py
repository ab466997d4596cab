"""The ledger: whose socket a flow was, as the kernel told it when the socket was used.

`events.py` reads what the BPF programs of `hogpipe.bpf` tell, `book.py` answers from it with what
`contract.py` defines. `sockets.py` says what an event makes of a socket. Sockets are kept by
`keeping.py` in `places.py`, and found there by `finding.py`, by when packets passed (`clocks.py`);
those that were there before come in by `seeding.py`. `answers.py` knows which answers may be others
now. `identities.py` adds when a process started, `kernel.py` joins all this to the running kernel
behind a `fair_lock.py`, and `cookies.py` knows network namespaces by the numbers that the kernel
gives them.
"""
