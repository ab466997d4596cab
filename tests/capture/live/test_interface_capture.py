"""What one captured interface counts."""

from typing import TYPE_CHECKING, cast

import pytest

from hogpipe.capture.decode.scalar_link import LinkType
from hogpipe.capture.decode.wire_packets import CapturedPackets
from hogpipe.capture.live.interface_capture import InterfaceCapture
from hogpipe.capture.live.interface_views import InterfaceView
from hogpipe.capture.local_addresses import LocalAddresses
from hogpipe.capture.wire_interfaces import WireInterfaces

if TYPE_CHECKING:
    from hogpipe.capture.pcap import Handle


class DroppingHandle:
    """A handle without frames, for which the kernel drops `drops`, one after the other."""

    timeout, ring_bytes, snaplen, link_type = 0.0, 1 << 20, 128, LinkType.ETHERNET

    def __init__(self, drops: list[int]) -> None:
        self._drops = drops

    def take_drops(self) -> tuple[int, int]:
        return self._drops.pop(0), 1


@pytest.mark.parametrize(("loopback", "counted"), [(False, [3, 4, 0, 1]), (True, [1, 2, 0, 1])])
def test_both_copies_of_a_loopback_frame_that_the_kernel_drops_count_once(
    loopback: bool, counted: list[int]
) -> None:
    view = InterfaceView("lo", LocalAddresses(loopback=loopback), big_tcp=False)
    handle = cast("Handle", DroppingHandle([3, 4, 0, 1]))
    capture = InterfaceCapture(handle, view, WireInterfaces(), lambda: None)
    for expected in counted:
        captured = CapturedPackets()
        capture.count_drops(captured)
        assert captured.counts.kernel_dropped == expected
        assert captured.counts.interface_dropped == 1
