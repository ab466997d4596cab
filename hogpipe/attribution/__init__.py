"""Attribution: which process transmits and receives the bytes of each flow.

The path of a flow
------------------
1. `stage.attributor` takes the flows of a batch from the capture. First it drains `stale_flows`:
   the flows whose cached owner the ledger has invalidated.
2. `stage.flow_cache`: a known flow is emitted with its owner at once. That is one dict lookup.
3. `stage.pending`, `stage.pending_resolution`: an unknown flow is pending, and its bytes add up.
4. `stage.batching`, `stage.lookup`: when the interval and the CPU budget allow it, all flows that
   are due are looked up in one call, in the lookup thread.
5. `resolver`: the seam. `Resolver.resolve` returns a `Resolution` for each flow.
6. `ledger.ledger_resolver` asks the ledger, which records socket events of the kernel as they
   happen (`ledger.kernel_ledger`), and what it does not know for certain:
7. `procfs.procfs_resolver` reads the socket tables and the fds of processes. `ledger.precedence`
   chooses between the two.
8. The attributor emits the flow, caches its owner, or defers the flow to another lookup. After
   `hold` seconds a flow is emitted with what is known of it.

Without a ledger, step 5 leads to step 7. Where packets are captured live, `translation_resolver`
stands between steps 5 and 6: it recognises flows that the host or a container translates (NAT), of
which `tracked_connections` asks the kernel.

Threads: the stage runs on the event loop; the resolvers in the lookup thread, but for `recall` and
`infer`; the kernel ledger ingests events in a thread of its own. `StaleFlows` and the ledger are
safe from any thread.

`budget`: PURE: the CPU budget of all lookups, and that of reading containers' tables.

Packages: `stage`, `procfs` and `ledger` have maps of their own.
"""
