"""What the fixture `hogpipe_traffic` returns: readings, and assertions about them."""

import warnings

import pytest

import hogpipe
from hogpipe_pytest.limits import Limits, add_hosts, find_gap, find_problem


class TestTraffic:
    """What a test has moved since it began, or since `restart`."""

    __test__ = False  # its name is no test's

    def __init__(self, watch: hogpipe.Watch) -> None:
        self._watch = watch

    def read(self) -> hogpipe.Traffic:
        """Return what was moved until now."""
        return self._watch.read()

    def restart(self) -> None:
        """Begin at zero again."""
        self._watch.restart()

    def assert_no_network(self, *, loopback: bool = False, dns: bool = False) -> None:
        """Fail if anything was moved; `loopback` and `dns` leave that out."""
        self._check(Limits(max_bytes=0, loopback=loopback, dns=dns))

    def assert_at_most(self, max_bytes: int, *, loopback: bool = False, dns: bool = False) -> None:
        """Fail if IP packets of both directions have more bytes."""
        self._check(Limits(max_bytes=max_bytes, loopback=loopback, dns=dns))

    def assert_only_to(self, *hosts: str, loopback: bool = False, dns: bool = False) -> None:
        """Fail if a peer is none of these addresses, networks and names."""
        limits = add_hosts(Limits(loopback=loopback, dns=dns), hosts)
        traffic = self.read()  # before names are resolved
        _check(traffic, limits.resolve())

    def _check(self, limits: Limits) -> None:
        __tracebackhide__ = True
        _check(self.read(), limits)


def _check(traffic: hogpipe.Traffic, limits: Limits) -> None:
    __tracebackhide__ = True
    if (problem := find_problem(traffic, limits)) is not None:
        pytest.fail(problem)
    if (gap := find_gap(traffic)) is not None:
        warnings.warn(pytest.PytestWarning(gap), stacklevel=4)
