#!/usr/bin/env python3
"""Write the dashboards for Grafana: packaging/grafana/hogpipe-{prometheus,clickhouse}.json.

    python packaging/make_dashboards.py

A dashboard is rows of panels; a panel is a title, a unit, and queries with their legends. The one
for Prometheus shows what hogpipe-prometheus exports, the one for ClickHouse the tables of
docs/fleet.md.

Sources: the JSON model of dashboards in Grafana's documentation, and the macros of the data source
grafana-clickhouse-datasource.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "grafana"
_COLUMNS = 24
_SCHEMA_VERSION = 39  # that of Grafana 10.4

Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart (`timeseries`), a number (`stat`) or a `table`."""

    kind: str
    title: str
    unit: str
    queries: Mapping[str, str]
    """By legend."""
    width: int = 12
    is_stacked: bool = False
    limits: tuple[float, float] | None = None
    """The values from which on the number is yellow, and red."""
    text: str = ""
    """What the panel shows, where its title does not say it."""


@dataclass(frozen=True, slots=True)
class Dashboard:
    """Rows of panels, for one type of data source."""

    name: str
    title: str
    data_source: str
    variables: Sequence[Json]
    rows: Mapping[str, Sequence[Panel]]


# --- Prometheus: what hogpipe-prometheus exports

_HOSTS = 'instance=~"$instance"'


def _rate(metric: str, labels: str = "") -> str:
    matchers = f"{_HOSTS}, {labels}" if labels else _HOSTS
    return f"rate(hogpipe_{metric}{{{matchers}}}[$__rate_interval])"


def _latest(metric: str) -> str:
    return f"hogpipe_{metric}{{{_HOSTS}}}"


def _sum(metric: str, labels: str = "", by: str = "") -> str:
    return f"sum{by and f' by ({by})'} ({_rate(metric, labels)})"


_TRANSMIT, _RECEIVE = 'direction="transmit"', 'direction="receive"'
_UNATTRIBUTED = 'quality="none"'
_BY_QUALITY = "/ ignoring (quality) group_left ()"
_FAILED = "network_tcp_connections_failed_total"

_PROMETHEUS = Dashboard(
    "hogpipe-prometheus",
    "hogpipe: traffic of programs (Prometheus)",
    "prometheus",
    [
        {
            "name": "instance", "label": "Host", "type": "query", "multi": True, "includeAll": True,
            "allValue": ".*", "refresh": 2,
            "query": "label_values(hogpipe_window_end_timestamp_seconds, instance)",
        },
        {
            "name": "group", "label": "Group by", "type": "custom", "multi": False,
            "query": "program,unit,container,instance",
            "current": {"text": "program", "value": "program"},
        },
    ],
    {
        "Now": (
            Panel("stat", "Transmit", "bps",
                  {"": f"8 * {_sum('network_io_bytes_total', _TRANSMIT)}"}, 4),
            Panel("stat", "Receive", "bps",
                  {"": f"8 * {_sum('network_io_bytes_total', _RECEIVE)}"}, 4),
            Panel("stat", "Without a process", "percentunit",
                  {"": f"{_sum('attribution_bytes_total', _UNATTRIBUTED)}"
                       f" / {_sum('attribution_bytes_total')}"},
                  4, limits=(0.05, 0.2), text="Bytes that no process could be named for."),
            Panel("stat", "Dropped packets", "pps",
                  {"": _sum("capture_dropped_packets_total")}, 4, limits=(0.001, 10),
                  text="Packets that were lost before hogpipe read them."),
            Panel("stat", "Dropped records", "short",
                  {"": _sum("sink_dropped_records_total")}, 4, limits=(0.001, 1),
                  text="Records a second that a sink could not deliver, all sinks together."),
            Panel("stat", "Hosts", "short",
                  {"": f"count ({_latest('window_end_timestamp_seconds')})"}, 4),
        ),
        "Traffic": (
            Panel("timeseries", "Transmit by $group", "bps",
                  {"{{$group}}": "topk (10, 8 * "
                                 f"{_sum('network_io_bytes_total', _TRANSMIT, '$group')})"},
                  is_stacked=True),
            Panel("timeseries", "Receive by $group", "bps",
                  {"{{$group}}": "topk (10, 8 * "
                                 f"{_sum('network_io_bytes_total', _RECEIVE, '$group')})"},
                  is_stacked=True),
            Panel("timeseries", "Packets by $group", "pps",
                  {"{{$group}}": f"topk (10, {_sum('network_io_packets_total', '', '$group')})"}),
            Panel("timeseries", "Attribution", "percentunit",
                  {"{{quality}}": f"{_sum('attribution_bytes_total', '', 'quality')}"
                                  f" {_BY_QUALITY} {_sum('attribution_bytes_total')}"},
                  is_stacked=True, text="How owners were found: exact, listener, inferred, none."),
        ),
        "TCP": (
            Panel("timeseries", "Retransmitted share of packets", "percentunit",
                  {"{{$group}}": "topk (10, "
                                 f"{_sum('network_tcp_retransmits_total', '', '$group')} / "
                                 f"{_sum('network_io_packets_total', _TRANSMIT, '$group')})"}),
            Panel("timeseries", "Round-trip time", "s",
                  {"{{$group}}": f"{_sum('network_tcp_rtt_seconds_sum', '', '$group')} / "
                                 f"{_sum('network_tcp_rtt_seconds_count', '', '$group')}"}),
            Panel("timeseries", "Connections a second", "cps",
                  {
                      "opened": _sum("network_tcp_connections_opened_total"),
                      "accepted": _sum("network_tcp_connections_accepted_total"),
                      "closed": _sum("network_tcp_connections_closed_total"),
                  }),
            Panel("timeseries", "Failures a second, by cause", "cps",
                  {"{{cause}}": _sum(_FAILED, "", "cause")}, is_stacked=True),
        ),
        "hogpipe": (
            Panel("timeseries", "CPU, in cores", "percentunit",
                  {"{{instance}}": _rate("cpu_seconds_total")}, 8),
            Panel("timeseries", "Memory", "bytes",
                  {"{{instance}}": _latest("resident_memory_bytes")}, 8),
            Panel("timeseries", "Queued records", "short",
                  {"{{sink}}": f"sum by (sink) ({_latest('sink_queued_records')})"}, 8),
        ),
    },
)  # fmt: skip


