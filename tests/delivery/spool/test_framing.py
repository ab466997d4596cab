"""A window as bytes comes back as it was, or is known to be damaged."""

from hypothesis import given
from hypothesis import strategies as st
from support.sinks import stats, traffic

from hogpipe.delivery.spool.framing import HEAD_SIZE, decode_payload, encode_window, parse_head
from hogpipe.records.schema import Record

WINDOW: list[Record] = [traffic(1, pid=1), traffic(2, pid=None), stats(3)]


def _decode(frame: bytes) -> list[Record] | None:
    head = parse_head(frame[:HEAD_SIZE])
    return decode_payload(head, frame[HEAD_SIZE:]) if head else None


def test_a_window_comes_back_as_it_was() -> None:
    assert _decode(encode_window(WINDOW)) == WINDOW


def test_a_frame_is_text_that_can_be_saved_by_hand() -> None:
    head, *lines = encode_window(WINDOW).splitlines()
    assert head.startswith(b"#00000003 ")
    assert len(lines) == 3
    assert all(line.startswith(b'{"type":"') for line in lines)


@given(st.data())
def test_a_changed_bit_is_noticed_wherever_it_is(data: st.DataObject) -> None:
    frame = bytearray(encode_window(WINDOW))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert _decode(bytes(frame)) is None


@given(st.binary(max_size=2 * HEAD_SIZE))
def test_anything_else_is_no_head(data: bytes) -> None:
    assert parse_head(data) is None
