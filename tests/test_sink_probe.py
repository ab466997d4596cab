"""`hogpipe check --connect`: what each sink connects to, or why not, and what to do."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.certificates import Certificates
from support.collector import collecting
from support.configuration import load_text

from hogpipe.delivery import isolation
from hogpipe.sink_probe import Probe, probe_sinks

PLUGIN = """
import asyncio
import time
from pathlib import Path
from hogpipe import DeliveryError, SinkSettings, SinkType, hookimpl

met = set()

class Settings(SinkSettings, frozen=True, kw_only=True):
    how: str

class Sink:
    def __init__(self, settings):
        if settings.how == "cannot be made":
            raise ValueError("a bug")
        self.how = settings.how

    async def open(self):
        match self.how:
            case "hangs":
                await asyncio.sleep(3600)
            case "blocks":
                while not Path(__file__).with_name("over").exists():
                    time.sleep(0.01)
            case "has a bug":
                raise KeyError("x")
            case "forges lines":
                raise DeliveryError("no\\n\\x1b[2Jok  everything")
            case "exits":
                raise SystemExit(3)
            case "meets" | "meets too":
                met.add(self.how)
                while len(met) < 2:
                    await asyncio.sleep(0)
            case "prints":
                print("hello")

    async def write(self, records):
        raise AssertionError

    async def close(self):
        if self.how == "cannot be closed":
            raise OSError("stuck")

@hookimpl
def hogpipe_sinks():
    return [SinkType("mine", Settings, Sink)]
"""


async def _probe(folder: Path, *tables: str) -> list[Probe]:
    text = "".join(f"[[sinks]]\n{table}\n" for table in tables)
    return await asyncio.to_thread(probe_sinks, load_text(folder, text).sinks)


async def _probe_plugin(folder: Path, *kinds: str) -> dict[str, tuple[bool, str]]:
    (folder / "mine.py").write_text(PLUGIN)
    tables = [f'type = "mine"\nname = "{kind}"\nhow = "{kind}"' for kind in kinds]
    text = "".join(f"[[sinks]]\n{table}\n" for table in tables)
    settings = load_text(folder, f'[plugins]\npaths = ["mine.py"]\n{text}')
    probes = await asyncio.to_thread(probe_sinks, settings.sinks)
    return {one.sink: (one.good, one.text) for one in probes}


def _tcp(port: int, more: str = "", host: str = "127.0.0.1") -> str:
    return f'type = "tcp"\nhost = "{host}"\nport = {port}\n{more}'


@contextmanager
def _closed_port() -> Iterator[int]:
    """Yield a port that is taken, without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as other, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert other.getsockname() != taken.getsockname()
        yield taken.getsockname()[1]


async def test_a_collector_that_answers_is_named(tmp_path: Path) -> None:
    async with collecting() as collector:
        tables = _tcp(collector.port), _tcp(collector.port, "", "localhost")
        assert await _probe(tmp_path, *tables) == [
            Probe("tcp", True, f"connected to 127.0.0.1 port {collector.port}"),
            Probe("tcp-2", True, f"connected to localhost port {collector.port} (127.0.0.1)"),
        ]  # fmt: skip
        assert not any(collector.received)


async def test_tls_is_shown_and_a_certificate_that_is_not_trusted_is_named(
    tmp_path: Path, certificates: Certificates
) -> None:
    async with collecting(tls=certificates.server_context()) as collector:
        trusted, other = (
            _tcp(collector.port, f'tls = {{ca = "{certificates.path(name)}"}}')
            for name in ("ca.pem", "untrusted.pem")
        )
        good, bad = await _probe(tmp_path, trusted, other)
    assert good == Probe(
        "tcp", True, f"connected to 127.0.0.1 port {collector.port} (TLSv1.3)"
    )  # fmt: skip
    assert bad.text == (
        f"no connection to 127.0.0.1 port {collector.port}: its certificate is not accepted: "
        "unable to get local issuer certificate; "
        "name its authority in tls.ca, or the name in its certificate in tls.server_name"
    )
    assert not bad.good


