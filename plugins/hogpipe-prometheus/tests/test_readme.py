"""The README's examples run as printed."""

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hogpipe_prometheus import PrometheusSettings

from hogpipe import Record, Sink, load_config
from hogpipe.testing import RecordMaker, check_key_table, find_code_blocks

README = (Path(__file__).parent.parent / "README.md").read_text()
OpenSink = Callable[..., Awaitable[Sink]]
Promtool = Callable[..., None]
WithHealth = Callable[[list[Record]], list[Record]]


def test_the_configuration_is_the_default(tmp_path: Path) -> None:
    (block,) = find_code_blocks(README, "toml")
    path = tmp_path / "config.toml"
    path.write_text(block)
    (choice,) = load_config(path).sinks
    assert choice.settings == PrometheusSettings(type="prometheus", name="prometheus")


def test_the_readme_has_every_key_with_its_default() -> None:
    check_key_table(README, PrometheusSettings)


def test_promtool_accepts_the_configuration(tmp_path: Path, promtool: Promtool) -> None:
    (config,) = find_code_blocks(README, "yaml")
    (tmp_path / "prometheus.yml").write_text(config)
    promtool("check", "config", tmp_path / "prometheus.yml")


async def test_the_queries_have_results(
    prometheus: Any, opened: OpenSink, with_health: WithHealth
) -> None:
    sink = await opened()
    maker = RecordMaker()
    names = {one.split("{")[0].strip() for one in re.findall(r"`(hogpipe_\w+)`", README)}
    await sink.write(with_health(maker.window(30)))
    await prometheus.wait_for("hogpipe_records_total", 29)
    await sink.write(with_health(maker.window(30)))
    await prometheus.wait_for("hogpipe_records_total", 58)
    for query in find_code_blocks(README, "promql"):
        assert await prometheus.ask(query), query
    for name in names:
        assert await prometheus.ask(name), name


@pytest.mark.parametrize("word", ["pid", "peer"])
def test_values_with_too_many_series_are_no_label(word: str) -> None:
    assert word not in str(PrometheusSettings.__annotations__["labels"])
