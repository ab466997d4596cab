"""Frames decoded in both ways, whose sums must be equal."""

from collections import Counter

from hogpipe.capture.decode.columns import FrameBatch
from hogpipe.capture.decode.decoder import LARGE_BATCH, Decoder
from hogpipe.capture.decode.fragments import FragmentTable
from hogpipe.capture.decode.wire_packets import DecodedFrames, sum_by_key

from .wired import rows_of


class DecoderPair:
    """A decoder of columns and one of single frames, with the state of the batches before."""

    def __init__(self, link_type: int, snaplen: int = 0) -> None:
        self._at_once, self._one_by_one = (
            Decoder(link_type, FragmentTable(), snaplen) for _ in range(2)
        )

    def check(self, batch: FrameBatch) -> None:
        """Assert that both ways give the same sums, and no more bytes than the frames have.

        All fragments that are pending afterwards are counted, too.
        """
        sums, expected = Counter[bytes](), Counter[bytes]()
        for decoded in (self._at_once.decode(batch), self._at_once.flush()):
            _add(sums, decoded)
        for start in range(0, len(batch), LARGE_BATCH - 1):
            _add(expected, self._one_by_one.decode(batch.slice(start, start + LARGE_BATCH - 1)))
        _add(expected, self._one_by_one.flush())
        assert sums == expected
        total = sum(size for key, size in sums.items() if not key.startswith(b"packets"))
        assert sum(sums.values()) - total == len(batch)
        if batch.original_lengths is not None:
            assert total <= int(batch.original_lengths.sum())


def _add(sums: Counter[bytes], decoded: DecodedFrames) -> None:
    for key, size, packets, *_ in rows_of(sum_by_key(decoded.packets)):
        sums[b"packets" + key] += packets
        sums[key] += size
    for name, tally in ((b"not IP", decoded.not_ip), (b"undecoded", decoded.undecoded)):
        sums[b"packets" + name] += tally.packets
        sums[name] += tally.bytes
