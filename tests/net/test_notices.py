"""The lines that a live run prints without -v: where owners come from, and what has none."""

import subprocess
import sys

import pytest
from support.bpf import require_bpf
from support.namespaces import Namespace
from support.running import running

COMMAND = (sys.executable, "-m", "hogpipe", "run", "-i", "lo", "--format", "jsonl")
CAPTURE = (sys.executable, "-m", "hogpipe", "capture", "-i", "lo", "-w", "-")
BRIEFLY = ("--duration", "0.3")
FROM_LEDGER = "hogpipe: owners come from the ledger (eBPF), and from /proc\n"
FROM_PROC = "hogpipe: owners come from /proc alone; connections of some milliseconds may have none"
FEW_RIGHTS = ("setpriv", "--bounding-set=-all,+net_raw", "--inh-caps=-all")
# Each socket is closed before a lookup can see it.
UNSEEN = """
import socket
for _ in range(200):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.sendto(b"x", ("127.0.0.1", 9))
"""


@pytest.mark.parametrize(
    ("prefix", "options", "line"),
    [
        ((), (), FROM_LEDGER),
        ((), ("--source", "ebpf", "--set", 'capture.interfaces=["auto"]'), FROM_LEDGER),
        (
            (),
            ("--set", "attribution.ledger=off"),
            f"{FROM_PROC}\n",
        ),
        (
            FEW_RIGHTS,
            (),
            f"{FROM_PROC} (no ledger: eBPF: not permitted to load programs; grant CAP_BPF, ",
        ),
    ],
    ids=["ledger", "ebpf", "off", "not permitted"],
)
def test_one_line_says_where_owners_come_from(
    netns: Namespace, prefix: tuple[str, ...], options: tuple[str, ...], line: str
) -> None:
    require_bpf()
    with running(
        None, *netns.enter(*prefix, *COMMAND, *BRIEFLY, *options), stdout=subprocess.PIPE
    ) as run:
        assert run.wait() == 0, run.errors
    assert run.errors[0].startswith(line)
    # With `ebpf`, traffic of the whole host may add a line about what has no owner.
    assert any("captured, 0 dropped" in error for error in run.errors[1:])


@pytest.mark.parametrize("words", [COMMAND, CAPTURE], ids=["run", "capture"])
def test_much_traffic_without_owner_is_explained_at_the_end(
    netns: Namespace, words: tuple[str, ...]
) -> None:
    command = netns.enter(*words, "-v", "--set", "attribution.ledger=off")
    with running(None, *command, stdout=subprocess.PIPE) as run:
        run.wait_for("capturing on lo")
        subprocess.run(netns.enter(sys.executable, "-c", UNSEEN), check=True)
        assert run.end() == 0, run.errors
    assert run.errors[-1].startswith("hogpipe: 1")
    assert "% of the bytes have no owner: `hogpipe doctor` prints what" in run.errors[-1]
