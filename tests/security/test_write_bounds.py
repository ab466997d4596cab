"""Where sinks may write and connect to follows from their settings."""

from pathlib import Path

import pytest

from hogpipe.config.settings import ConfiguredSink
from hogpipe.errors import ConfigurationError
from hogpipe.security.write_bounds import WriteBounds, find_bounds
from hogpipe.sinks.contract import Sink, SinkSettings, SinkType
from hogpipe.sinks.jsonl.jsonl_sink import JsonlSettings
from hogpipe.sinks.stdout import StdoutSettings
from hogpipe.sinks.tcp.tcp_sink import TcpSettings

ANYWHERE = {Path("/tmp"), Path("/var/tmp")}


@pytest.fixture(autouse=True)
def _no_folder_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)


class OwnSettings(SinkSettings, frozen=True, kw_only=True):
    place: Path = Path("/opt/own/x")
    text: str = "/usr/share/own"


def configured(settings: SinkSettings) -> ConfiguredSink:
    def create(_settings: SinkSettings) -> Sink:
        raise NotImplementedError

    return ConfiguredSink(SinkType(settings.type, type(settings), create), settings)


def jsonl(path: Path) -> ConfiguredSink:
    return configured(JsonlSettings(type="jsonl", path=path))


def tcp(*endpoints: str, port: int | None = None) -> ConfiguredSink:
    host = "x" if port else None
    return configured(TcpSettings(type="tcp", host=host, port=port, endpoints=endpoints))


STDOUT = configured(StdoutSettings(type="stdout"))
OWN = configured(OwnSettings(type="own"))


def find(*sinks: ConfiguredSink) -> WriteBounds:
    return find_bounds(sinks, bounds_ports=True)


def test_the_nearest_folder_that_exists_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    spooled = configured(TcpSettings(type="tcp", host="x", port=1, spool=tmp_path / "spool"))
    found = find(jsonl(tmp_path / "new/inner/a.jsonl"), spooled)
    assert set(found.folders) == {tmp_path, tmp_path / "spool"} | ANYWHERE


def test_the_folder_of_temporary_files_need_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/nowhere")
    bounds = find(STDOUT)
    assert set(bounds.folders) == ANYWHERE | {Path("/nowhere")}


def test_where_a_link_leads_is_written_to_as_well(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/a.jsonl").symlink_to(tmp_path / "data/a.jsonl")
    found = find(jsonl(tmp_path / "logs/a.jsonl"))
    assert set(found.folders) == {tmp_path / "logs", tmp_path / "data"} | ANYWHERE


def test_paths_in_the_settings_of_a_plugin_count() -> None:
    assert set(find(OWN).folders) >= {Path("/opt"), Path("/usr/share")}
    odd = [configured(OwnSettings(type="own", text=text)) for text in ("/a\0b", "/" + "x" * 5000)]
    assert Path("/") in find(*odd).folders


def test_ports_are_bounded_if_every_sink_is_known() -> None:
    sinks = (tcp("a:6514", "[::1]:6515"), tcp(port=5140), STDOUT)
    assert find(*sinks).ports == {53, 6514, 6515, 5140}
    assert find(*sinks, OWN).ports is None
    assert find_bounds(sinks, bounds_ports=False).ports is None
    assert find(STDOUT).ports == {53}


def test_a_reload_may_add_what_is_within_the_bounds(tmp_path: Path) -> None:
    bounds = WriteBounds((tmp_path,), frozenset({53, 6514}))
    bounds.check(
        [jsonl(tmp_path / "b.jsonl"), jsonl(tmp_path / "c/d.jsonl"), tcp("b:6514"), STDOUT]
    )
    with pytest.raises(ConfigurationError) as raised:
        bounds.check([jsonl(Path("/opt/x.jsonl")), tcp("b:6514", "b:99"), OWN])
    assert [problem.partition(": ")[0] for problem in raised.value.problems] == [
        "sinks[0]", "sinks[1]", "sinks[2]", "sinks[2]", "sinks[2]",
    ]  # fmt: skip
    assert all("restart it" in problem for problem in raised.value.problems)
    WriteBounds((Path("/"),), None).check([jsonl(Path("/opt/x.jsonl")), tcp("b:99"), OWN])
