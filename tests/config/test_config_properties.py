"""Properties: any file gives settings or a ConfigurationError, and no message quotes a secret."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.configuration import load_text

from hogpipe.config import Settings
from hogpipe.errors import ConfigurationError
from hogpipe.sinks.contract import SinkSettings

SECRET = "hush-0123456789"
SECRETS = {
    f"SECRET_{i}": text for i, text in enumerate([SECRET, f"port {SECRET}", f"{SECRET}\x1b"])
}

# No word names an existing folder (its plugins would be loaded), and `filter` gets none of them
# (libpcap would resolve them as host names).
WORDS = st.sampled_from(
    ["", "auto", "pcap", "savefile", "ebpf", "process", "remote", "pid:1", "exe", "stdout",
     "jsonl", "tcp", "kafak", "block", "on", "off", "x\x00", "\x1b[2J", "é\u2028", "a\nb"]
)  # fmt: skip
REFERENCES = st.sampled_from([{"env": name} for name in SECRETS] + [{"env": "NO"}, {"file": "no"}])
NUMBERS = st.integers() | st.floats() | st.just(10**400)
VALUES = st.recursive(
    WORDS | NUMBERS | st.booleans() | REFERENCES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=4,
)
SINK_KEYS = [*SinkSettings.__struct_fields__, "path", "host", "port", "format", "unknown"]


def tables_of(keys: list[str]) -> st.SearchStrategy[object]:
    """Return a strategy for tables with some of the `keys`, and for values that are no table."""
    return st.dictionaries(st.sampled_from(keys), VALUES, max_size=4) | VALUES


SECTIONS: dict[str, st.SearchStrategy[object]] = {
    field.name: tables_of([key for key in field.type.__struct_fields__ if key != "filter"])
    for field in msgspec.structs.fields(Settings)
    if field.name not in {"networks", "sinks"}
}
NETWORKS = tables_of(["a", "b\x1b", "internet", ""])
SINKS = st.lists(tables_of(SINK_KEYS), max_size=3) | tables_of(SINK_KEYS)
FILES = st.fixed_dictionaries(
    {}, optional={**SECTIONS, "networks": NETWORKS, "sinks": SINKS, "sink": VALUES}
)


def write_toml(value: object) -> str:
    """Return `value` as inline TOML."""
    match value:
        case bool():
            return str(value).lower()
        case int():
            return hex(value) if value >= 0 else str(value)
        case str():
            return '"' + "".join(f"\\U{ord(character):08x}" for character in value) + '"'
        case list():
            return f"[{', '.join(map(write_toml, value))}]"
        case dict():
            pairs = (f"{write_toml(key)} = {write_toml(item)}" for key, item in value.items())
            return f"{{{', '.join(pairs)}}}"
        case _:
            return str(value)


def load_or_collect(
    folder: str, text: str, *overrides: str
) -> tuple[Settings | None, Sequence[str]]:
    """Return the settings or the problems of a file."""
    try:
        return load_text(Path(folder), text, *overrides), ()
    except ConfigurationError as error:
        return None, error.problems


@settings(max_examples=300)
@given(tables=FILES)
def test_any_tables_give_settings_or_printable_problems_without_secrets(
    tables: dict[str, object],
) -> None:
    text = "\n".join(f"{key} = {write_toml(value)}" for key, value in tables.items())
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for name, secret in SECRETS.items():
            patch.setenv(name, secret)
        loaded, problems = load_or_collect(folder, text)
        assert (loaded is None) == bool(problems)
        for problem in problems:
            assert problem.startswith(f"{folder}/config.toml: ")
            assert problem.isprintable()
            assert SECRET not in problem
        if loaded is not None:
            names = [choice.settings.name for choice in loaded.sinks]
            assert None not in names
            assert len(set(names)) == len(names)
            assert bool(names) is (tables.get("sinks") != [])


@settings(max_examples=200)
@given(
    key=st.text(max_size=8) | st.sampled_from(["sinks[0].type", "capture.source", "a"]), value=WORDS
)
def test_any_override_is_applied_or_refused_with_printable_lines(key: str, value: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        loaded, problems = load_or_collect(folder, "", f"{key}={value}")
    assert (loaded is None) == bool(problems)
    assert all(problem.isprintable() for problem in problems)


@pytest.mark.parametrize("key", ["capture.snaplen", "capture.path", "aggregation.interval"])
def test_an_integer_too_long_for_decimal_digits_is_refused(tmp_path: Path, key: str) -> None:
    section, name = key.split(".")
    _, problems = load_or_collect(str(tmp_path), f"[{section}]\n{name} = {1 << 20_000:#x}")
    assert [problem.split(": ")[1] for problem in problems] == [key]


def test_a_filter_from_a_reference_is_not_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FILTER", "port 99999999")
    with caplog.at_level(logging.DEBUG), pytest.raises(ConfigurationError) as caught:
        load_text(tmp_path, '[capture]\nfilter = {env = "FILTER"}')
    assert "99999999" not in str(caught.value) + caplog.text
