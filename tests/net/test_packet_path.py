"""How many modules a packet passes until it is counted, and what is counted until it is a line.

Packets of known flows end in the flow table. What the table has counted leaves it once a window.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import packet_path
from support.namespaces import namespace, require
from support.running import write_config

MOST_OF_A_PACKET = 20
MOST_OF_A_WINDOW = 25

CONFIG = """
[capture]
interfaces = ["lo"]
[attribution]
ledger = "off"
[aggregation]
interval = 0.2
[[sinks]]
type = "stdout"
format = "jsonl"
"""

OF_PACKETS = ("capture/", "flows/")
"""Where packets are: the rest is for what a window has counted, or for flows that need a lookup."""
ASIDE = {
    "the lookup, which reads /proc, sock_diag or conntrack, whichever is cheaper at the time": {
        "enrichment/cgroup_paths.py",
        "enrichment/processes.py",
        "linux/ctnetlink.py",
        "linux/ctnetlink_messages.py",
        "linux/kcmp.py",
        "linux/procfs.py",
        "linux/sock_diag.py",
        "linux/sock_diag_messages.py",
        "linux/socket_table.py",
    },
    "exits of processes: one system call a batch": {"linux/process_exits.py"},
    "checks of the processes in use, twice a second, and of listening ports": {
        "enrichment/process_refresh.py",
        "enrichment/service_port_refresh.py",
    },
    "the health of connections, which a thread of its own reads": {
        "capture/ebpf/row_flows.py",
        "capture/live/health_origins.py",
        "capture/live/health_reader.py",
        "flows/endpoint_match.py",
        "flows/health_columns.py",
        "linux/destroyed_messages.py",
        "linux/destroyed_sockets.py",
        "linux/bpf/traffic_rows.py",
    },
    "links, and the containers behind them": {
        "capture/live/container_netns.py",
        "capture/live/interface_views.py",
        "capture/live/link_follower.py",
        "linux/rtnetlink.py",
    },
    "the other way to decode: a packet takes one of the two": {
        "capture/decode/scalar_ip.py",
        "capture/decode/scalar_link.py",
    },
    "time: windows close, fragments expire, the capture thread rests, the run ends": {
        "aggregation/windows.py",
        "linux/memory.py",
        "capture/decode/fragments.py",
        "capture/live/pacing.py",
        "capture/stop_signal.py",
    },
    "the start and the end of a run": {"pipeline.py", "run_requests.py"},
    "the watch over the calls of sinks": {"delivery/loop_watch.py"},
    "the stats record, the summary and the state of a sink": {
        "delivery/health.py",
        "delivery/opening.py",
        "delivery/stats_pace.py",
        "linux/self_usage.py",
        "records/stats.py",
        "records/summary.py",
    },
    "values: they pass, and are not passed through": {
        "model/counts.py",
        "model/flows.py",
        "model/owners.py",
    },
}


@pytest.fixture(scope="module")
def entered(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The modules in which a function was called for packets of a known flow."""
    require("ip")
    folder = tmp_path_factory.mktemp("run")
    config = write_config(folder, CONFIG)
    with namespace() as netns, (folder / "records.jsonl").open("w") as records:
        command = netns.command(sys.executable, Path(packet_path.__file__), config)
        ended = subprocess.run(
            command, check=True, stdout=records, stderr=subprocess.PIPE, text=True
        )
    modules: list[str] = json.loads(ended.stderr)
    return modules


def is_aside(module: str) -> bool:
    is_lookup = module.startswith("attribution/")
    return is_lookup or any(module in modules for modules in ASIDE.values())


def test_a_packet_of_a_known_flow_passes_few_modules(entered: list[str]) -> None:
    path = [one for one in entered if one.startswith(OF_PACKETS) and not is_aside(one)]
    assert {"capture/pcap.py", "capture/decode/vector_ip.py", "flows/flow_table.py"} < set(path)
    assert len(path) <= MOST_OF_A_PACKET, ", ".join(path)


def test_what_a_window_has_counted_passes_few_modules(entered: list[str]) -> None:
    path = [one for one in entered if not one.startswith(OF_PACKETS) and not is_aside(one)]
    assert {"processing.py", "aggregation/aggregator.py", "sinks/encoding.py"} < set(path)
    assert len(path) <= MOST_OF_A_WINDOW, ", ".join(path)


def test_the_modules_that_are_not_counted_exist() -> None:
    for module in set().union(*ASIDE.values()):
        assert (packet_path.PACKAGE / module).is_file(), module
