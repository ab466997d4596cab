"""Which lines are acknowledged, whatever the slices and whenever one looks."""

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from hogpipe.sinks.tcp.sent import SentLines

LINES = st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"") + b"\n"))
SLICES = st.lists(LINES.map(b"".join), max_size=8)


@given(slices=SLICES, start=st.integers(0, 1000), looks=st.lists(st.integers(0, 2000)))
def test_of_a_plain_connection_each_whole_line_counts(
    slices: list[bytes], start: int, looks: list[int]
) -> None:
    sent = SentLines(exact=True)
    for data, end in zip(slices, accumulate(map(len, slices), initial=start), strict=False):
        sent.add(data, end + len(data))
    for offset in sorted(looks):
        acknowledged = b"".join(slices)[: max(0, offset - start)]
        assert sent.acknowledged(offset) == acknowledged.count(b"\n")


@given(slices=SLICES, looks=st.lists(st.integers(0, 1000)))
def test_of_a_secured_connection_only_whole_slices_count(
    slices: list[bytes], looks: list[int]
) -> None:
    sent = SentLines(exact=False)
    ends = list(accumulate(len(data) + 22 for data in slices))
    for data, end in zip(slices, ends, strict=True):
        sent.add(data, end)
    for offset in sorted(looks):
        whole = [data for data, end in zip(slices, ends, strict=True) if end <= offset]
        assert sent.acknowledged(offset) == b"".join(whole).count(b"\n")


def test_the_count_never_goes_back() -> None:
    sent = SentLines(exact=True)
    sent.add(b"a\nb\n", 4)
    assert sent.acknowledged(4) == 2
    assert sent.acknowledged(0) == 2
