"""What a run takes over of a changed configuration, and what is named as needing a restart."""

from pathlib import Path

import pytest
from support.running import write_config

from hogpipe.config import Settings, load_config
from hogpipe.config.changes import Change, compare_settings

PLUGIN = """
from hogpipe import SinkSettings, SinkType, hookimpl

class Here(SinkSettings, frozen=True, kw_only=True):
    words: tuple[str, ...] = ()

@hookimpl
def hogpipe_sinks():
    return [SinkType("here", Here, lambda settings: None)]
"""
PRESENT = """
[capture]
interfaces = ["lo"]
[aggregation]
interval = 1
[plugins]
paths = ["here.py"]
[[sinks]]
type = "stdout"
[[sinks]]
type = "here"
words = ["a"]
"""


@pytest.fixture
def present(tmp_path: Path) -> Settings:
    (tmp_path / "here.py").write_text(PLUGIN)
    return load_config(write_config(tmp_path, PRESENT))


def change(folder: Path, present: Settings, *overrides: str) -> Change:
    return compare_settings(present, load_config(folder / "config.toml", overrides))


def test_a_configuration_that_is_read_again_changes_nothing(
    tmp_path: Path, present: Settings
) -> None:
    (tmp_path / "here.py").write_text(f"{PLUGIN}\n# a comment")
    found = change(tmp_path, present)
    assert (found.keys, found.sinks, found.at_next_start) == ((), (), ())
    assert found.kept_sinks == (0, 1)


def test_aggregation_and_enrichment_are_taken_over_and_the_rest_is_named(
    tmp_path: Path, present: Settings
) -> None:
    found = change(
        tmp_path, present, "aggregation.interval=5", 'aggregation.only=["pid:1"]',
        "enrichment.command_line=true", "attribution.hold=1", 'capture.interfaces=["eth0"]',
    )  # fmt: skip
    assert found.keys == ("aggregation.interval", "aggregation.only", "enrichment.command_line")
    assert found.at_next_start == ("capture.interfaces", "attribution.hold")
    assert found.settings.aggregation.interval == 5
    assert found.settings.enrichment.command_line
    assert found.settings.capture.interfaces == ("lo",)
    assert found.settings.attribution.hold == present.attribution.hold


def test_named_networks_are_taken_over(tmp_path: Path, present: Settings) -> None:
    first = change(tmp_path, present, 'networks.a=["10.0.0.0/8"]', 'networks.b=["192.0.2.1"]')
    assert first.keys == ("networks.a", "networks.b")
    second = change(tmp_path, first.settings, 'networks.a=["10.0.0.0/8"]')
    assert (second.keys, second.settings.networks) == (("networks.b",), {"a": ("10.0.0.0/8",)})


def test_what_is_named_is_named_again_at_the_next_change(tmp_path: Path, present: Settings) -> None:
    first = change(tmp_path, present, "attribution.hold=1", "aggregation.interval=5")
    second = change(tmp_path, first.settings, "attribution.hold=1", "aggregation.interval=5")
    assert (second.keys, second.at_next_start) == ((), ("attribution.hold",))


def test_sinks_are_known_by_name_and_kept_if_their_settings_are_the_same(
    tmp_path: Path, present: Settings
) -> None:
    found = change(
        tmp_path, present, 'sinks=[{type="here", words=["a"]}, {type="stdout", rows=5}]',
        "sinks[2]={type='stdout', name='more'}",
    )  # fmt: skip
    assert found.kept_sinks == (1, None, None)
    assert found.sinks == ("sink stdout changed", "sink more added")
    removed = change(tmp_path, present, "sinks=[]").sinks
    assert removed == ("sink stdout removed", "sink here removed")


def test_the_values_of_a_sink_from_a_plugin_are_compared(tmp_path: Path, present: Settings) -> None:
    found = change(tmp_path, present, 'sinks[1].words=["a", "b"]')
    assert (found.kept_sinks, found.sinks) == ((0, None), ("sink here changed",))


def test_two_equal_sinks_stay_two(present: Settings) -> None:
    sinks = (present.sinks[0], present.sinks[0])
    twice = Settings(sinks=sinks)
    assert compare_settings(twice, twice).kept_sinks == (0, 1)
    assert compare_settings(Settings(sinks=sinks[:1]), twice).kept_sinks == (0, None)


def test_a_dimension_that_the_present_source_cannot_tell_apart_waits_for_the_next_start(
    tmp_path: Path, present: Settings
) -> None:
    counted = change(tmp_path, present, "capture.source=ebpf").settings
    assert counted.capture.source == "pcap"
    counted = load_config(tmp_path / "config.toml", ["capture.source=ebpf"])
    found = change(
        tmp_path, counted, "capture.source=pcap", 'aggregation.group_by=["interface"]',
        "aggregation.interval=5",
    )  # fmt: skip
    assert found.keys == ("aggregation.interval",)
    assert found.at_next_start == ("capture.source", "aggregation.group_by")
    assert found.settings.aggregation.group_by == ("process",)


@pytest.mark.usefixtures("present")
def test_a_replay_takes_over_sinks_only(tmp_path: Path) -> None:
    (tmp_path / "trace.pcap").write_bytes(b"")
    replay = load_config(
        tmp_path / "config.toml", ["capture.source=savefile", "capture.path=trace.pcap"]
    )
    found = change(
        tmp_path, replay, "capture.source=savefile", "capture.path=trace.pcap",
        "aggregation.interval=5", "enrichment.command_line=true", "sinks=[]",
    )  # fmt: skip
    assert found.keys == ()
    assert found.at_next_start == ("aggregation.interval", "enrichment.command_line")
    assert found.settings.aggregation == replay.aggregation
    assert found.settings.sinks == ()


def test_what_reads_dns_answers_is_opened_at_the_next_start(
    tmp_path: Path, present: Settings
) -> None:
    asks = ['aggregation.group_by=["domain"]', 'aggregation.only=["domain:a"]']
    found = change(tmp_path, present, *asks, "aggregation.interval=5")
    assert found.keys == ("aggregation.interval",)
    assert set(found.at_next_start) == {"aggregation.group_by", "aggregation.only"}
    assert not found.settings.needs_peer_names
    running = load_config(tmp_path / "config.toml", asks[:1])
    found = change(tmp_path, running, *asks)
    assert found.keys == ("aggregation.only",)
    found = change(tmp_path, running, 'enrichment.peer_names="off"')
    assert found.at_next_start == ("enrichment.peer_names",)