# --- ClickHouse: the tables of docs/fleet.md

_WHERE = "$__timeFilter(time) AND host IN (${host:singlequote})"
_OVER_TIME = f"""\
SELECT $__timeInterval(time) AS bucket,
    if(${{group:raw}} IN
    (
        SELECT ${{group:raw}} FROM hogpipe.traffic FINAL WHERE {_WHERE}
        GROUP BY ${{group:raw}} ORDER BY sum(VALUE) DESC LIMIT 10
    ), ${{group:raw}}, 'all others') AS name,
    8 * sum(VALUE) / $__interval_s AS bits
FROM hogpipe.traffic FINAL
WHERE {_WHERE}
GROUP BY bucket, name
ORDER BY bucket, name"""  # noqa: S608 - of constants

_QUALITIES = f"""\
SELECT $__timeInterval(time) AS bucket,
    8 * sum(exact) / $__interval_s AS exact_bits,
    8 * sum(listener) / $__interval_s AS listener_bits,
    8 * sum(inferred) / $__interval_s AS inferred_bits,
    8 * sum(unattributed) / $__interval_s AS unattributed_bits
FROM hogpipe.traffic FINAL
WHERE {_WHERE}
GROUP BY bucket
ORDER BY bucket"""  # noqa: S608 - of constants

_TOTALS = f"""\
SELECT ${{group:raw}} AS name, sum(transmit_bytes) AS transmit, sum(receive_bytes) AS receive,
    uniqExact(host) AS hosts
FROM hogpipe.traffic FINAL
WHERE {_WHERE}
GROUP BY name
ORDER BY transmit + receive DESC, name
LIMIT 100"""  # noqa: S608 - of constants

_MISSING = f"""\
SELECT host, run, max(sequence) - min(sequence) + 1 - uniqExact(sequence) AS missing
FROM
(
    SELECT host, run, sequence FROM hogpipe.traffic FINAL WHERE {_WHERE}
    UNION ALL
    SELECT host, run, sequence FROM hogpipe.stats FINAL WHERE {_WHERE}
)
GROUP BY host, run
HAVING missing > 0
ORDER BY missing DESC, host, run"""  # noqa: S608 - of constants

_SECONDS = "dateDiff('second', $__fromTime, $__toTime)"


def _number(value: str, table: str = "traffic") -> str:
    return f"SELECT {value} AS value FROM hogpipe.{table} FINAL WHERE {_WHERE}"  # noqa: S608