async def test_tls_to_a_port_without_it_is_named(
    tmp_path: Path, certificates: Certificates
) -> None:
    async with collecting() as collector:
        tls = f'connect_timeout = 0.2\ntls = {{ca = "{certificates.path("ca.pem")}"}}'
        (one,) = await _probe(tmp_path, _tcp(collector.port, tls))
    assert not one.good
    assert "; see whether " in one.text


async def test_a_refused_connection_has_its_remedy(tmp_path: Path) -> None:
    with _closed_port() as port:
        (one,) = await _probe(tmp_path, _tcp(port))
    assert one == Probe(
        "tcp", False,
        f"no connection to 127.0.0.1 port {port}: Connection refused; "
        "start the receiver, or correct the port",
    )  # fmt: skip


async def test_a_name_that_does_not_resolve_has_its_remedy(tmp_path: Path) -> None:
    (one,) = await _probe(tmp_path, _tcp(1, "", "no-such-host.invalid"))
    assert one.text.startswith("no connection to no-such-host.invalid port 1: ")
    assert one.text.endswith("; correct the name, or the name servers in /etc/resolv.conf")


async def test_every_endpoint_is_tried_and_one_that_works_is_enough(tmp_path: Path) -> None:
    with _closed_port() as port:
        async with collecting() as collector:
            endpoints = f'endpoints = ["127.0.0.1:{port}", "{collector.endpoint}"]'
            (one,) = await _probe(tmp_path, f'type = "tcp"\n{endpoints}')
    assert one == Probe(
        "tcp", True,
        f"connected to 127.0.0.1 port {collector.port}; "
        f"no connection to 127.0.0.1 port {port}: Connection refused",
    )  # fmt: skip


async def test_a_peer_that_never_answers_has_its_remedy(
    tmp_path: Path, certificates: Certificates
) -> None:
    tls = f'tls = {{ca = "{certificates.path("ca.pem")}"}}\nconnect_timeout = 0.1'
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (one,) = await _probe(tmp_path, _tcp(silent.getsockname()[1], tls))
    assert not one.good
    assert "no answer within 0.1 s; see whether the receiver works" in one.text


@pytest.mark.parametrize(("chosen", "shown"), [("auto", "JSON lines"), ("table", "a table")])
async def test_what_stdout_prints_is_named(tmp_path: Path, chosen: str, shown: str) -> None:
    (one,) = await _probe(tmp_path, f'type = "stdout"\nformat = "{chosen}"')
    assert one == Probe("stdout", True, f"no terminal: {shown}")


async def test_a_file_that_exists_is_not_changed_and_its_size_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(b'{"type":"stats"}\n{"type":"tra')  # the end of a killed run
    old = path.with_name("records.jsonl-20260101T000000.000Z")
    old.write_bytes(b"{}\n")
    keep = 'rotate_mib = 1\nkeep = 1\ncompress = "gzip"'
    (one,) = await _probe(tmp_path, f'type = "jsonl"\npath = "records.jsonl"\n{keep}')
    assert one == Probe("jsonl", True, f"{path}: appended to, 29 bytes so far")
    assert path.read_bytes() == b'{"type":"stats"}\n{"type":"tra'
    assert old.exists()


@pytest.mark.parametrize("kind", ["jsonl", "sqlite"])
def test_no_file_and_no_folder_is_left(tmp_path: Path, kind: str) -> None:
    (one,) = asyncio.run(_probe(tmp_path, f'type = "{kind}"\npath = "logs/records"'))
    assert one == Probe(kind, True, f"{tmp_path}/logs/records: created when a run starts")
    assert [one.name for one in tmp_path.iterdir()] == ["config.toml"]


@pytest.mark.parametrize("kind", ["jsonl", "sqlite"])
async def test_a_file_that_another_run_writes_is_named(tmp_path: Path, kind: str) -> None:
    table = f'type = "{kind}"\npath = "records"'
    settings = load_text(tmp_path, f"[[sinks]]\n{table}")
    other = settings.sinks[0].type.create(settings.sinks[0].settings)
    await other.open()
    (one,) = await _probe(tmp_path, table)
    await other.close()
    (later,) = await _probe(tmp_path, table)
    assert one == Probe(
        kind, False,
        f"path {tmp_path}/records: another run or sink writes to it; "
        "name a file that hogpipe may write to",
    )  # fmt: skip
    assert later.good
    assert later.text.endswith(" bytes so far")


