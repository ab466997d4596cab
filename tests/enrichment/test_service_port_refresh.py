"""What is known of this host's ports follows the host."""

import asyncio
import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from hogpipe.enrichment import service_port_refresh
from hogpipe.enrichment.service_port_refresh import ServicePortRefresher
from hogpipe.model import ServicePorts


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    made = ThreadPoolExecutor(1)
    yield made
    made.shutdown()


def ports(*listening: int) -> ServicePorts:
    return ServicePorts(frozenset(listening))


async def test_only_changes_are_passed_on(executor: ThreadPoolExecutor) -> None:
    readings = iter([ports(1), ports(1), ports(1, 2), ports()])
    passed_on: list[ServicePorts] = []
    refresher = ServicePortRefresher(lambda: next(readings), executor, passed_on.append)
    for _ in range(4):
        await refresher.refresh()
    assert passed_on == [ports(1), ports(1, 2)]


async def test_a_port_counts_for_a_minute_after_its_listener_has_closed(
    executor: ThreadPoolExecutor,
) -> None:
    readings = iter([ports(1, 2), ports(2), ports(2), ports(2)])
    times = iter([0.0, 1.0, 60.0, 60.5])
    passed_on: list[ServicePorts] = []
    refresher = ServicePortRefresher(
        lambda: next(readings), executor, passed_on.append, clock=lambda: next(times)
    )
    for _ in range(3):
        await refresher.refresh()
    assert passed_on == [ports(1, 2)]
    await refresher.refresh()
    assert passed_on == [ports(1, 2), ports(2)]


async def test_what_is_known_stays_while_descriptors_are_short(
    executor: ThreadPoolExecutor,
) -> None:
    readings = iter([ports(1), None, ports(2)])

    def read() -> ServicePorts:
        if (reading := next(readings)) is None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return reading

    passed_on: list[ServicePorts] = []
    refresher = ServicePortRefresher(read, executor, passed_on.append)
    for _ in range(3):
        await refresher.refresh()
    assert passed_on == [ports(1), ports(1, 2)]


async def test_ports_are_read_again_until_cancelled(
    executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_port_refresh, "_INTERVAL", 0)
    twice, readings = asyncio.Event(), iter(range(1, 1_000_000))

    def use(latest: ServicePorts) -> None:
        if latest == ports(1, 2):
            twice.set()

    refresher = ServicePortRefresher(lambda: ports(next(readings)), executor, use)
    running = asyncio.create_task(refresher.run(lambda: True))
    await twice.wait()
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
