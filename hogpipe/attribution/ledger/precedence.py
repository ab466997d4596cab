"""Which source decides the owner of a flow where both know one: the ledger or /proc.

- An exact ledger entry decides while the socket is young and its owner has not forked. A socket
  that lasts may be open in another process than the recorded one: in a child of a daemon that
  connects before it forks, or in a process to which the descriptor was sent (SCM_RIGHTS). No event
  reports that. Then /proc decides, if it finds the socket: the holder wins over who connected.
- A port match decides for datagrams if the process that bound the port is alive or the socket was
  released.
- For an accepted connection /proc decides if it finds the connection itself, accepted or not yet: a
  process may have left its listening socket to another one. /proc also decides if the process that
  bound the port has exited and another one serves the port. Else the ledger decides, as it knows
  the time in which the packets passed.
- Where /proc decides and shows that the connection exists, but not yet which process holds it, or
  which of several processes that listen will accept it, the owner is provisional
  (`Resolution.may_be_refined`): a further lookup may find the holder. So it is if the connection is
  closed and the ledger has yet to record by which process.

Known limits: a connection that is passed on as a message (SCM_RIGHTS) stays with who had it until
the next comparison: at most one second in its first second, later up to ten. With `ebpf` it stays
until the end of its epoch, or for as long as its owner is confirmed, up to eight seconds. A server
that forks for each connection keeps it likewise if a lookup comes between accept() and close().
"""

import math
from collections.abc import Collection, Mapping

from msgspec.structs import replace

from hogpipe.attribution.ledger.flow_lookup import LedgerMatches
from hogpipe.attribution.ledger.owner_processes import LookupOwners, may_be_reused, reports_release
from hogpipe.attribution.resolver import Resolution
from hogpipe.model import UNATTRIBUTED, FlowKey, LedgerEntry, Quality
from hogpipe.protocols import DATAGRAMS, TCP


def is_conclusive(flow: FlowKey, entry: LedgerEntry, owners: LookupOwners) -> bool:
    """Return whether the ledger decides whatever /proc shows, so that /proc need not be read."""
    if entry.quality is Quality.EXACT:
        if _may_be_passed_on(entry, owners):
            return False
        return not entry.may_outlive_owner or owners.is_alive(entry.owner)
    return flow.protocol in DATAGRAMS and (entry.is_released or owners.is_alive(entry.owner))


def choose(
    flows: Collection[FlowKey],
    from_procfs: Mapping[FlowKey, Resolution],
    from_ledger: LedgerMatches,
    owners: LookupOwners,
) -> dict[FlowKey, Resolution]:
    """Return for each flow the resolution of the source that decides.

    A datagram flow without a socket that the ledger does not know either is left out: its owner may
    be recorded when its socket is released.
    """
    chosen = {}
    for flow in flows:
        entry, shown = from_ledger.entries.get(flow), from_procfs.get(flow)
        if entry is None:
            if shown is not None and not _is_unknown_datagram(flow, shown):
                chosen[flow] = shown
            continue
        is_refined = _may_be_refined(flow, shown, entry)
        if shown is not None and _procfs_decides(flow, shown, entry, owners):
            resolution = Resolution(
                shown.attribution,
                may_be_reused=may_be_reused(flow, entry),
                open_for=math.inf if reports_release(flow, entry) else shown.open_for,
            )
        else:
            resolution = owners.resolve(flow, entry)
        # The ledger knows the socket, so another lookup would find the same but for its holder.
        chosen[flow] = replace(resolution, is_final=not is_refined, may_be_refined=is_refined)
    return chosen


def _is_unknown_datagram(flow: FlowKey, shown: Resolution) -> bool:
    return flow.protocol in DATAGRAMS and shown.attribution == UNATTRIBUTED


def _may_be_passed_on(entry: LedgerEntry, owners: LookupOwners) -> bool:
    """Return whether a living owner may have passed its socket on to another process."""
    return entry.is_lasting or owners.has_forked(entry)


def is_held_by_owner(entry: LedgerEntry, chosen: Resolution) -> bool | None:
    """Return whether a lasting socket is the recorded owner's, now that /proc was read.

    None if that is not known: the socket is young, or its holder may be found yet.
    """
    process = chosen.attribution.process
    if not entry.is_lasting or chosen.may_be_refined or process is None:
        return None
    return (process.pid, process.start) == (entry.owner.pid, entry.owner.start)


def _may_be_refined(flow: FlowKey, shown: Resolution | None, entry: LedgerEntry) -> bool:
    """Return whether who holds, accepts or has closed a connection may be found yet."""
    if flow.protocol != TCP or entry.is_released:
        return False
    if shown is not None and shown.attribution.quality is Quality.EXACT:
        return False
    if entry.awaits_release or (shown is not None and shown.may_be_refined):
        return True
    if entry.quality is Quality.EXACT and not entry.is_lasting:
        return False
    return shown is not None and shown.attribution.user is not None


def _procfs_decides(
    flow: FlowKey, shown: Resolution, entry: LedgerEntry, owners: LookupOwners
) -> bool:
    if entry.is_released and flow.protocol in DATAGRAMS:
        return False  # the port is another socket's by now
    quality = shown.attribution.quality
    if shown.attribution.process is None or quality is Quality.INFERRED:
        return False
    if entry.quality is Quality.EXACT:
        is_inherited = entry.may_outlive_owner and not owners.is_alive(entry.owner)
        may_be_passed_on = is_inherited or _may_be_passed_on(entry, owners)
        return may_be_passed_on and quality is Quality.EXACT
    if quality is Quality.EXACT or shown.awaits_accept:
        return True
    return not owners.is_alive(entry.owner)
