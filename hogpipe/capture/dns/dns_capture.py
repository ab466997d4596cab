"""The packets of port 53, read apart from all others within a budget of CPU time.

In: packets on all interfaces of the network namespace, loopback among them. Out: the answers that
are believed (`dns_exchanges.py`).

The socket has a filter of its own: the kernel runs it on each packet, and copies none but those of
port 53. It needs no rights once it is open, and sees interfaces that appear later. Packets that
come faster than the budget allows are dropped by the kernel and counted; names are missing then,
and nothing else is.

A packet is queued before the process that it is for can read it. So whoever reads all that is
queued, after a connection has begun, has the answer that led to it.
"""

import time
from importlib.util import find_spec

from hogpipe.capture.dns.dns_exchanges import DnsExchanges
from hogpipe.capture.pcap import compile_filter
from hogpipe.errors import CaptureError, NotPermittedError
from hogpipe.linux.packet_reader import PacketReader
from hogpipe.model.peer_names import Answer, NameCounts

_FILTER = "port 53"
_RAW_IP = 12  # DLT_RAW: the program sees packets from their IP header on
_LONGEST = 8192 + 128
"""Bytes of a packet that are read: a message of 8 KiB, with headers."""
_RETURN = 0x06  # BPF_RET | BPF_K


DECODER = "dns"
"""The package that decodes answers (dnspython), which not every installation has."""


def can_decode() -> bool:
    """Return whether answers can be decoded."""
    return find_spec(DECODER) is not None


class DnsCapture:
    """An `AnswerSource`; open it with CAP_NET_RAW. For one thread at a time."""

    def __init__(self) -> None:
        self._reader: PacketReader | None = None
        self._exchanges: DnsExchanges | None = None
        self.is_exhausted = True
        """Whether the last reading left no packet."""

    def open(self) -> None:
        """Begin to capture; raises NotPermittedError or CaptureError."""
        from hogpipe.capture.dns.dns_answers import decode_answer  # needs dnspython

        program = [
            (code, true, false, min(operand, _LONGEST) if code == _RETURN else operand)
            for code, true, false, operand in compile_filter(_FILTER, _RAW_IP, "names of peers")
        ]
        try:
            self._reader = PacketReader(program, _LONGEST)
        except PermissionError as error:
            raise NotPermittedError(
                "names of peers: capturing DNS needs the capability CAP_NET_RAW: run as root, or "
                'set enrichment.peer_names = "off"'
            ) from error
        except OSError as error:
            raise CaptureError(f"names of peers: no packet socket: {error.strerror}") from error
        self._exchanges = DnsExchanges(decode_answer)

    def fileno(self) -> int:
        """Return the descriptor to wait for packets with; it is open."""
        assert self._reader is not None
        return self._reader.fileno()

    def read_answers(self, most: int) -> list[Answer]:
        """Return the answers among the packets that passed; see AnswerSource."""
        if self._reader is None or self._exchanges is None:
            return []
        found: list[Answer] = []
        for _ in range(most):
            packet = self._reader.read()
            if packet is None:
                self.is_exhausted = True
                break
            if packet.is_transmitted or packet.is_received:
                found += self._exchanges.ingest(
                    packet.data,
                    packet.time_ns or time.time_ns(),
                    leaves=packet.is_transmitted,
                    arrives=packet.is_received,
                )
        else:
            self.is_exhausted = False
        self._exchanges.counts.dropped += self._reader.take_drops()
        return found

    @property
    def counts(self) -> NameCounts:
        """What was read so far; see AnswerSource."""
        return NameCounts() if self._exchanges is None else self._exchanges.counts

    def close(self) -> None:
        """Close the socket. May be called again."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
