"""Capabilities that a program file grants as permitted only become effective."""

import subprocess
import sys

from support.namespaces import require

from hogpipe.linux.capabilities import _SETS, _read_sets, parse_effective, read_thread_status

# Drops the effective set, as execve(2) leaves it after a program file with permitted capabilities.
SCRIPT = """
import threading
from hogpipe.linux import capabilities
_, permitted, inheritable, _, permitted_high, inheritable_high = capabilities._read_sets()
kept = permitted & ~(1 << 13)  # without CAP_NET_RAW
capabilities._write_sets(0, kept, inheritable, 0, permitted_high, inheritable_high)
def show():
    print(f"{capabilities.parse_effective(capabilities.read_thread_status()):x}")
show()
capabilities.use_permitted()
show()
thread = threading.Thread(target=show)
thread.start()
thread.join()
"""


def test_permitted_capabilities_become_effective_in_this_thread_and_later_ones() -> None:
    require("ip")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    low, _, _, high, _, _ = _read_sets()
    all_but_one = f"{(low | high << 32) & ~(1 << 13):x}"
    assert done.stdout.split() == ["0", all_but_one, all_but_one]


def test_the_sets_are_those_of_proc() -> None:
    low, _, _, high, _, _ = _read_sets()
    assert low | high << 32 == parse_effective(read_thread_status())
    assert _SETS.size == 24
