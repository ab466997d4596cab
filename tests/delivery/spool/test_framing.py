"""A window as bytes is decoded unchanged, or its damage is detected."""

from hypothesis import given
from hypothesis import strategies as st
from support.sinks import stats, traffic

from hogpipe.delivery.spool.framing import HEAD_SIZE, decode_payload, encode_window, parse_head
from hogpipe.records.schema import Record

WINDOW: list[Record] = [traffic(1, pid=1), traffic(2, pid=None), stats(3)]


def _decode(entry: bytes) -> list[Record] | None:
    head = parse_head(entry[:HEAD_SIZE])
    return decode_payload(head, entry[HEAD_SIZE:]) if head else None


def test_a_window_is_decoded_unchanged() -> None:
    assert _decode(encode_window(WINDOW)) == WINDOW


def test_an_entry_is_text_that_can_be_recovered_by_hand() -> None:
    head, *lines = encode_window(WINDOW).splitlines()
    assert head.startswith(b"#00000003 ")
    assert len(lines) == 3
    assert all(line.startswith(b'{"type":"') for line in lines)


@given(st.data())
def test_a_changed_bit_is_detected_at_any_place(data: st.DataObject) -> None:
    entry = bytearray(encode_window(WINDOW))
    entry[data.draw(st.integers(0, len(entry) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert _decode(bytes(entry)) is None


@given(st.binary(max_size=2 * HEAD_SIZE))
def test_other_bytes_are_no_head(data: bytes) -> None:
    assert parse_head(data) is None
