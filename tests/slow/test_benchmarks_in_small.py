"""The benchmarks that need namespaces, at a small size: they run, and their figures add up."""

import json
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from support.bpf import require_bpf
from support.namespaces import require

BENCH = Path(__file__).parents[1] / "bench"


def run_bench(name: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BENCH / name, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_shares_of_each_tool_add_up_to_the_truth(tmp_path: Path) -> None:
    require("ip", "tcpdump", "nethogs")
    path = tmp_path / "figures.json"
    options = ["--seconds", "2", "--connections-per-second", "60", "--by-flow", "--json", path]
    command = [sys.executable, BENCH / "attribution.py", "outbound-100ms", *options]
    with subprocess.Popen(command, text=True, stdout=PIPE, stderr=PIPE) as run:
        output, errors = run.communicate()
    assert run.returncode == 0, errors
    (figures,) = json.loads(path.read_text())["workloads"]
    load = figures["load"]
    assert 0 < load["opened"] <= 120
    assert load["failed"] == load["stray_packets"] == load["dropped"] == 0
    assert [tool["tool"] for tool in figures["tools"]] == ["hogpipe", "nethogs"]
    for tool in figures["tools"]:
        verdict = tool["verdict"]
        parts = [verdict[key] for key in ("right", "wrong", "unattributed", "missing")]
        assert sum(parts) == verdict["truth"] > 0
        assert min(parts[:3]) >= 0
        assert tool["cpu_seconds"] >= 0
    hogpipe = figures["tools"][0]
    assert hogpipe["dropped"] == 0
    assert hogpipe["verdict"]["missing"] == 0
    assert hogpipe["verdict"]["truth"] == load["bytes"]
    assert sum(hogpipe["by_quality"].values()) == load["bytes"]
    assert hogpipe["by_quality"].get("none", 0) == hogpipe["verdict"]["unattributed"]
    assert hogpipe["verdict"]["wrong"] == 0
    left = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True)
    assert f"hogpipe-test-{run.pid}-" not in left.stdout
    assert output.count("| outbound-100ms |") == 5


@pytest.mark.parametrize("name", ["veth-100ms", "veth-inbound"])
def test_the_truth_of_a_container_on_a_veth_has_both_ends(tmp_path: Path, name: str) -> None:
    require("ip", "tcpdump")
    path = tmp_path / "figures.json"
    options = ["--without-nethogs", "--seconds", "1", "--connections-per-second", "60"]
    run = run_bench("attribution.py", name, *options, "--json", path)
    assert run.returncode == 0, run.stderr
    (figures,) = json.loads(path.read_text())["workloads"]
    assert figures["load"]["failed"] == figures["load"]["stray_packets"] == 0
    (tool,) = figures["tools"]
    verdict = tool["verdict"]
    assert verdict["truth"] == figures["load"]["bytes"] > 0
    assert verdict["missing"] == verdict["wrong"] == 0
    assert verdict["by_address"].keys() == {"10.78.0.1", "10.78.0.2"}


def test_ledger_and_ebpf_attribute_every_byte_over_ipv6_and_at_servers(tmp_path: Path) -> None:
    require("ip", "tcpdump", "nethogs")
    require_bpf()
    path = tmp_path / "figures.json"
    options = ["--seconds", "1", "--connections-per-second", "60", "--json", path]
    names = ["outbound-1ms-v6", "udp-inbound-v6"]
    run = run_bench("attribution.py", *names, "--ledger", "--ebpf", *options)
    assert run.returncode == 0, run.stderr
    for figures in json.loads(path.read_text())["workloads"]:
        assert figures["load"]["failed"] == figures["load"]["stray_packets"] == 0
        verdicts = {tool["tool"]: tool["verdict"] for tool in figures["tools"]}
        assert verdicts.keys() == {"hogpipe", "hogpipe, ledger", "hogpipe, ebpf", "nethogs"}
        for name in ("hogpipe, ledger", "hogpipe, ebpf"):
            assert verdicts[name]["right"] == verdicts[name]["truth"] > 0, (
                figures["workload"],
                name,
            )


def test_a_pair_has_the_throughput_with_and_without_hogpipe(tmp_path: Path) -> None:
    require("ip", "iperf3")
    require_bpf()
    path = tmp_path / "figures.json"
    done = run_bench("packet_cost.py", "--pairs", "1", "--seconds", "1", "--json", path)
    assert done.returncode == 0, done.stderr
    figures = json.loads(path.read_text())
    assert figures.keys() == {"tcp", "udp-64"}
    for cost in figures.values():
        (one,) = cost["pairs"]
        assert 1 < cost["packet_ns"] < 1e6
        assert one["with_hogpipe"] > 1e6
        assert one["without"] > 1e6
        assert one["cpu_share"] >= 0
    assert done.stdout.count("Gbit/s") == 2


TOOLS = ["tcpdump", "hogpipe", "hogpipe, ledger", "hogpipe, ebpf", "nethogs"]


def measure_growth(path: Path, *words: str) -> dict[str, dict[str, Any]]:
    """Return the figures of a run of growth.py by load and tool; each load has one size."""
    run = run_bench("growth.py", *words, "--json", path)
    assert run.returncode == 0, run.stderr
    found = {}
    for load, curves in json.loads(path.read_text())["sets"].items():
        (point,) = curves["points"]
        assert point["done"] > 0
        found[load] = {one["tool"]: one for one in point["figures"]}
        assert list(found[load]) == TOOLS
    return found


def test_each_kind_of_live_load_gives_every_byte_to_its_sender_or_server(tmp_path: Path) -> None:
    require("ip", "tcpdump", "nethogs")
    require_bpf()
    loads = ("live", "live-received", "live-ports", "live-peers")
    words = [*loads, "--sizes", "5", "--rate", "2000", "--seconds", "0.5"]
    found = measure_growth(tmp_path / "figures.json", *words)
    assert tuple(found) == loads
    for load, figures in found.items():
        for tool in TOOLS[:4]:
            assert "remark" not in figures[tool], (load, figures[tool])
            assert figures[tool]["dropped"] == 0, (load, tool)
            assert figures[tool]["runs"][0] > 0
        for tool in TOOLS[1:4]:
            assert figures[tool]["right"] == 1, (load, tool)
        assert figures["hogpipe, ebpf"]["kernel_us"] > 0


def test_connections_beside_sockets_processes_and_in_containers_have_figures(
    tmp_path: Path,
) -> None:
    require("ip", "tcpdump", "nethogs")
    require_bpf()
    words = ["sockets", "processes", "containers", "--sizes", "3", "--seconds", "1"]
    found = measure_growth(tmp_path / "figures.json", *words)
    for figures in found.values():
        for tool in ("hogpipe, ledger", "hogpipe, ebpf"):
            assert figures[tool]["right"] == pytest.approx(1, abs=0.001)
