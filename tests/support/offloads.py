"""What a network card does in place of the kernel: switched off, for taps that show segments."""

import ctypes
import fcntl
import socket
import struct

from support.namespaces import Namespace

_SIOCETHTOOL = 0x8946  # include/uapi/linux/sockios.h
_TX_CHECKSUM, _TSO, _GSO = 0x17, 0x1F, 0x24  # ETHTOOL_S… of include/uapi/linux/ethtool.h


def segment_in_kernel(where: Namespace, interface: str) -> None:
    """Have the kernel segment packets before they pass `interface`, as without an offload."""

    def switch_off() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            for command in (_TSO, _GSO, _TX_CHECKSUM):
                value = ctypes.create_string_buffer(struct.pack("II", command, 0))
                request = struct.pack("16sP", interface.encode(), ctypes.addressof(value))
                fcntl.ioctl(end, _SIOCETHTOOL, request)

    where.call(switch_off)
