"""A pytest plugin: tests assert what they move over the network.

In: the markers `network` and `no_network`, and the fixture `hogpipe_traffic`. Out: failures that
list the peers. One measurement of this process and its children lasts from the first test that
needs it to the end of the session; each such test begins at zero, after its fixtures are set up.

What may fail: without privileges a test is skipped or is an error (`hogpipe_unavailable`). A
marker with wrong arguments is an error of usage when tests are collected.
"""

import os
from collections.abc import Generator, Sequence
from contextlib import suppress

import pytest

import hogpipe
from hogpipe_pytest.limits import Limits, find_gap, find_problem, make_limits
from hogpipe_pytest.traffic import TestTraffic

_FIXTURE = "hogpipe_traffic"
_measurement = pytest.StashKey[tuple[int, hogpipe.Watch]]()
"""The pid of the process that measures, and the measurement: a fork of it needs its own."""
_limits = pytest.StashKey[Limits]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ini options."""
    parser.addini(
        "hogpipe_unavailable", "skip or error, where nothing can be measured", default="skip"
    )
    parser.addini("hogpipe_source", "what counts: auto, ebpf or pcap", default="auto")


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and check the ini options."""
    for marker in (
        "network(max_bytes, hosts, loopback, dns): what the test may move over the network",
        "no_network(loopback, dns): the test moves nothing over the network",
    ):
        config.addinivalue_line("markers", marker)
    for name, choices in (
        ("hogpipe_unavailable", ("skip", "error")),
        ("hogpipe_source", ("auto", "ebpf", "pcap")),
    ):
        if config.getini(name) not in choices:
            raise pytest.UsageError(f"{name}: must be one of {', '.join(choices)}")


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Read the markers of all tests."""
    for item in items:
        for marker in item.iter_markers():
            if marker.name in {"network", "no_network"}:
                try:
                    limits = make_limits(marker.name, marker.args, marker.kwargs)
                except (TypeError, ValueError) as error:
                    raise pytest.UsageError(f"{item.nodeid}: {marker.name}: {error}") from error
                item.stash[_limits] = limits
                break


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the measurement."""
    _pid, watch = config.stash.get(_measurement, (0, None))
    if watch is not None:
        with suppress(hogpipe.HogpipeError):  # all tests have their results
            watch.__exit__(None, None, None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Begin at zero, and check the limits of a test that has passed."""
    limits = item.stash.get(_limits, None)
    if limits is None and _FIXTURE not in getattr(item, "fixturenames", ()):
        return (yield)
    watch = _open(item.config)
    try:
        allowed = None if limits is None else limits.resolve()
    except OSError as error:
        pytest.fail(f"a name in the marker network cannot be resolved: {error}", pytrace=False)
    watch.restart()
    result = yield
    if allowed is not None:
        traffic = watch.read()
        if problem := find_problem(traffic, allowed):
            pytest.fail(problem, pytrace=False)
        if gap := find_gap(traffic):
            item.warn(pytest.PytestWarning(gap))
    return result


@pytest.fixture
def hogpipe_traffic(pytestconfig: pytest.Config) -> TestTraffic:
    """Return what measures the test, from its begin on, or from `restart` on."""
    return TestTraffic(_open(pytestconfig))


def _open(config: pytest.Config) -> hogpipe.Watch:
    """Return the measurement of the session; skip the test, or fail it, without privileges."""
    pid, watch = config.stash.get(_measurement, (0, None))
    if watch is None or pid != os.getpid():
        watch = hogpipe.measure(source=config.getini("hogpipe_source"))
        try:
            watch.__enter__()
        except hogpipe.HogpipeError as error:
            if config.getini("hogpipe_unavailable") == "skip":
                pytest.skip(f"the network cannot be measured: {error}")
            pytest.fail(f"the network cannot be measured: {error}", pytrace=False)
        config.stash[_measurement] = os.getpid(), watch
    return watch
