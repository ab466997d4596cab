"""What the README shows works as it stands."""

import json
import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hogpipe_prometheus import PrometheusSettings, PrometheusSink

from hogpipe import load_config
from hogpipe.testing import RecordMaker

README = (Path(__file__).parent.parent / "README.md").read_text()
CONFIGURE = README[README.index("## Configure") : README.index("## At the other end")]
OpenSink = Callable[..., Awaitable[PrometheusSink]]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def promtool(*arguments: str) -> None:
    program = shutil.which("promtool")
    assert program, "promtool is not there: apt-get install --no-install-recommends prometheus"
    check = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stdout + check.stderr


def test_the_configuration_is_the_default(tmp_path: Path) -> None:
    (block,) = blocks("toml")
    path = tmp_path / "config.toml"
    path.write_text(block)
    (choice,) = load_config(path).sinks
    assert choice.settings == PrometheusSettings(type="prometheus", name="prometheus")


def test_the_table_names_every_key_and_its_default() -> None:
    table = dict(re.findall(r"^\| `(\w+)` \| `?([^`|]+?)`? \| \w", CONFIGURE, re.MULTILINE))
    assert set(table) == set(PrometheusSettings.__annotations__)
    settings = msgspec.to_builtins(PrometheusSettings(type="prometheus"))
    assert {key: json.loads(value) for key, value in table.items()} == {
        key: list(settings[key]) if key == "labels" else settings[key] for key in table
    }


def test_promtool_accepts_what_is_written_for_prometheus(tmp_path: Path) -> None:
    config, rules = blocks("yaml")
    (tmp_path / "prometheus.yml").write_text(config)
    (tmp_path / "rules.yml").write_text(rules)
    promtool("check", "config", str(tmp_path / "prometheus.yml"))
    promtool("check", "rules", str(tmp_path / "rules.yml"))


async def test_the_questions_have_answers(prometheus: Any, opened: OpenSink) -> None:
    sink = await opened()
    maker = RecordMaker()
    names = {one.split("{")[0].strip() for one in re.findall(r"`(hogpipe_\w+)`", README)}
    await sink.write(maker.window(30))
    await prometheus.wait_for("hogpipe_records_total", 29)
    await sink.write(maker.window(30))
    await prometheus.wait_for("hogpipe_records_total", 58)
    for query in blocks("promql"):
        assert await prometheus.ask(query), query
    for name in names:
        assert await prometheus.ask(name), name
    for expression in re.findall(r"expr: (.*)", README):
        await prometheus.ask(expression)
        for name in re.findall(r"hogpipe_\w+", expression):
            assert await prometheus.ask(name), name


@pytest.mark.parametrize("word", ["pid", "peer"])
def test_what_would_make_too_many_series_is_no_label(word: str) -> None:
    assert word not in str(PrometheusSettings.__annotations__["labels"])