_CLICKHOUSE = Dashboard(
    "hogpipe-clickhouse",
    "hogpipe: traffic of a fleet (ClickHouse)",
    "grafana-clickhouse-datasource",
    [
        {
            "name": "host", "label": "Host", "type": "query", "multi": True, "includeAll": True,
            "refresh": 2,
            "query": "SELECT DISTINCT host FROM hogpipe.traffic"
                     " WHERE time > now() - INTERVAL 1 DAY ORDER BY host",
        },
        {
            "name": "group", "label": "Group by", "type": "custom", "multi": False,
            "query": "program,unit,container,pod,owner,host,peer",
            "current": {"text": "program", "value": "program"},
        },
    ],
    {
        "In this time": (
            Panel("stat", "Transmit, mean", "bps",
                  {"": _number(f"8 * sum(transmit_bytes) / {_SECONDS}")}, 4),
            Panel("stat", "Receive, mean", "bps",
                  {"": _number(f"8 * sum(receive_bytes) / {_SECONDS}")}, 4),
            Panel("stat", "Without a process", "percentunit",
                  {"": _number("sum(unattributed) / sum(transmit_bytes + receive_bytes)")}, 4,
                  limits=(0.05, 0.2),
                  text="Bytes that no process could be named for."),
            Panel("stat", "Dropped packets", "short",
                  {"": _number("sum(dropped)", "stats")}, 4, limits=(1, 1000),
                  text="Packets that were lost before hogpipe read them."),
            Panel("stat", "Hosts", "short", {"": _number("uniqExact(host)", "stats")}, 4),
            Panel("stat", "Programs", "short", {"": _number("uniqExact(program)")}, 4),
        ),
        "Traffic": (
            Panel("timeseries", "Transmit by ${group}", "bps",
                  {"": _OVER_TIME.replace("VALUE", "transmit_bytes")}, is_stacked=True),
            Panel("timeseries", "Receive by ${group}", "bps",
                  {"": _OVER_TIME.replace("VALUE", "receive_bytes")}, is_stacked=True),
            Panel("timeseries", "Attribution", "bps", {"": _QUALITIES}, is_stacked=True,
                  text="How owners were found."),
            Panel("table", "Totals by ${group}", "bytes", {"": _TOTALS}),
        ),
        "Losses": (
            Panel("table", "Records that did not arrive", "short", {"": _MISSING}, 24,
                  text="Gaps in the sequence of a run; what was coalesced is one, too."),
        ),
    },
)  # fmt: skip

DASHBOARDS = (_PROMETHEUS, _CLICKHOUSE)


def make_dashboard(dashboard: Dashboard) -> str:
    """Return the JSON that Grafana imports; it asks for the data source."""
    source = {"type": dashboard.data_source, "uid": "${datasource}"}
    model = {
        "title": dashboard.title,
        "uid": dashboard.name,
        "tags": ["hogpipe", "network"],
        "schemaVersion": _SCHEMA_VERSION,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource",
                 "query": dashboard.data_source},
                *(one if one["type"] == "custom" else {**one, "datasource": source}
                  for one in dashboard.variables),
            ]
        },
        "panels": list(_place(dashboard, source)),
    }  # fmt: skip
    return json.dumps(model, indent=2, ensure_ascii=False) + "\n"


def _place(dashboard: Dashboard, source: Json) -> Iterator[Json]:
    """Yield the panels, from left to right and from top to bottom."""
    number, top = 0, 0
    for title, panels in dashboard.rows.items():
        number += 1
        place = {"x": 0, "y": top, "w": _COLUMNS, "h": 1}
        yield {"id": number, "type": "row", "title": title, "gridPos": place, "panels": []}
        top, left, height = top + 1, 0, 0
        for panel in panels:
            if left + panel.width > _COLUMNS:
                top, left = top + height, 0
            number, height = number + 1, 4 if panel.kind == "stat" else 8
            place = {"x": left, "y": top, "w": panel.width, "h": height}
            yield {"id": number, "gridPos": place, **_describe(panel, source)}
            left += panel.width
        top += height


def _describe(panel: Panel, source: Json) -> Json:
    defaults: dict[str, object] = {"unit": panel.unit, "min": 0}
    if panel.is_stacked:
        defaults["custom"] = {"stacking": {"mode": "normal"}, "fillOpacity": 60, "lineWidth": 1}
    if panel.limits is not None:
        steps = zip(("green", "yellow", "red"), (None, *panel.limits), strict=True)
        listed = [{"color": color, "value": value} for color, value in steps]
        defaults["thresholds"] = {"mode": "absolute", "steps": listed}
    return {
        "type": panel.kind,
        "title": panel.title,
        **({"description": panel.text} if panel.text else {}),
        "datasource": source,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel),
        "targets": [
            _target(panel, source, chr(ord("A") + place), legend, query)
            for place, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def _options(panel: Panel) -> Json:
    if panel.kind == "timeseries":
        return {"legend": {"displayMode": "list"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    return {"reduceOptions": {"calcs": ["lastNotNull"]}} if panel.kind == "stat" else {}


def _target(panel: Panel, source: Json, letter: str, legend: str, query: str) -> Json:
    if source["type"] == "prometheus":
        return {"refId": letter, "datasource": source, "expr": query, "legendFormat": legend}
    is_chart = panel.kind == "timeseries"
    return {
        "refId": letter,
        "datasource": source,
        "editorType": "sql",
        "format": 0 if is_chart else 1,
        "queryType": "timeseries" if is_chart else "table",
        "rawSql": query,
    }


def main() -> None:
    """Write the files."""
    FOLDER.mkdir(exist_ok=True)
    for dashboard in DASHBOARDS:
        (FOLDER / f"{dashboard.name}.json").write_text(make_dashboard(dashboard))


if __name__ == "__main__":
    main()
