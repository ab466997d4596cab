"""Acknowledged bytes are converted to lines, for any slices and offsets."""

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from hogpipe.sinks.tcp.connection import AcknowledgedLines

LINES = st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"") + b"\n"))
SLICES = st.lists(LINES.map(b"".join), max_size=8)


@given(slices=SLICES, start=st.integers(0, 1000), offsets=st.lists(st.integers(0, 2000)))
def test_each_whole_line_counts_on_a_plain_connection(
    slices: list[bytes], start: int, offsets: list[int]
) -> None:
    lines = AcknowledgedLines(exact=True)
    for data, end in zip(slices, accumulate(map(len, slices), initial=start), strict=False):
        lines.add(data, end + len(data))
    for offset in sorted(offsets):
        acknowledged = b"".join(slices)[: max(0, offset - start)]
        assert lines.acknowledged(offset) == acknowledged.count(b"\n")


@given(slices=SLICES, offsets=st.lists(st.integers(0, 1000)))
def test_only_whole_slices_count_with_tls(slices: list[bytes], offsets: list[int]) -> None:
    lines = AcknowledgedLines(exact=False)
    ends = list(accumulate(len(data) + 22 for data in slices))
    for data, end in zip(slices, ends, strict=True):
        lines.add(data, end)
    for offset in sorted(offsets):
        whole = [data for data, end in zip(slices, ends, strict=True) if end <= offset]
        assert lines.acknowledged(offset) == b"".join(whole).count(b"\n")


def test_the_count_never_decreases() -> None:
    lines = AcknowledgedLines(exact=True)
    lines.add(b"a\nb\n", 4)
    assert lines.acknowledged(4) == 2
    assert lines.acknowledged(0) == 2
