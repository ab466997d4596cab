"""Records are found where their lengths lead, whatever beginnings are guessed."""

import struct

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.captures import Captured, lanes_of, pcap_file

from hogpipe.capture.formats.make_parser import make_parser
from hogpipe.capture.formats.record_chain import RecordForm, find_records

FORMS = st.sampled_from(
    [
        RecordForm("<", header=8, length_at=4, added=8, least=8),
        RecordForm(">", header=8, length_at=0, added=8, least=8),
        RecordForm("<", header=6, length_at=2, added=0, least=6),
        RecordForm(">", header=8, length_at=4, added=0, least=12, unit=4),
    ]
)


def walk(data: bytes, at: int, form: RecordForm) -> list[int]:
    """Return the records, one after the other, up to one of an invalid length."""
    found = []
    while at + form.header <= len(data):
        found.append(at)
        if has_invalid_length(data, at, form):
            break
        at += length_of(data, at, form)
    return found


def length_of(data: bytes, at: int, form: RecordForm) -> int:
    """Return the length of the record at `at`."""
    (length,) = struct.unpack_from(form.order + "I", data, at + form.length_at)
    return int(length) + form.added


def has_invalid_length(data: bytes, at: int, form: RecordForm) -> bool:
    """Return whether no record has the length of the one at `at`."""
    length = length_of(data, at, form)
    return length < form.least or length % form.unit > 0


@st.composite
def chunks(draw: st.DrawFn, form: RecordForm) -> bytes:
    """Records of which some have any length at all, and bytes of no record."""
    data = bytes(draw(st.integers(0, 5)) * form.unit)
    for _ in range(draw(st.integers(0, 60))):
        size = form.least + draw(st.integers(0, 12)) * form.unit
        length = draw(st.one_of(*[st.just(size - form.added)] * 20, st.integers(0, 2**32 - 1)))
        record = bytearray(size)
        struct.pack_into(form.order + "I", record, form.length_at, length)
        data += bytes(record)
    return data + draw(st.binary(max_size=20))


@given(st.data(), FORMS, st.integers(1, 5), st.integers(1, 4))
def test_guesses_do_not_decide_which_records_are_found(
    data: st.DataObject, form: RecordForm, records: int, least: int
) -> None:
    chunk, first = data.draw(chunks(form)), data.draw(st.integers(0, 5)) * form.unit
    expected = walk(chunk, first, form)

    def guess(bounds: range) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Guess right, wrong, or nothing."""
        guessed = []
        for at in bounds:
            right = [one for one in expected if at <= one < at + bounds.step][:1]
            wrong = range(at, min(at + bounds.step, len(chunk) - form.header + 1), form.unit)
            chosen = data.draw(st.sampled_from([right, right, right, wrong, []]))
            guessed += [data.draw(st.sampled_from(chosen))] if len(chosen) else []
        return np.array(guessed, np.int64)

    with lanes_of(records, least):
        found = find_records(chunk, first, form, guess).tolist()
        some = find_records(chunk, first, form, guess, about=data.draw(st.integers(1, 60))).tolist()
    assert found[: len(expected)] == expected
    assert len(found) == len(expected) or has_invalid_length(chunk, expected[-1], form)
    assert some[: len(expected)] == expected[: len(some)]
    assert bool(some) == bool(expected)


def test_lanes_begin_where_records_are_guessed() -> None:
    form = RecordForm("<", header=4, length_at=0, added=4, least=4)
    chunk = struct.pack("<I6x", 6) * 1000
    guesses: list[int] = []

    def guess(bounds: range) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        guesses.extend(bounds)
        return np.array(bounds)

    with lanes_of(10, 8):
        found = find_records(chunk, 0, form, guess)
    assert found.tolist() == list(range(0, 10_000, 10))
    assert guesses == list(range(200, 10_000, 100))


START = 1_700_000_000_000_000  # microseconds
FRAMES = st.lists(
    st.one_of(
        st.binary(max_size=30),
        # A frame that has records in it.
        st.lists(st.binary(max_size=4), max_size=3).map(
            lambda inner: pcap_file([Captured(START, one) for one in inner])[24:]
        ),
    ),
    max_size=60,
)


@given(
    FRAMES,
    st.sampled_from(["<", ">"]),
    st.lists(st.tuples(st.integers(24, 3000), st.binary(max_size=6)), max_size=2),
    st.integers(1, 5),
    st.integers(1, 300),
)
def test_a_pcap_file_has_the_same_frames_with_and_without_lanes(
    frames: list[bytes], order: str, changes: list[tuple[int, bytes]], records: int, chunk: int
) -> None:
    file = bytearray(pcap_file([Captured(START, frame) for frame in frames], order=order))
    for at, change in changes:
        if at + len(change) <= len(file):
            file[at : at + len(change)] = change

    def parse() -> tuple[list[list[int]], str | None]:
        parser, rest, rows = make_parser(bytes(file[:24])), b"", []
        for start in range(0, len(file), chunk * 10):
            data = rest + bytes(file[start : start + chunk * 10])
            parsed = parser.parse(data)
            rows += parsed.frames.records.tolist()
            rest = data[parsed.used :]
        return rows, parser.failure

    expected = parse()
    with lanes_of(records, 2):
        assert parse() == expected