async def test_a_path_in_which_nothing_can_be_created_is_named(tmp_path: Path) -> None:
    (one,) = await _probe(tmp_path, 'type = "jsonl"\npath = "/proc/hogpipe/records.jsonl"')
    assert not one.good
    assert one.text.startswith("path /proc/hogpipe/records.jsonl: ")
    assert one.text.endswith("; name a file that hogpipe may write to")


async def test_a_spool_is_neither_made_nor_changed(tmp_path: Path) -> None:
    spool = tmp_path / "old"
    spool.mkdir()
    (spool / "window").write_bytes(b"not a segment")
    async with collecting() as collector:
        probes = await _probe(
            tmp_path,
            _tcp(collector.port, 'spool = "old"'),
            _tcp(collector.port, 'spool = "new"'),
        )
    assert all(one.good for one in probes)
    assert [one.name for one in spool.iterdir()] == ["window"]
    assert not (tmp_path / "new").exists()


async def test_a_plugin_without_probe_is_opened_and_closed(tmp_path: Path) -> None:
    assert await _probe_plugin(tmp_path, "works", "cannot be closed") == {
        "works": (True, "opened"),
        "cannot be closed": (False, "cannot be closed: stuck"),
    }


async def test_sinks_are_opened_at_the_same_time(tmp_path: Path) -> None:
    found = await _probe_plugin(tmp_path, "meets", "meets too")
    assert found == {"meets": (True, "opened"), "meets too": (True, "opened")}


async def test_a_sink_that_blocks_its_event_loop_delays_no_other_and_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "OPEN_SECONDS", 0.1)
    found = await _probe_plugin(tmp_path, "blocks", "works")
    (tmp_path / "over").touch()  # so that the thread ends
    assert found["works"] == (True, "opened")
    good, text = found["blocks"]
    assert not good
    assert text.startswith("blocks the event loop")
    assert text.endswith("; its blocking calls have to be made in a thread")


async def test_what_a_plugin_does_wrong_is_one_line_and_harms_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "OPEN_SECONDS", 0.1)
    remedy = "see whether the receiver works, and whether a firewall is in the way"
    found = await _probe_plugin(
        tmp_path, "hangs", "has a bug", "forges lines", "exits", "cannot be made", "works"
    )
    assert found == {
        "hangs": (
            False,
            f"it took longer than 0.1 s; {remedy}",
        ),
        "has a bug": (False, "cannot be opened: KeyError: 'x' (mine.py, line 26)"),
        "forges lines": (False, r"no; \x1b[2Jok  everything"),
        "exits": (
            False,
            "cannot be opened: RuntimeError: the sink raised SystemExit: 3 (mine.py, line 30)",
        ),
        "cannot be made": (
            False,
            "sink cannot be made: cannot be made: ValueError: a bug (mine.py, line 15)",
        ),
        "works": (True, "opened"),
    }


def test_the_command_prints_a_line_for_each_sink_and_fails_if_one_does(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    config = tmp_path / "config.toml"
    with _closed_port() as port:
        config.write_text(
            '[plugins]\npaths = ["mine.py"]\n[[sinks]]\ntype = "mine"\nhow = "prints"\n'
            f"[[sinks]]\n{_tcp(port)}"
        )
        shown, document, one = (
            _check(config, *words) for words in ([], ["--json"], ["--set", "sinks=[]"])
        )
    refused = (
        f"no connection to 127.0.0.1 port {port}: Connection refused; "
        "start the receiver, or correct the port"
    )
    assert shown.returncode == document.returncode == 1
    assert shown.stdout.splitlines() == [
        f"{config}: valid; source pcap, sinks mine, tcp",
        "ok  mine       opened",
        f"no  tcp        {refused}",
    ]
    assert shown.stderr == "hello\n"
    assert json.loads(document.stdout)["connections"] == [
        {"sink": "mine", "good": True, "text": "opened"},
        {"sink": "tcp", "good": False, "text": refused},
    ]
    assert one.returncode == 0


def _check(config: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "hogpipe", "check", "--connect", str(config), *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_probes_run_without_sinks() -> None:
    assert probe_sinks([]) == []
