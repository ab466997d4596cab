"""PURE: the owners of datagram sockets that existed before the programs, in columns.

In: the snapshot, once. Out: for a column of socket cookies, the number of the owner of each.

There may be tens of thousands of such sockets, each with a row in every epoch, and few owners. A
cookie is found by binary search, and whether an owner lives is asked once for all its sockets.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hogpipe.model import SERVICE_MANAGER, SnapshotSocket, SocketOwner
from hogpipe.protocols import TCP


class EarlierOwner(NamedTuple):
    """The owner of sockets of one network namespace."""

    owner: SocketOwner
    namespace_cookie: int


class EarlierOwners:
    """The owners of the datagram sockets of a snapshot.

    Sockets of the service manager are left out, and those whose owner has no known start.
    """

    def __init__(self, sockets: Iterable[SnapshotSocket] = ()) -> None:
        numbers: dict[EarlierOwner | None, int] = {None: 0}
        of_cookie: dict[int, int] = {}
        for socket in sockets:
            owner = socket.owner
            if socket.protocol == TCP or owner is None or owner.start is None:
                continue
            if owner.command != SERVICE_MANAGER:
                key = EarlierOwner(owner, socket.namespace_cookie)
                of_cookie[socket.cookie] = numbers.setdefault(key, len(numbers))
        self.owners = list(numbers)
        """By number; 0 is the number of no owner."""
        cookies = np.fromiter(of_cookie, np.uint64, len(of_cookie))
        order = cookies.argsort()
        # One cookie more, so that no search ends behind the last one.
        self._cookies = np.append(cookies[order], np.uint64(0))
        self._numbers = np.append(
            np.fromiter(of_cookie.values(), np.intp, len(of_cookie))[order], 0
        )

    def find(self, cookies: NDArray[np.uint64]) -> NDArray[np.intp]:
        """Return the number of the owner of each socket, 0 where none is known."""
        places = np.searchsorted(self._cookies[:-1], cookies)
        return np.where(self._cookies[places] == cookies, self._numbers[places], 0)
