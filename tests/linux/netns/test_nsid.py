"""The nsids of network namespaces, as rtnetlink reports them."""

import struct
from pathlib import Path

import pytest
from support.namespaces import Namespace

from hogpipe.linux.netns.nsid import NOT_ASSIGNED, parse_nsid, read_nsids
from hogpipe.linux.rtnetlink import read_link_table


def answer(kind: int, attribute: int, number: int) -> bytes:
    return struct.pack("=IHHII4xHHi", 28, kind, 0, 1, 0, 8, attribute, number)


def test_an_answer_has_the_nsid_of_a_namespace() -> None:
    assert parse_nsid(answer(88, 1, 7)) == 7
    assert parse_nsid(answer(88, 1, 0)) == 0
    assert parse_nsid(answer(88, 1, -1)) == NOT_ASSIGNED


@pytest.mark.parametrize(
    "other", [answer(88, 1, -2), answer(88, 2, 7), answer(2, 1, 7), answer(88, 1, 7)[:-1], b""]
)
def test_an_answer_without_an_nsid_is_none(other: bytes) -> None:
    assert parse_nsid(other) is None


def test_the_kernel_gives_the_nsid_of_a_namespace(
    container_veth: tuple[Namespace, Namespace],
) -> None:
    left, right = container_veth
    (link,) = [one for one in left.call(read_link_table).links if one.name == "left"]
    paths = [Path(f"/run/netns/{right.name}"), Path("/proc/0/ns/net")]
    assert left.call(lambda: read_nsids(paths)) == [link.peer_netns, None]
