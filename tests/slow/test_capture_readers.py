"""Wireshark's and tcpdump's readers find what `hogpipe capture` writes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.captures import read_pcap
from support.namespaces import require
from support.packet_files import read_packet_file

GOLDEN = Path(__file__).parent.parent / "data" / "golden"
COMMAND = [sys.executable, "-m", "hogpipe", "capture", GOLDEN / "config.toml"]
COMMAND += ["--read", GOLDEN / "trace.pcap", "-w"]
FIELDS = ("frame.number", "frame.time_epoch", "frame.len", "frame.interface_name")


def ask_tshark(path: Path, *words: str) -> list[str]:
    command = ["tshark", "-n", "-r", path, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require("tshark", "tcpdump")
    path = tmp_path_factory.mktemp("capture") / "trace.pcapng"
    subprocess.run([*COMMAND, path], check=True)
    return path


def test_tshark_finds_the_frames_their_times_and_their_comments(written: Path) -> None:
    words = [word for name in FIELDS for word in ("-e", name)]
    lines = ask_tshark(written, "-T", "fields", *words)
    found = [line.split("\t")[:3] for line in lines]
    assert [(float(seconds), int(length)) for _, seconds, length in found] == [
        (time_us / 1e6, length) for time_us, _, length in read_pcap(GOLDEN / "trace.pcap")
    ]
    lines = ask_tshark(written, "-T", "fields", "-E", "aggregator=|", "-e", "frame.comment")
    comments = [one.comments for one in read_packet_file(written).packets]
    assert [line.split("|") if line else [] for line in lines] == comments


def test_tshark_filters_by_the_owner(written: Path) -> None:
    wanted = ask_tshark(written, "-Y", 'frame.comment contains "nginx, pid 15045"')
    packets = read_packet_file(written).packets
    assert len(wanted) == sum(any("nginx," in text for text in one.comments) for one in packets)


def test_tcpdump_finds_as_many_packets(written: Path) -> None:
    done = subprocess.run(["tcpdump", "-nr", written], check=True, capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == len(read_packet_file(written).packets)


def test_the_display_filter_of_the_documentation_selects_packets(written: Path) -> None:
    text = (GOLDEN.parents[2] / "docs" / "capture.md").read_text()
    found = re.search(r"`(frame\.comment contains [^`]+)`", text)
    assert found
    assert len(ask_tshark(written, "-Y", found[1])) == 64


def test_tshark_reads_from_a_pipe() -> None:
    require("tshark")
    with subprocess.Popen([*COMMAND, "-"], stdout=subprocess.PIPE) as source:
        done = subprocess.run(
            ["tshark", "-n", "-r", "-"],
            check=False,
            stdin=source.stdout,
            capture_output=True,
            text=True,
        )
    assert done.returncode == source.returncode == 0
    assert len(done.stdout.splitlines()) == len(read_pcap(GOLDEN / "trace.pcap"))


def test_mergecap_and_capinfos_take_the_file(written: Path, tmp_path: Path) -> None:
    require("capinfos", "mergecap")
    merged = tmp_path / "merged.pcapng"
    subprocess.run(["mergecap", "-a", "-w", merged, written, written], check=True)
    done = subprocess.run(["capinfos", written], check=True, capture_output=True, text=True)
    assert "Capture application: hogpipe" in done.stdout
    assert "Number of stat entries = 1" in done.stdout
