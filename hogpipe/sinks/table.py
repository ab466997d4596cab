"""PURE: a window of records as a table for a terminal.

In: records, and the width of the terminal. Out: text without control characters, however hostile
the names, and without a line wider than the terminal. Rates are IP bytes a second over the window
of each record, in decimal units.
"""

from collections.abc import Iterable, Sequence
from unicodedata import combining, east_asian_width

from hogpipe.records.schema import EndpointInfo, Record, StatsRecord, TrafficRecord, Window
from hogpipe.text import printable

_TEXT_COLUMNS = (
    "PID", "USER", "PROGRAM", "CONTAINER", "CGROUP", "INTERFACE", "TYPE", "TRANSPORT", "LOCAL",
    "REMOTE",
)  # fmt: skip
_RIGHT = frozenset({"PID", "SENT", "RECEIVED"})
_GAP = "  "
_MIN_WIDTH = 4


def render_table(records: Sequence[Record], width: int, rows: int = 20) -> str:
    """Return the `rows` groups with most bytes, one a line, and a last line with the totals.

    `width` is that of the terminal, in columns. A column without a value in any group is left out.
    """
    traffic = [record for record in records if record["type"] == "traffic"]
    stats = [record for record in records if record["type"] == "stats"]
    top = sorted(traffic, key=_total_bytes, reverse=True)[:rows]
    lines = _lay_out([_cells(record) for record in top], width) if top else []
    lines.append(_sum_up(traffic, stats, hidden=len(traffic) - len(top)))
    return "".join(f"{fit(line, width).rstrip()}\n" for line in lines)


def format_rate(rate: float) -> str:
    """Return a rate of bytes as text: `0 B/s`, `1.5 kB/s`, `120 MB/s`."""
    for unit in ("B", "kB", "MB", "GB"):
        if rate < 999.5:
            digits = 0 if unit == "B" or rate >= 99.95 else 1
            return f"{rate:.{digits}f} {unit}/s"
        rate /= 1000
    return f"{rate:.1f} TB/s"


def fit(text: str, width: int) -> str:
    """Return `text` in exactly `width` columns: padded, or cut with an ellipsis."""
    missing = width - _width(text)
    if missing >= 0:
        return text + " " * missing
    kept, room = "", width - 1
    for char in text:
        room -= _width(char)
        if room < 0:
            break
        kept += char
    cut = f"{kept}…"
    return cut + " " * (width - _width(cut))


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(
        0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text
    )


def _total_bytes(record: TrafficRecord) -> int:
    io = record["network"]["io"]
    return io["transmit"]["bytes"] + io["receive"]["bytes"]


def _rates(record: TrafficRecord) -> tuple[float, float]:
    seconds, io = _seconds(record["window"]), record["network"]["io"]
    return io["transmit"]["bytes"] / seconds, io["receive"]["bytes"] / seconds


def _seconds(window: Window) -> float:
    # Times are truncated to the millisecond: a short window may seem to have no length.
    return max(round(window["end_unix"] - window["start_unix"], 3), 0.001)


def _cells(record: TrafficRecord) -> dict[str, str]:
    process, network = record.get("process", {}), record["network"]
    transmit, receive = _rates(record)
    cells = {"PROGRAM": _program(record), "SENT": format_rate(transmit)}
    cells["RECEIVED"] = format_rate(receive)
    if "pid" in process:
        cells["PID"] = str(process["pid"])
    elif "systemd" in record:
        cells["CGROUP"] = record["systemd"]["unit"]
    elif "linux" in process:
        cells["CGROUP"] = process["linux"]["cgroup"]
    if "owner" in process:
        cells["USER"] = process["owner"]
    elif "user" in process:
        cells["USER"] = str(process["user"]["id"])
    if "container" in record:
        cells["CONTAINER"] = record["container"]["id"][:12]
    if "interface" in network:
        cells["INTERFACE"] = network["interface"]["name"]
    cells["TYPE"] = network.get("type", "")
    cells["TRANSPORT"] = network.get("transport", "")
    cells["LOCAL"] = _endpoint(network.get("local", {}))
    cells["REMOTE"] = _endpoint(network.get("peer", {}))
    return {name: printable(cell) for name, cell in cells.items()}


def _program(record: TrafficRecord) -> str:
    process = record.get("process", {})
    if "remainder" in record:
        return "(all others)"
    if "name" in process:
        return process["name"]
    return "(unattributed)" if record["attribution"].keys() == {"none"} else ""


def _endpoint(endpoint: EndpointInfo) -> str:
    address = endpoint.get("address", "")
    if "port" not in endpoint:
        return address
    return f"[{address}]:{endpoint['port']}" if ":" in address else f"{address}:{endpoint['port']}"


def _lay_out(rows: Sequence[dict[str, str]], width: int) -> list[str]:
    names = [name for name in _TEXT_COLUMNS if any(row.get(name) for row in rows)]
    names += ["SENT", "RECEIVED"]
    table = [{name: name for name in names}, *rows]
    widths = {name: max(_width(row.get(name, "")) for row in table) for name in names}
    _shrink(widths, width - len(_GAP) * (len(names) - 1))
    return [_GAP.join(_align(row.get(name, ""), name, widths[name]) for name in names)
            for row in table]  # fmt: skip


def _shrink(widths: dict[str, int], room: int) -> None:
    """Narrow the widest text columns until all fit or have the minimum width."""
    excess = sum(widths.values()) - room
    while excess > 0:
        widest = max(widths.keys() - {"SENT", "RECEIVED"}, key=widths.__getitem__, default=None)
        if widest is None or widths[widest] <= _MIN_WIDTH:
            return
        widths[widest] -= 1
        excess -= 1


def _align(cell: str, name: str, width: int) -> str:
    fitted = fit(cell, width)
    return fitted.strip().rjust(width) if name in _RIGHT else fitted


def _sum_up(traffic: Iterable[TrafficRecord], stats: Iterable[StatsRecord], *, hidden: int) -> str:
    rates = [_rates(record) for record in traffic]
    transmit, receive = (sum(rate) for rate in zip(*rates, strict=True)) if rates else (0.0, 0.0)
    line = f"sent {format_rate(transmit)}, received {format_rate(receive)}"
    if hidden:
        line += f", {hidden} more not shown"
    drops = [record["capture"]["dropped"] for record in stats]
    if dropped := sum(drop["kernel"] + drop["interface"] for drop in drops):
        line += f", {dropped} packets dropped before capture"
    return line
