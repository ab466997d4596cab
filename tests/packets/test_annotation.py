"""Owners of packets in words, and in the options of a packet."""

import msgspec
from support.packet_files import COMMENT, PROCESS, read_options
from support.traffic import NGINX, exact

from hogpipe.model import (
    TRANSLATED,
    UNATTRIBUTED,
    Attribution,
    ContainerNames,
    Process,
    Quality,
    User,
)
from hogpipe.packets.annotation import Annotator, annotate, describe
from hogpipe.packets.packet_buffer import Packet

CURL = Process(77, 1, executable="/usr/bin/curl", user_id=1000)


def test_an_owner_is_described_with_its_quality() -> None:
    nginx = msgspec.structs.replace(NGINX, container=None, pod=None)
    text = "nginx, pid 4242, user www-data, unit nginx.service; exact"
    assert describe(exact(nginx)) == text
    assert describe(Attribution(Quality.INFERRED, CURL)) == "curl, pid 77, user 1000; inferred"
    assert describe(Attribution(Quality.NONE, user=User(33, "www-data"))) == "user www-data; none"
    assert describe(UNATTRIBUTED) == "no owner; none"
    assert describe(TRANSLATED) == "translated copy; none"


def test_the_container_and_the_pod_are_described_by_name_or_id() -> None:
    container = msgspec.structs.replace(CURL, container="0123456789abcdef" * 4)
    assert describe(exact(container)).endswith(", container 0123456789ab; exact")
    named = msgspec.structs.replace(container, container_names=ContainerNames(name="web"))
    assert describe(exact(named)).endswith(", container web; exact")
    pod = msgspec.structs.replace(CURL, pod="1234-56", container="web")
    assert describe(exact(pod)).endswith(", container web, pod 1234-56; exact")
    names = ContainerNames(name="k8s_web", pod_name="web-1", pod_namespace="shop")
    pod = msgspec.structs.replace(pod, container_names=names)
    assert describe(exact(pod)).endswith(", container k8s_web, pod shop/web-1; exact")


def test_the_kernels_own_packets_have_its_name() -> None:
    assert describe(Attribution(Quality.INFERRED, kernel="vxlan")) == "kernel: vxlan; inferred"


def test_a_hostile_name_stays_in_its_line() -> None:
    hostile = msgspec.structs.replace(CURL, executable="/tmp/\x1b[2Jx\nreceive: nginx")
    assert describe(exact(hostile)).startswith(r"\x1b[2Jx\nreceive: nginx, pid 77")


def pid_of(options: bytes) -> bytes:
    return read_options(options)[PROCESS][0]


def test_each_local_side_has_a_comment_and_the_selected_one_the_process_id() -> None:
    both = exact(CURL), exact(NGINX)
    options = read_options(annotate(*both, prefers_receiver=False))
    assert [text.decode().split(",")[0] for text in options[COMMENT]] == [
        "transmit: curl",
        "receive: nginx",
    ]
    assert pid_of(annotate(*both, prefers_receiver=False)) == (77).to_bytes(8, "little")
    assert pid_of(annotate(*both, prefers_receiver=True)) == (4242).to_bytes(8, "little")


def test_the_direction_is_that_of_the_only_local_side() -> None:
    sides = {(exact(CURL), None): 2, (None, exact(CURL)): 1}
    for (transmitter, receiver), direction in sides.items():
        options = read_options(annotate(transmitter, receiver, prefers_receiver=False))
        assert options[2] == [direction.to_bytes(4, "little")]
    assert 2 not in read_options(annotate(exact(CURL), exact(NGINX), prefers_receiver=False))
    assert annotate(None, None, prefers_receiver=False) == b""


def test_a_packet_without_a_process_has_no_process_id() -> None:
    options = read_options(annotate(UNATTRIBUTED, None, prefers_receiver=False))
    assert PROCESS not in options


def test_an_annotator_prefers_the_side_for_which_a_packet_is_selected() -> None:
    packet = Packet(0, 0, b"", 0)
    packet.transmitter, packet.receiver = exact(CURL), exact(NGINX)
    packet.selects_receiver = True
    assert pid_of(Annotator().annotate(packet)) == (4242).to_bytes(8, "little")
