"""Untrusted text is escaped for terminals and logs."""

from hypothesis import given
from hypothesis import strategies as st

from hogpipe.text import describe_error, printable, replace_unprintable


def test_printable_text_of_any_script_is_unchanged() -> None:
    assert printable("nginx: wörker ядро 日本語") == "nginx: wörker ядро 日本語"


def test_escapes_line_ends_and_bidirectional_controls_become_visible() -> None:
    assert printable("a\x1b[2J\n\x7f\x9b\u202e\u2028\udc80") == (
        r"a\x1b[2J\n\x7f\x9b\u202e\u2028\udc80"
    )


@given(st.text())
def test_any_text_becomes_printable_and_encodable(text: str) -> None:
    assert printable(text).isprintable()
    printable(text).encode()


@given(st.text())
def test_a_label_is_printable_and_bounded(text: str) -> None:
    label = replace_unprintable(text, 8)
    assert label.isprintable() or label == ""
    assert [one for one in label if one != "\ufffd"] == [
        one for one in text[:8] if one.isprintable() and one != "\ufffd"
    ]
    assert len(label) == len(text[:8])


def test_an_error_of_many_lines_becomes_one_line() -> None:
    assert describe_error(ValueError("first\n  second\x07")) == r"ValueError: first; second\x07"
    assert describe_error(TimeoutError()) == "TimeoutError"


def test_an_error_whose_str_raises_is_named_by_its_type() -> None:
    class UnspeakableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert describe_error(UnspeakableError()).startswith("UnspeakableError: ")
