"""PURE: a measurement as a table for a terminal, with what it lacks.

In: traffic, and the width. Out: lines without control characters.
"""

from collections.abc import Iterator

from hogpipe.measuring.results import Peer, Totals, Traffic
from hogpipe.sinks.table import format_size
from hogpipe.sinks.table_layout import Row, lay_out

_MAX_PEERS = 20


def render_traffic(traffic: Traffic, width: int) -> list[str]:
    """Return a row for each of the peers with the most bytes, the totals, and notes."""
    peers, number = traffic.peers[:_MAX_PEERS], len(traffic.peers)
    label = "total" if number < 2 else f"total of {number}"
    label += f", {number - _MAX_PEERS} not shown" if number > _MAX_PEERS else ""
    table = lay_out(
        [_describe(peer) for peer in peers], _describe_totals(traffic.totals), label, width, ()
    )
    lines = table if peers else table[-1:]
    return [*(line.rstrip() for line in lines), *_list_notes(traffic)]


def _describe(peer: Peer) -> Row:
    row = {"PROTO": peer.protocol, "REMOTE": peer.endpoint or "(others)"}
    if peer.local_port is not None:
        row["LOCAL"] = f":{peer.local_port}"
    return row | _describe_totals(peer.totals)


def _describe_totals(totals: Totals) -> dict[str, str]:
    return {
        "TRANSMIT": format_size(totals.transmit_bytes),
        "RECEIVE": format_size(totals.receive_bytes),
    }


def _list_notes(traffic: Traffic) -> Iterator[str]:
    totals, losses = traffic.totals, traffic.losses
    yield f"{traffic.seconds:.2f} s, counted by {traffic.source}" + (
        ", payload unknown"
        if totals.payload_bytes is None
        else f", payload {totals.transmit_payload_bytes:,} B transmit, "
        f"{totals.receive_payload_bytes:,} B receive"
    )
    if traffic.unattributed_bytes:
        size = format_size(traffic.unattributed_bytes)
        yield f"{size} of this host have no known process, and may be missing here"
    if losses.packets or losses.sockets or losses.forks:
        yield (
            f"incomplete: the kernel lost {losses.packets} packets, {losses.sockets} owners of "
            f"sockets and {losses.forks} reports of forks"
        )
    if not traffic.follows_children:
        yield "the kernel reports no forks here: children that lived shortly may be missing"
