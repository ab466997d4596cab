"""A recording sink in a real run, and settings read as from a file."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta

from hogpipe import (
    ConfigurationError,
    DeliveryError,
    Sink,
    SinkSettings,
    SinkType,
    load_config,
    stream_records,
)
from hogpipe.sinks.builtin import hogpipe_sinks
from hogpipe.testing import RecordingSink, RecordMaker, make_sink, read_settings

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "config.toml"
BUILT_IN = {sink_type.name: sink_type for sink_type in hogpipe_sinks()}


async def test_it_records_a_run_beside_other_sinks() -> None:
    sink, other = RecordingSink([DeliveryError("once")]), RecordingSink()
    settings = msgspec.structs.replace(
        load_config(GOLDEN, ["sinks=[]"]),
        sinks=(sink.choice(name="mine", retry_initial=0.001), other.choice()),
    )
    async with stream_records(settings) as records:
        streamed = [record async for record in records]
    assert sink.records == other.records == streamed
    assert [len(window) for window in sink.windows] == [3, 4]
    assert sink.calls == ["open", "write", "write", "write", "close"]
    assert other.calls == ["open", "write", "write", "close"]


async def test_it_raises_its_failures_and_then_records() -> None:
    sink = RecordingSink([OSError("full")])
    window = RecordMaker().window()
    with pytest.raises(OSError, match="full"):
        await sink.write(window)
    await sink.reopen()
    await sink.write(window)
    assert sink.windows == [window]
    assert sink.calls == ["write", "reopen", "write"]


class _Settings(SinkSettings, frozen=True, kw_only=True):
    port: Annotated[int, Meta(ge=1)]
    token: str = ""
    path: Path = Path("x")


def _no_sink(_settings: _Settings) -> Sink:
    raise AssertionError


TYPE = SinkType("mine", _Settings, _no_sink)


def test_settings_are_read_as_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("secret\n")
    monkeypatch.setenv("PORT", "4222")
    monkeypatch.chdir(tmp_path)
    settings = read_settings(
        TYPE, {"port": {"env": "PORT"}, "token": {"file": "token"}, "path": tmp_path / "y"}
    )
    assert (settings.type, settings.port, settings.token) == ("mine", 4222, "secret")
    assert settings.path == tmp_path / "y"
    assert read_settings(TYPE, {"port": 1, "path": "z"}).path == tmp_path / "z"


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({}, "configuration: sinks[0].port: required"),
        ({"port": 0}, "configuration: sinks[0].port: must be at least 1"),
        ({"prot": 1, "port": 1}, 'configuration: sinks[0].prot: unknown key; did you mean "port"?'),
        (
            {"port": 1, "token": {"env": "NO_SUCH"}},
            'configuration: sinks[0].token: environment variable "NO_SUCH" is not set',
        ),
    ],
)
def test_problems_of_settings_are_reported_as_from_a_file(
    keys: dict[str, object], problem: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_settings(TYPE, keys)
    assert caught.value.problems == (problem,)


def test_a_sink_is_made_as_for_a_run() -> None:
    made: list[_Settings] = []

    def create(settings: _Settings) -> Sink:
        made.append(settings)
        return RecordingSink()

    assert isinstance(make_sink(replace(TYPE, create=create), {"port": 7}), RecordingSink)
    assert made[0].port == 7
