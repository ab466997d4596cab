"""`hogpipe exec`: the command is undisturbed, and its report is beside it."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.bpf import require_bpf

from hogpipe.measuring.report import render_traffic
from hogpipe.measuring.results import Losses, Peer, Totals, Traffic

IGNORED = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT}


def start(*words: str, ignored: str = "", **options: Any) -> "subprocess.Popen[str]":
    """Start `hogpipe exec` with no signals ignored but these; a shell lets some be ignored."""
    require_bpf()
    signals = ["--default-signal", *([f"--ignore-signal={ignored}"] if ignored else [])]
    return subprocess.Popen(
        ["env", *signals, sys.executable, "-m", "hogpipe", "exec", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def test_the_report_is_beside_the_output_and_has_what_the_peer_counted(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        script = f"exec 3<>/dev/tcp/127.0.0.1/{port}; echo $0 $1 >&3; cat <&3; exit 7"
        process = start(
            "--json", "-o", str(tmp_path / "report"), "--", "bash", "-c", script, "--json", "-x"
        )
        served, _ = listener.accept()
        with served:
            got = len(served.recv(1000))
            served.sendall(b"answer\n")
        out, err = process.communicate()
    assert (process.returncode, out, err) == (7, "answer\n", "")
    report = json.loads((tmp_path / "report").read_text())
    (peer,) = report["peers"]
    assert (peer["address"], peer["port"]) == ("127.0.0.1", port)
    assert peer["totals"]["transmit_payload_bytes"] == got == len("--json -x\n")
    assert peer["totals"]["receive_payload_bytes"] == len("answer\n")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["/missing\x1b[2J"], 127, "hogpipe: /missing\\x1b[2J: No such file or directory\n"),
        (["/etc"], 126, "hogpipe: /etc: Permission denied\n"),
    ],
)
def test_a_command_that_cannot_be_run_has_the_exit_code_of_a_shell(
    words: list[str], code: int, text: str
) -> None:
    process = start(*words)
    assert process.communicate() == ("", text)
    assert process.returncode == code


def test_signals_are_passed_on_and_the_report_follows() -> None:
    script = "trap 'echo got it; exit 5' USR1; echo ready; while :; do sleep 0.01; done"
    process = start("bash", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGUSR1)
    out, err = process.communicate()
    assert (process.returncode, out) == (5, "got it\n")
    assert "total" in err


def test_the_end_by_a_signal_is_the_exit_code_of_a_shell() -> None:
    process = start("sh", "-c", "echo ready; exec sleep 60")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 128 + signal.SIGTERM


def test_the_command_has_the_signals_of_a_program() -> None:
    masks = "grep -E '^Sig(Blk|Ign):' /proc/self/status"
    process = start("sh", "-c", masks)
    out, _ = process.communicate()
    # The two signals that glibc keeps to itself are ignored in what it spawns.
    assert [int(mask, 16) & (1 << 31) - 1 for mask in out.split()[1::2]] == [0, 0]


def test_signals_that_were_ignored_are_ignored_in_the_command() -> None:
    process = start("grep", "^SigIgn:", "/proc/self/status", ignored="HUP,INT,QUIT,CHLD")
    out, _ = process.communicate()
    mask = int(out.split()[1], 16)
    assert {number for number in IGNORED if mask >> number - 1 & 1} == IGNORED
    assert process.returncode == 0


def test_an_output_that_cannot_be_written_is_named_before_the_command_runs(tmp_path: Path) -> None:
    mark, link = tmp_path / "mark", tmp_path / "link"
    link.symlink_to(mark)
    for output, text in ((tmp_path / "no" / "x", "/no is not a folder"), (link, "a symbolic link")):
        process = start("-o", str(output), "touch", str(mark))
        _, err = process.communicate()
        assert (process.returncode, mark.exists()) == (1, False)
        assert text in err


@pytest.mark.parametrize(("code", "found"), [(3, 3), (0, 1)])
def test_a_report_that_fails_takes_no_exit_code_from_the_command(
    tmp_path: Path, code: int, found: int
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    process = start("-o", str(folder / "x"), "sh", "-c", f"rmdir {folder}; exit {code}")
    _, err = process.communicate()
    assert process.returncode == found
    assert "No such file or directory" in err


def test_a_script_without_an_interpreter_is_one_of_the_shell(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text('echo "$0 $1"\n')
    script.chmod(0o755)
    process = start(str(script), "word")
    assert process.communicate()[0] == f"{script} word\n"


def test_without_privileges_the_command_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    command = ["setpriv", "--reuid=65534", "--clear-groups", "--bounding-set=-all"]
    require_bpf()
    done = subprocess.run(
        [*command, sys.executable, "-m", "hogpipe", "exec", "--source", "ebpf", "touch", mark],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 77
    assert "CAP_BPF" in done.stderr
    assert not mark.exists()


def test_a_table_has_the_largest_peers_and_what_is_missing() -> None:
    peers = tuple(
        Peer(f"10.0.0.{n}", "tcp", 443 if n % 2 else None, None if n % 2 else 80, Totals(1500, 1))
        for n in range(25)
    )
    lines = render_traffic(
        Traffic(
            source="pcap",
            seconds=1.25,
            totals=Totals(37_500, 25, 0, 0, None, None),
            peers=peers,
            unattributed_bytes=2_000,
            losses=Losses(packets=3),
            follows_children=False,
        ),
        80,
    )
    assert lines[0].split() == ["PROTO", "LOCAL", "REMOTE", "TRANSMIT", "RECEIVE"]
    assert lines[1].split() == ["tcp", ":80", "10.0.0.0", "1.5", "kB", "0", "B"]
    assert lines[2].split()[:2] == ["tcp", "10.0.0.1:443"]
    assert lines[21].startswith("total of 25, 5 not shown")
    assert lines[22] == "1.25 s, counted by pcap, payload unknown"
    assert lines[23].startswith("2.0 kB of this host have no known process")
    assert "lost 3 packets" in lines[24]
    assert "no forks" in lines[25]
