"""Windows of connections for tests of `top`."""

from collections.abc import Sequence
from ipaddress import ip_address

import numpy as np

from hogpipe.model import Quality, TcpHealth
from hogpipe.top.described_flows import Owner, Path
from hogpipe.top.run_figures import Figures
from hogpipe.top.traffic_table import QUALITIES, TrafficTable, WindowTraffic, select_known

from .health import encode_health

START = 1_795_330_800.0
NGINX = Owner(pid=10, created=1, program="nginx", user="www-data", unit="nginx.service")
CURL = Owner(pid=20, created=2, program="curl", user="root")


def path(port: int = 443, remote: str = "10.0.0.9", local_port: int = 50000) -> Path:
    """Return the path of a TCP connection to a service at `remote`."""
    here, there = ip_address("10.0.0.1").packed, ip_address(remote).packed
    return Path("tcp", "ipv4", "eth0", here, local_port, there, port, port)


def window(
    table: TrafficTable,
    number: int,
    moved: Sequence[tuple[Owner, Path, int, int]],
    quality: Quality = Quality.EXACT,
    health: Sequence[TcpHealth | None] | None = None,
) -> WindowTraffic:
    """Return the window with this number, a second long, in which connections moved bytes.

    `health` is that of each connection.
    """
    table.make_room(len(moved))
    slots = np.array([table.find(owner, where) for owner, where, _, _ in moved], np.int32)
    traffic = [(transmit, receive, 1, 2) for _, _, transmit, receive in moved]
    columns = np.array(traffic, np.int64).reshape(-1, 4).T
    return WindowTraffic(
        START + number,
        START + number + 1,
        slots,
        columns,
        np.ones(len(moved), np.int64),
        slots,
        np.full(len(moved), QUALITIES.index(quality), np.uint8),
        columns[0] + columns[1],
        Figures(windows=1, captured_packets=3 * len(moved)),
        select_known(slots, None if health is None else encode_health(health)),
    )


def play(table: TrafficTable, *windows: Sequence[tuple[Owner, Path, int, int]]) -> None:
    """Append windows, and move the cursor behind them."""
    for moved in windows:
        table.append(window(table, table.passed, moved))
        table.advance()
