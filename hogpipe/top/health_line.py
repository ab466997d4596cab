"""PURE: the health of one row's TCP connections, as a line below the table.

In: a row, and what is asked for. Out: a line, the most important first, with what is known and as
much of it as fits.
"""

from collections.abc import Iterator

from hogpipe.model import TcpHealth
from hogpipe.top.row_groups import Query, Row, name_owner
from hogpipe.top.row_table import show_retransmits, show_rtt
from hogpipe.top.screen_text import Line, Look, Role, crop, join_items
from hogpipe.top.screen_units import format_number


def make_health_line(row: Row, query: Query, look: Look, width: int) -> Line:
    """Return the health of a row: of the last window, or in total if totals are shown."""
    name = look.clean(row.texts[-1] if row.texts else name_owner(row.owner))
    if row.health is None:
        text = f"{name}: no TCP connection" if query.totals else f"{name}: no TCP in this window"
        return crop([(text, Role.DIM)], width, look)
    items: list[Line] = [[(f"{name}:", Role.STRONG)]]
    items += _list_items(row, row.health, query, look)
    return join_items(items, width)


def _list_items(row: Row, health: TcpHealth, query: Query, look: Look) -> Iterator[Line]:
    seconds, unit = (1.0, "") if query.totals else (row.health_seconds, "/s")

    def count(number: int) -> str:
        return f"{format_number(number / seconds)}{unit}"

    if rtt := show_rtt(row):
        yield [("rtt ", Role.DIM), (rtt, Role.TEXT)]
    share = show_retransmits(row)
    yield [
        ("retransmits ", Role.DIM),
        (count(health.retransmits), Role.WARNING if health.retransmits else Role.TEXT),
        (f" ({share})" if share and health.retransmits else "", Role.DIM),
    ]
    if health.failed:
        parts = ", ".join(
            f"{cause.replace('_', ' ')} {count(number)}"
            for cause, number in health.failures.items()
            if number
        )
        yield [("failed ", Role.DIM), (parts, Role.WARNING)]
    yield [("conns ", Role.DIM), (count(health.opened + health.accepted), Role.TEXT)]
    if rtt:
        yield [("least rtt ", Role.DIM), (show_rtt(row, least=True), Role.TEXT)]
    yield [
        ("opened ", Role.DIM),
        (count(health.opened), Role.TEXT),
        ("  accepted ", Role.DIM),
        (count(health.accepted), Role.TEXT),
        ("  closed ", Role.DIM),
        (count(health.closed), Role.TEXT),
    ]
    size = look.size if query.totals else look.speed
    yield [
        ("payload ", Role.DIM),
        (size(health.transmit_payload_bytes / seconds), Role.TEXT),
        (" / ", Role.DIM),
        (size(health.receive_payload_bytes / seconds), Role.TEXT),
    ]
