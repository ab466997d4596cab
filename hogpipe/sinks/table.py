"""PURE: a window of records as a table for a terminal.

In: records, the width of the terminal and its encoding. Out: lines that the encoding has, without
control characters, however hostile the names, and none wider than the terminal.

Lines
    The first has the time of the window (UTC) and its length, with drops if there were any. Then
    come a heading, the groups with most bytes, and last the total of all groups.

Numbers are IP bytes in decimal units: rates over the window, and of a replay the bytes themselves,
as the packets of a trace need not fill its windows. A replay's stats have no `self`.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from hogpipe.model import TrafficCounts
from hogpipe.records.schema import (
    EndpointInfo,
    Record,
    StatsRecord,
    TrafficRecord,
    Window,
    parse_io,
)
from hogpipe.sinks.table_layout import NUMBERS, Row, encode, fit, lay_out, replace_ellipsis
from hogpipe.text import printable

_OWNERS = ("PROGRAM", "PARENT", "UNIT", "CGROUP", "CONTAINER", "POD", "USER")
"""Columns that name an owner; traffic without one is named in the first of them."""
_OF_PROCESS = frozenset({"USER", "UNIT", "CONTAINER", "POD"})
"""Columns that a process determines, so that they may be left out beside its pid."""


def render_table(
    records: Sequence[Record], width: int, rows: int = 20, encoding: str = "utf-8"
) -> list[str]:
    """Return the lines of a window, with the `rows` groups that have most bytes.

    `width` is that of the terminal, in columns.
    """
    traffic = [record for record in records if record["type"] == "traffic"]
    stats = [record for record in records if record["type"] == "stats"]
    top = sorted(traffic, key=_count_bytes, reverse=True)[:rows]
    shows_bytes = bool(stats) and "self" not in stats[-1]
    seconds = None if shows_bytes or not records else _measure(records[-1]["window"])
    cells = [_describe(record, seconds, encoding) for record in top]
    _label_ownerless(cells, top)
    label = _label(len(traffic), hidden=len(traffic) - len(top))
    lines = [_describe_window(records[-1]["window"], stats)] if records else []
    lines += lay_out(cells, _sum_up(traffic, seconds), label, width, _find_optional(cells))
    return replace_ellipsis([fit(line.rstrip(), width).rstrip() for line in lines], encoding)


def format_rate(rate: float) -> str:
    """Return a rate of bytes as text: `0 B/s`, `1.5 kB/s`, `120 MB/s`."""
    return f"{format_size(rate)}/s"


def format_size(size: float) -> str:
    """Return a number of bytes as text: `0 B`, `1.5 kB`, `120 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            digits = 0 if unit == "B" or size >= 99.95 else 1
            return f"{size:.{digits}f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def format_microseconds(time: float) -> str:
    """Return a duration as text: `250 us`, `1.25 ms`, `40.1 ms`, `1.20 s`."""
    for unit in ("us", "ms"):
        if time < 999.5:
            digits = 0 if unit == "us" or time >= 99.95 else 1 if time >= 9.995 else 2
            return f"{time:.{digits}f} {unit}"
        time /= 1000
    return f"{time:.2f} s"


def format_share(part: float, whole: float) -> str:
    """Return a part of a whole: `0 %`, `<0.01 %`, `0.31 %`, `12 %`; empty without a whole."""
    if not whole:
        return ""
    percent = min(100 * part / whole, 100.0)
    if 0 < percent < 0.01:
        return "<0.01 %"
    digits = 0 if percent >= 9.995 or not percent else 2
    return f"{percent:.{digits}f} %"


def _count_bytes(record: TrafficRecord) -> int:
    io = record["network"]["io"]
    return io["transmit"]["bytes"] + io["receive"]["bytes"]


def _measure(window: Window) -> float:
    """Return the length of a window in seconds."""
    # Times are truncated to the millisecond: a short window may seem to have no length.
    return max(round(window["end_unix"] - window["start_unix"], 3), 0.001)


def _describe_window(window: Window, stats: Sequence[StatsRecord]) -> str:
    start = datetime.fromtimestamp(window["start_unix"], UTC)
    whole = start.strftime("%Y-%m-%d %H:%M:%S")
    milliseconds = f".{window['start'][-4:-1]}" if window["start"][-4:-1] != "000" else ""
    line = f"{whole}{milliseconds} UTC, {_measure(window):g} s"
    drops = [record["capture"]["dropped"] for record in stats]
    if dropped := sum(drop["kernel"] + drop["interface"] for drop in drops):
        line += f", {dropped} packet{'' if dropped == 1 else 's'} dropped before capture"
    return line


def _label(groups: int, *, hidden: int) -> str:
    label = "total" if groups < 2 else f"total of {groups}"
    return f"{label}, {hidden} not shown" if hidden else label


def _sum_up(traffic: Sequence[TrafficRecord], seconds: float | None) -> Row:
    total = TrafficCounts()
    for record in traffic:
        total.add_counts(parse_io(record["network"]["io"]))
    return _describe_counts(total, seconds)


def _describe_counts(counts: TrafficCounts, seconds: float | None) -> Row:
    sizes = {"TRANSMIT": counts.transmit_bytes, "RECEIVE": counts.receive_bytes}
    if seconds is None:
        return {name: format_size(size) for name, size in sizes.items()}
    return {name: format_rate(size / seconds) for name, size in sizes.items()}


def _label_ownerless(cells: Sequence[dict[str, str]], records: Sequence[TrafficRecord]) -> None:
    """Name traffic without an owner in the first column that has owners.

    Rows of flows and addresses alone stay as they are; the remainder always has its name.
    """
    known = [name for name in _OWNERS if any(name in row for row in cells)]
    column = known[0] if known else "PROGRAM"
    for row, record in zip(cells, records, strict=True):
        is_unattributed = record["attribution"].keys() == {"none"} and row.keys().isdisjoint(known)
        is_blank = not row.keys() - NUMBERS
        if "remainder" in record:
            row[column] = "(all others)"
        elif is_unattributed and (known or is_blank):
            row[column] = "(unattributed)"


def _find_optional(cells: Sequence[Row]) -> frozenset[str]:
    """Return the columns that may be left out, as the process beside them determines them."""
    return _OF_PROCESS if any("PID" in row for row in cells) else frozenset()


def _describe(record: TrafficRecord, seconds: float | None, encoding: str) -> dict[str, str]:
    cells = _describe_owner(record) | _describe_path(record)
    if "kernel" in record:
        cells["PROGRAM"] = f"(kernel: {record['kernel']['name']})"
    texts = {name: encode(printable(cell), encoding) for name, cell in cells.items()}
    return {**texts, **_describe_counts(parse_io(record["network"]["io"]), seconds)}


def _describe_owner(record: TrafficRecord) -> dict[str, str]:
    process = record.get("process", {})
    cells = {}
    if "name" in process:
        cells["PROGRAM"] = process["name"]
    if "pid" in process:
        cells["PID"] = str(process["pid"])
    elif "linux" in process:
        cells["CGROUP"] = process["linux"]["cgroup"]
    if "parent" in process and "pid" not in process:
        cells["PARENT"] = process["parent"]["command"]
    if "owner" in process:
        cells["USER"] = process["owner"]
    elif "user" in process:
        cells["USER"] = str(process["user"]["id"])
    if "systemd" in record and "CGROUP" not in cells:
        cells["UNIT"] = record["systemd"]["unit"]
    if "container" in record:
        cells["CONTAINER"] = record["container"].get("name") or record["container"]["id"][:12]
    if "k8s" in record:
        cells["POD"] = record["k8s"]["pod"].get("name") or record["k8s"]["pod"]["uid"]
    return cells


def _describe_path(record: TrafficRecord) -> dict[str, str]:
    network = record["network"]
    cells = {}
    if "interface" in network:
        cells["INTERFACE"] = network["interface"]["name"]
    if "transport" in network:
        cells["PROTO"] = network["transport"]
    if "server" in record:
        cells["PORT"] = str(record["server"]["port"])
    if "local" in network:
        cells["LOCAL"] = _format_endpoint(network["local"])
    peer = network.get("peer", {})
    if "network" in peer:
        cells["NETWORK"] = peer["network"]
    if "domain" in peer:
        cells["DOMAIN"] = peer["domain"]
    if "address" in peer:
        cells["REMOTE"] = _format_endpoint(peer)
    elif "type" in network:  # which addresses show
        cells["TYPE"] = network["type"]
    return cells


def _format_endpoint(endpoint: EndpointInfo) -> str:
    address = endpoint.get("address", "")
    if "port" not in endpoint:
        return address
    return f"[{address}]:{endpoint['port']}" if ":" in address else f"{address}:{endpoint['port']}"
