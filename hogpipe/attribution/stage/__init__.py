"""The attribution stage, on the event loop.

- `attributor`: takes flows in, runs the lookups, emits flows with their owners.
- `known_flows`: what of known flows passes, is looked up again, or ends.
- `flow_cache`: PURE: their attributions and lanes, validity and invalidation.
- `owner_watch`: the exits of owners; `rechecks`: PURE: which attributions are looked up again when.
- `pending`: PURE: the table of pending flows, by arrival and by due time.
- `pending_resolution`: PURE: what follows from a lookup for one pending flow.
- `batching`: PURE: when the next lookup may begin.
- `lookup`: runs one lookup at a time in the executor.
- `latency`: PURE: the time from the first packets of a flow to its first answer.
"""
