"""The TCP sockets of a network namespace as they are destroyed, over NETLINK_SOCK_DIAG.

In: nothing. Out: messages (destroyed_messages.py), one for each socket, with its last tcp_info. The
kernel makes them only while somebody listens; nothing is asked for, and no right is needed. A link
belongs to the network namespace of the thread that opens it.

Where the receive buffer is full the kernel drops messages, which `overruns` counts.
"""

import errno
import socket

from hogpipe.linux.limits import set_receive_buffer

# include/uapi/linux/sock_diag.h, netlink.h
_NETLINK_SOCK_DIAG, _SOL_NETLINK, _ADD_MEMBERSHIP = 4, 270, 1
_TCP_DESTROY, _TCP6_DESTROY = 1, 3
_BUFFER_BYTES = 1 << 22
_MESSAGE_BYTES = 4096


class DestroyedSockets:
    """A link that listens until `close`. Raises OSError, with nothing open."""

    def __init__(self, buffer_bytes: int = _BUFFER_BYTES) -> None:
        self.overruns = 0
        """Times that the kernel had no room for messages."""
        self._link = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
        )
        try:
            self._link.setblocking(False)
            self._link.bind((0, 0))  # messages of the kernel pass by sockets without an address
            set_receive_buffer(self._link, buffer_bytes)
            for group in (_TCP_DESTROY, _TCP6_DESTROY):
                self._link.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        except BaseException:
            self._link.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor, which is readable while there are messages."""
        return self._link.fileno()

    def read(self, most: int) -> list[bytes]:
        """Return the messages that are there, `most` of them at the most. Raises OSError."""
        messages: list[bytes] = []
        while len(messages) < most:
            try:
                messages.append(self._link.recv(_MESSAGE_BYTES))
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.overruns += 1
        return messages

    def close(self) -> None:
        """Stop listening. May be called again."""
        self._link.close()
