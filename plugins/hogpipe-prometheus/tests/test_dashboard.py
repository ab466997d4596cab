"""The dashboard for Prometheus and the alert rules ask for what the sink exports.

packaging/make_dashboards.py writes the dashboard; a real Prometheus answers its queries.
"""

import json
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hogpipe import Record, Sink
from hogpipe.testing import RecordMaker

GRAFANA = Path(__file__).parents[3] / "packaging" / "grafana"
DASHBOARD = json.loads((GRAFANA / "hogpipe-prometheus.json").read_text())
RULES = (GRAFANA / "hogpipe-alerts.yml").read_text()
OpenSink = Callable[..., Awaitable[Sink]]
Promtool = Callable[..., None]
WithHealth = Callable[[list[Record]], list[Record]]


def queries() -> Iterator[tuple[str, str]]:
    """Yield the title of each panel with each query in it."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def groups() -> list[str]:
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    return variables["group"]["query"].split(",")  # type: ignore[no-any-return]


def expand(query: str, group: str) -> str:
    """Return a query as Grafana sends it, for all hosts."""
    values = {"instance": ".*", "group": group, "__rate_interval": "1m"}
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], query)


async def test_each_panel_has_data(
    prometheus: Any, opened: OpenSink, with_health: WithHealth
) -> None:
    sink, maker = await opened(), RecordMaker()
    for number in (1, 2, 3):
        await sink.write(with_health(maker.window(30)))
        await prometheus.wait_for("hogpipe_records_total", 29 * number)
    for title, query in queries():
        for group in groups():
            assert await prometheus.ask(expand(query, group)), f"{title} by {group}"


async def test_the_hosts_to_choose_from_are_those_that_are_scraped(
    prometheus: Any, opened: OpenSink, port: int
) -> None:
    sink = await opened()
    await sink.write(RecordMaker().window(3))
    (variable,) = (one for one in DASHBOARD["templating"]["list"] if one["name"] == "instance")
    metric, label = re.findall(r"label_values\((\w+), (\w+)\)", variable["query"])[0]
    await prometheus.wait_for(f"count({metric})", 1)
    found = await prometheus.get(f"/api/v1/label/{label}/values", **{"match[]": metric})
    assert found == [f"127.0.0.1:{port}"]


async def test_the_alerts_ask_for_metrics_that_are_exported(
    prometheus: Any, opened: OpenSink, with_health: WithHealth
) -> None:
    sink, maker = await opened(), RecordMaker()
    await sink.write(with_health(maker.window(30)))
    await prometheus.wait_for("hogpipe_records_total", 29)
    names = set(re.findall(r"hogpipe_\w+", RULES))
    assert len(names) > 5
    for name in names:
        assert await prometheus.ask(name), name


@pytest.mark.parametrize(
    "words", [("check", "hogpipe-alerts.yml"), ("test", "hogpipe-alerts-test.yml")]
)
def test_promtool_accepts_the_alerts_and_runs_their_tests(
    words: tuple[str, str], promtool: Promtool
) -> None:
    promtool(words[0], "rules", GRAFANA / words[1])


def test_each_alert_has_a_test() -> None:
    names = set(re.findall(r"alert: (\w+)", RULES))
    tested = (GRAFANA / "hogpipe-alerts-test.yml").read_text()
    assert {name for name in names if f"alertname: {name}\n" in tested} == names
