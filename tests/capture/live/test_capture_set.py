"""The addresses with flows of their own at any of several captured interfaces."""

import os
from collections.abc import Iterator
from typing import cast

import pytest

from hogpipe.capture.decode.wire_packets import CapturedPackets
from hogpipe.capture.live.interface_capture import CaptureSet, InterfaceCapture
from hogpipe.capture.local_addresses import LocalAddresses
from hogpipe.model import OWN_NAMESPACE

HOST, CONTAINER = bytes([10, 0, 0, 1]), bytes([10, 88, 0, 2])
RED, BLUE = 4026532001, 4026532002


class FakeCapture:
    """A capture without frames; its descriptor is one end of a pipe."""

    def __init__(self, namespace: int) -> None:
        containers = {namespace: LocalAddresses(frozenset({CONTAINER}))}
        self.local = LocalAddresses(frozenset({HOST})).with_containers(containers)
        self._reader, self._writer = os.pipe()

    def fileno(self) -> int:
        return self._reader

    def close(self, _captured: CapturedPackets | None = None) -> None:
        os.close(self._reader)
        os.close(self._writer)


@pytest.fixture
def captures() -> Iterator[CaptureSet]:
    """Two captured interfaces, each leading to a container with the same address."""
    made = CaptureSet()
    for index, namespace in ((1, RED), (2, BLUE)):
        made.add(index, cast("InterfaceCapture", FakeCapture(namespace)))
    yield made
    for index in list(made.indices()):
        made.close(index, CapturedPackets())


def test_an_address_is_that_of_each_captured_namespace_that_has_it(captures: CaptureSet) -> None:
    assert captures.local.namespaces_of(HOST) == (OWN_NAMESPACE,)
    assert captures.local.namespaces_of(CONTAINER) == (RED, BLUE)


def test_the_addresses_of_a_closed_interface_stay_until_the_next_update(
    captures: CaptureSet,
) -> None:
    captures.close(1, CapturedPackets())
    assert captures.local.namespaces_of(CONTAINER) == (RED, BLUE)
    captures.update({})
    assert captures.local.namespaces_of(CONTAINER) == (BLUE,)
