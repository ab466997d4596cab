"""Live capture: interfaces of this host, their handles, and the containers behind them.

    live_source.py         the thread's loop: wait, follow links, read, offer a batch, rest
    link_follower.py       opens and closes handles as links come, go and change
      link_selection.py      PURE: which links `capture.interfaces` selects
      link_topology.py       PURE: which links are stacked, which containers a link leads to
      interface_views.py     how each selected link is to be captured
        link_addresses.py      PURE: which of the host's addresses are local to a link
        container_netns.py     namespaces and addresses of the containers behind a link
      open_handles.py        opens a handle with a ring
        ring_budget.py         PURE: the size of each ring within a bound for all
    pacing.py              PURE: how long the loop rests, by the fill and size of the rings
    health_reader.py       the health of connections beside the packets
      health_origins.py      from BPF programs, or from sockets that the kernel destroys
    interface_capture.py   reads one interface; polls and reads all of them

Constraints
    - A packet counts once, however many links it passes: "auto" selects one link of each stack.
    - An idle interface must not delay a stop: handles never block, one poll waits for all.
    - Opening a handle takes the kernel some 25 ms. The other interfaces are read in between, before
      their rings overflow.
    - Each ring is memory that cannot be swapped out, and a host may have hundreds of links.

Known limits
    - The kernel reports neither new addresses in containers nor processes that enter a namespace:
      both are read periodically, and when packets pass between unknown endpoints.
    - A macvlan or ipvlan inside a container is not visible from the host's namespace.
"""
