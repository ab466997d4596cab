"""The command line: its output and exit codes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

from support.captures import Captured, Pcapng, write_pcap
from support.frames import A4, ethernet, ipv4, sll, udp
from support.namespaces import Namespace, require
from support.running import without_times

from hogpipe.aggregation.dimensions import DimensionName
from hogpipe.version import __version__

HOGPIPE = [sys.executable, "-m", "hogpipe"]
OK, FAILURE, USAGE, NOT_PERMITTED, BAD_CONFIGURATION = 0, 1, 2, 77, 78
GOLDEN = Path(__file__).parent / "data" / "golden" / "config.toml"


def call(
    *words: str | Path, prefix: Sequence[str | Path] = (), folder: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [*prefix, *HOGPIPE, *map(str, words)],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    done.stderr = without_times(done.stderr)
    return done


def assert_refused(done: "subprocess.CompletedProcess[str]", code: int, *lines: str) -> None:
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.splitlines() == [f"hogpipe: {line}" for line in lines]


def config(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def test_a_valid_configuration_is_reported_as_valid(tmp_path: Path) -> None:
    path = config(tmp_path, '[[sinks]]\ntype = "stdout"\n[[sinks]]\ntype = "stdout"')
    done = call("check", path)
    assert done.returncode == OK
    assert done.stdout == f"{path}: valid; source pcap, sinks stdout, stdout-2\n"


def test_all_errors_of_a_file_are_reported_at_once(tmp_path: Path) -> None:
    path = config(tmp_path, '[capture]\ninterfacs = ["lo"]\nsnaplen = "big"')
    assert_refused(
        call("check", path),
        BAD_CONFIGURATION,
        f'{path}: capture.interfacs: unknown key; did you mean "interfaces"?',
        f"{path}: capture.snaplen: expected int, got str",
    )


def test_a_missing_configuration_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    done = call("run", path)
    assert done.returncode == BAD_CONFIGURATION
    assert done.stderr.startswith(f"hogpipe: {path}: ")


def test_an_invalid_command_line_has_its_own_exit_code() -> None:
    wrong = [("check",), ("rum", "config.toml"), ("run", "--read", "a.pcap", "--source", "ebpf")]
    wrong += [("run", "--source", "savefile"), ("run", "--format", "xml"), ("completion", "csh")]
    wrong += [
        ("run", str(GOLDEN), "--duration", seconds) for seconds in ("-1", "0", "nan", "9" * 400)
    ]
    with ThreadPoolExecutor() as threads:
        codes = [done.returncode for done in threads.map(lambda words: call(*words), wrong)]
    assert codes == [USAGE] * len(wrong)


def test_a_replay_writes_records_and_one_line_of_totals_to_stderr() -> None:
    done = call("run", GOLDEN)
    assert done.returncode == OK
    types = [json.loads(line)["type"] for line in done.stdout.splitlines()]
    assert types.count("stats") == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("hogpipe: ")
    assert "149 packets, 260.0 kB captured, 0 dropped" in line


def test_a_setting_can_be_overridden_from_the_command_line() -> None:
    done = call("run", GOLDEN, "--set", "aggregation.group_by=[]", "--set", "capture.filter=udp")
    traffic = [json.loads(line) for line in done.stdout.splitlines() if '"traffic"' in line]
    assert traffic
    assert all("process" not in record for record in traffic)


def test_a_truncated_savefile_is_replayed_up_to_its_last_complete_frame(tmp_path: Path) -> None:
    frame = ethernet(ipv4(17, udp(payload=bytes(72)), source=A4))
    trace = write_pcap(tmp_path / "cut.pcap", 1, [Captured(n * 100_000, frame) for n in range(50)])
    trace.write_bytes(trace.read_bytes()[:-1])
    path = config(tmp_path, '[capture]\nsource = "savefile"\npath = "cut.pcap"')
    done = call("run", path)
    assert done.returncode == FAILURE
    error, summary = done.stderr.splitlines()
    assert error.startswith(f"hogpipe: {trace}: truncated: its last record")
    assert "49 packets" in summary
    stats = [json.loads(line)["capture"] for line in done.stdout.splitlines() if '"stats"' in line]
    assert sum(capture["packets"] for capture in stats) == 49
    assert sum(capture["bytes"] for capture in stats) == 49 * 100


def test_records_of_a_file_with_interfaces_of_several_link_types_name_the_interface(
    tmp_path: Path,
) -> None:
    packet, ng = ipv4(17, udp(payload=bytes(72)), source=A4), Pcapng()
    described = ng.section() + ng.interface(1, "eth0") + ng.interface(113, "wlan0")
    frames = ng.enhanced(0, ethernet(packet)) + ng.enhanced(1, sll(packet, packet_type=4)) * 2
    (tmp_path / "mixed.pcapng").write_bytes(described + frames)
    (tmp_path / "net").mkdir()
    (tmp_path / "stat").write_text("btime 0\n")
    local = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.1\n        /32 host LOCAL\n"
    (tmp_path / "net" / "fib_trie").write_text(local)
    settings = ["capture.source=savefile", "capture.path=mixed.pcapng", "attribution.procfs=."]
    settings += ["aggregation.group_by=['interface']"]
    path = config(tmp_path, "")
    done = call("run", path, *(word for one in settings for word in ("--set", one)))
    assert done.returncode == OK
    records = [json.loads(line)["network"] for line in done.stdout.splitlines() if '"traff' in line]
    assert {
        record["interface"]["name"]: record["io"]["transmit"]["bytes"] for record in records
    } == {"eth0": 100, "wlan0": 200}


def test_a_run_that_could_decode_nothing_fails_and_says_why(tmp_path: Path) -> None:
    trace = write_pcap(tmp_path / "wifi.pcap", 127, [Captured(0, bytes(60))] * 3)
    path = config(tmp_path, '[capture]\nsource = "savefile"\npath = "wifi.pcap"')
    done = call("run", path)
    assert done.returncode == FAILURE
    error, summary = done.stderr.splitlines()
    assert error.startswith(
        f"hogpipe: {trace}: none of 3 frames could be decoded: 3 frames of link"
    )
    assert "3 packets" in summary


def test_a_file_that_is_not_a_capture_is_refused(tmp_path: Path) -> None:
    path = config(tmp_path, '[capture]\nsource = "savefile"\npath = "config.toml"')
    done = call("run", path)
    assert done.returncode == BAD_CONFIGURATION
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"hogpipe: capture.path: {path}: not a capture file: ")


def test_an_unwritable_path_is_refused_before_anything_is_captured(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    path = config(tmp_path, '[[sinks]]\ntype = "jsonl"\npath = "folder"')
    done = call("run", path, "--set", "capture.interfaces=['lo']")
    assert done.returncode == BAD_CONFIGURATION
    (line,) = done.stderr.splitlines()
    assert str(tmp_path / "folder") in line


def test_two_sinks_cannot_write_one_file(tmp_path: Path) -> None:
    sink = '[[sinks]]\ntype = "jsonl"\npath = "records.jsonl"\n'
    path = config(tmp_path, f'[capture]\ninterfaces = ["lo"]\n{sink}{sink}')
    done = call("run", path)
    assert done.returncode == BAD_CONFIGURATION
    (line,) = done.stderr.splitlines()
    assert "another run or sink writes to it" in line


def test_an_unreadable_configuration_is_reported(tmp_path: Path) -> None:
    done = call("check", tmp_path)
    assert done.returncode == BAD_CONFIGURATION
    assert done.stderr == f"hogpipe: {tmp_path}: cannot read it: Is a directory\n"


def test_no_name_can_forge_an_output_line(netns: Namespace, tmp_path: Path) -> None:
    netns.ip("link", "add", "a\x85FORGED", "type", "veth")
    path = config(tmp_path, '[capture]\ninterfaces = ["eth7"]')
    done = call("run", path, prefix=netns.command())
    assert done.stderr.count("\n") == 1
    assert "\\x85FORGED" in done.stderr


def test_an_unknown_sink_type_is_reported_with_the_known_types(tmp_path: Path) -> None:
    path = config(tmp_path, '[[sinks]]\ntype = "kafak"')
    assert_refused(
        call("run", path),
        BAD_CONFIGURATION,
        f'{path}: sinks[0].type: unknown sink type "kafak"; known: jsonl, sqlite, stdout, tcp',
    )


def test_a_missing_interface_is_reported_with_the_existing_ones(
    netns: Namespace, tmp_path: Path
) -> None:
    path = config(tmp_path, '[capture]\ninterfaces = ["eth7"]')
    assert_refused(
        call("run", path, prefix=netns.command()),
        BAD_CONFIGURATION,
        'capture.interfaces: no interface "eth7"; there are: lo',
    )


def test_an_invalid_filter_is_reported_with_libpcaps_message(tmp_path: Path) -> None:
    path = config(tmp_path, '[capture]\nfilter = "host and"')
    done = call("run", path)
    assert done.returncode == BAD_CONFIGURATION
    assert 'capture.filter: libpcap refuses "host and": ' in done.stderr


def test_without_the_privilege_the_capability_and_its_remedy_are_reported(
    netns: Namespace, tmp_path: Path
) -> None:
    require("setpriv")
    path = config(tmp_path, '[capture]\ninterfaces = ["lo"]')
    without = ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"]
    done = call("run", path, prefix=netns.command(*without))
    assert done.returncode == NOT_PERMITTED
    (line,) = done.stderr.splitlines()
    assert "CAP_NET_RAW" in line
    assert "sudo setcap" in line
    assert str(Path(sys.executable).resolve()) in line


def test_interfaces_that_auto_captures_are_marked_with_a_star(
    veth: tuple[Namespace, Namespace],
) -> None:
    left, _right = veth
    done = subprocess.run(
        left.command(*HOGPIPE, "interfaces"), capture_output=True, text=True, check=True
    )
    rows = {line[2:].split()[0]: line for line in done.stdout.splitlines()}
    assert rows["left"].startswith("* ")
    assert "10.77.0.1/24" in rows["left"]
    assert rows["lo"].startswith("  ")
    assert "127.0.0.1/8 ::1/128" in rows["lo"]


def test_a_port_that_auto_captures_for_the_namespace_behind_it_is_listed_with_a_plus(
    veth: tuple[Namespace, Namespace],
) -> None:
    left, _right = veth
    left.batch("link add name br0 type bridge", "link set left master br0", "link set br0 up")
    done = subprocess.run(
        left.command(*HOGPIPE, "interfaces"), capture_output=True, text=True, check=True
    )
    marks = {line[2:].split()[0]: line[0] for line in done.stdout.splitlines()}
    assert marks == {"lo": " ", "left": "+", "br0": "*"}


def test_plugins_are_listed_with_their_sinks_and_errors(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('not today')")
    done = call("plugins", tmp_path)
    assert done.returncode == FAILURE
    builtin, broken, reason = done.stdout.splitlines()
    assert builtin.split()[:3] == ["builtin", __version__, "built-in"]
    assert "jsonl, sqlite, stdout, tcp" in builtin
    assert broken.split()[:3] == ["broken", "-", "failed"]
    assert reason.strip() == "RuntimeError: not today (broken.py, line 1)"
    assert call("plugins").returncode == OK


def test_plugins_are_listed_as_json_with_one_object_per_line(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("print('loud')\nraise RuntimeError('\\x1b[2J')")
    example = GOLDEN.parents[3] / "plugins" / "example_total.py"
    done = call("plugins", "--json", tmp_path, example)
    assert done.returncode == FAILURE
    assert done.stderr == "loud\n"
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {
            "name": "builtin",
            "origin": "built-in",
            "version": __version__,
            "sinks": ["jsonl", "sqlite", "stdout", "tcp"],
            "state": "built-in",
        },
        {
            "name": "broken",
            "origin": str(tmp_path / "broken.py"),
            "sinks": [],
            "state": "failed",
            "error": "RuntimeError: \\x1b[2J (broken.py, line 2)",
        },
        {
            "name": "example_total",
            "origin": str(example),
            "sinks": ["total"],
            "state": "loaded",
        },
    ]


def test_a_closed_output_ends_the_run_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*HOGPIPE, "run", GOLDEN], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert done.returncode == OK
    (line,) = done.stderr.splitlines()
    assert "149 packets" in line


def test_a_run_without_stdout_and_stderr_succeeds() -> None:
    closed = f'{" ".join(HOGPIPE)} run {GOLDEN} --set "sinks=[]" >&- 2>&-'
    assert subprocess.run(["sh", "-c", closed], check=False).returncode == OK


def test_jq_reads_the_records() -> None:
    if shutil.which("jq") is None:
        require("jq")
    hogpipe = " ".join([*HOGPIPE, "run", str(GOLDEN)])
    done = subprocess.run(
        [
            "sh",
            "-c",
            f"{hogpipe} 2>/dev/null | jq -c 'select(.type==\"traffic\") | .process.command'",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) == {'"nginx"', '"curl"', "null"}


TRACE = GOLDEN.parent / "trace.pcap"
RECORDED_PROC = f"attribution.procfs={GOLDEN.parent / 'proc'}"


def test_without_a_configuration_the_defaults_apply_and_no_file_is_written(tmp_path: Path) -> None:
    done = call("run", "--read", TRACE, "--set", RECORDED_PROC, folder=tmp_path)
    assert done.returncode == OK, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert {one["process"]["command"] for one in records if "process" in one} == {"nginx", "curl"}
    assert list(tmp_path.iterdir()) == []


def test_a_file_to_read_is_relative_to_the_current_folder(tmp_path: Path) -> None:
    shutil.copy(TRACE, tmp_path / "trace.pcap")
    done = call("run", GOLDEN, "--read", "trace.pcap", folder=tmp_path)
    assert done.returncode == OK, done.stderr
    assert "149 packets" in done.stderr


def test_options_replace_settings_of_the_file() -> None:
    options = ("--group-by", "transport, user", "--interval", "1m", "--only", "exe:*/nginx")
    done = call("run", GOLDEN, *options, "--format", "jsonl")
    assert done.returncode == OK, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    (stats,) = (one for one in records if one["type"] == "stats")
    traffic = [one for one in records if one["type"] == "traffic"]
    owned = [one for one in traffic if one.get("process")]
    assert {one["network"]["transport"] for one in owned} == {"tcp", "udp"}
    assert all("pid" not in one["process"] for one in owned)
    assert len(traffic) > len(owned)  # what --only leaves out is summed up
    assert stats["window"]["start"].endswith(":00.000Z")


def test_set_wins_over_an_option() -> None:
    done = call("run", GOLDEN, "--group-by", "user", "--set", "aggregation.group_by=transport")
    traffic = [json.loads(line) for line in done.stdout.splitlines() if '"traffic"' in line]
    assert all("transport" in one["network"] for one in traffic)


def test_the_format_needs_a_sink_that_prints(tmp_path: Path) -> None:
    path = config(tmp_path, '[[sinks]]\ntype = "jsonl"\npath = "x.jsonl"')
    text = "--format: the configuration has no sink of the type stdout"
    assert_refused(call("run", path, "--format", "table"), BAD_CONFIGURATION, text)


def test_a_wrong_option_is_reported_without_a_file() -> None:
    names = [f'"{name}"' for name in get_args(DimensionName)]
    choices = f"{', '.join(names[:-1])} or {names[-1]}"
    done = call("run", "--group-by", "proces", "--interval", "soon")
    assert_refused(
        done,
        BAD_CONFIGURATION,
        "command line: aggregation.interval: expected seconds, or text such as "
        '"500ms", "30s", "5m" or "1h30m", not "soon"',
        f'command line: aggregation.group_by[0]: must be {choices}, not "proces"',
    )


def test_verbosity_may_stand_before_and_after_the_command() -> None:
    for words in (("-vv", "run"), ("-v", "run", "-v"), ("run", "-vv"), ("run", "--verbose", "-v")):
        assert "hogpipe: DEBUG: " in call(*words, GOLDEN).stderr
    assert "hogpipe: DEBUG: " not in call("-v", "run", GOLDEN).stderr


def test_quiet_leaves_errors_only() -> None:
    for words in (("-q", "run", GOLDEN), ("run", "-q", GOLDEN)):
        done = call(*words)
        assert (done.returncode, done.stderr) == (OK, "")
        assert done.stdout
    done = call("run", "-q", "/nowhere/config.toml")
    assert done.returncode == BAD_CONFIGURATION
    assert len(done.stderr.splitlines()) == 1


def test_check_reports_as_json(tmp_path: Path) -> None:
    done = call("check", "--json", GOLDEN)
    assert json.loads(done.stdout) == {
        "path": str(GOLDEN),
        "valid": True,
        "problems": [],
        "source": "savefile",
        "sinks": ["stdout"],
        "ignored": [],
    }
    path = config(tmp_path, "[capture]\nsnaplen = 1")
    done = call("check", "--json", path)
    assert done.returncode == BAD_CONFIGURATION
    problem = f"{path}: capture.snaplen: must be at least 96"
    assert json.loads(done.stdout) == {"path": str(path), "valid": False, "problems": [problem]}
    assert done.stderr == ""


def test_interfaces_are_listed_as_json(netns: Namespace) -> None:
    netns.batch("link add veth0 type veth peer name veth1", "link set veth0 up")
    netns.batch("address add 10.9.0.1/24 dev veth0", "link set veth1 up")
    done = call("interfaces", "--json", prefix=netns.enter())
    found = {one["name"]: one for one in map(json.loads, done.stdout.splitlines())}
    assert found["lo"]["up"] is True
    assert "10.9.0.1/24" in found["veth0"]["addresses"]
    assert "all" in {found[name].get("captured") for name in ("veth0", "veth1")}
    assert "captured" not in found["lo"]


def test_each_shell_has_a_completion_script() -> None:
    for shell in ("bash", "zsh", "fish"):
        done = call("completion", shell)
        assert done.returncode == OK
        assert "_HOGPIPE_COMPLETE" in done.stdout


def test_commands_and_options_are_completed() -> None:
    require("bash")
    variables = {"COMP_WORDS": "hogpipe run --gr", "COMP_CWORD": "2"}
    environment = os.environ | variables | {"_HOGPIPE_COMPLETE": "bash_complete"}
    done = subprocess.run(HOGPIPE, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["plain,--group-by"]
