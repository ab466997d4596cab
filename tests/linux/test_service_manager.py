import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hogpipe.linux.service_manager import ServiceManager


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """The socket of a manager, and its name in NOTIFY_SOCKET."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@hogpipe-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(name.replace("@", "\0"))
        end.settimeout(10)
        yield end, name


def receive(end: socket.socket) -> str:
    return end.recv(4096).decode()


def test_each_state_is_one_datagram(manager: tuple[socket.socket, str]) -> None:
    end, name = manager
    reporter = ServiceManager({"NOTIFY_SOCKET": name})
    reporter.report_ready()
    assert receive(end) == "READY=1"
    reporter.report_reloading()
    reloading, _, clock = receive(end).partition("\nMONOTONIC_USEC=")
    assert reloading == "RELOADING=1"
    assert int(clock) > 0
    reporter.report_stopping()
    assert receive(end) == "STOPPING=1"


async def test_the_status_is_reported_with_the_watchdog_as_long_as_the_loop_runs(
    manager: tuple[socket.socket, str],
) -> None:
    end, name = manager
    variables = {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}
    reporter = ServiceManager({"NOTIFY_SOCKET": name} | variables)
    task = asyncio.create_task(reporter.report_status(lambda: "all is well"))
    for _ in range(3):
        assert await asyncio.to_thread(receive, end) == "WATCHDOG=1\nSTATUS=all is well"
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_without_a_manager_nothing_is_reported() -> None:
    reporter = ServiceManager({})
    reporter.report_ready()
    await reporter.report_status(lambda: pytest.fail("described for nobody"))


def test_a_manager_that_is_gone_is_no_error(tmp_path: Path) -> None:
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "none")}).report_ready()


@pytest.mark.parametrize(
    "variables",
    [
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"},
    ],
)
async def test_a_watchdog_of_another_process_or_without_a_time_is_none(
    manager: tuple[socket.socket, str], variables: dict[str, str]
) -> None:
    end, name = manager
    reporter = ServiceManager({"NOTIFY_SOCKET": name} | variables)
    task = asyncio.create_task(reporter.report_status(lambda: "well"))
    assert await asyncio.to_thread(receive, end) == "WATCHDOG=1\nSTATUS=well"
    end.settimeout(0.2)
    with pytest.raises(TimeoutError):
        await asyncio.to_thread(receive, end)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
