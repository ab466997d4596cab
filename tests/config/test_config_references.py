from pathlib import Path

import pytest
from support.configuration import EXPECTED_DURATION, KNOWN_SINKS, load_text, problems_of

TCP = '[[sinks]]\ntype = "tcp"\n'


def test_a_value_may_come_from_the_environment_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLLECTOR", "collector.example")
    monkeypatch.setenv("PROMISCUOUS", "true")
    monkeypatch.setenv("KIND", "tcp")
    (tmp_path / "port").write_text("5170\n")
    (tmp_path / "interval").write_text("0.5")
    settings = load_text(
        tmp_path,
        """
        [capture]
        promiscuous = {env = "PROMISCUOUS"}
        interfaces = ["lo", {env = "COLLECTOR"}]
        [aggregation]
        interval = {file = "interval"}
        [[sinks]]
        type = {env = "KIND"}
        host = {env = "COLLECTOR"}
        port = {file = "port"}
        """,
    )
    assert settings.capture.promiscuous
    assert settings.capture.interfaces == ("lo", "collector.example")
    assert settings.aggregation.interval == 0.5
    assert getattr(settings.sinks[0].settings, "host", None) == "collector.example"
    assert getattr(settings.sinks[0].settings, "port", None) == 5170


def test_one_newline_at_the_end_of_a_file_is_not_part_of_the_value(tmp_path: Path) -> None:
    (tmp_path / "name").write_text(" a\n\n")
    settings = load_text(tmp_path, 'plugins = {disabled = [{file = "name"}]}')
    assert list(settings.plugins.disabled) == [" a\n"]


def test_only_a_table_with_a_single_string_is_a_reference(tmp_path: Path) -> None:
    assert problems_of(tmp_path, TCP + 'port = {env = 5}\nhost = {env = "A", file = "B"}') == [
        "sinks[0].host: expected str, got table",
        "sinks[0].port: expected int, got table",
    ]


def test_a_reference_that_cannot_be_read_is_one_problem_at_any_depth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UNSET", raising=False)
    (tmp_path / "bytes").write_bytes(b"\xff\n")
    (tmp_path / "large").write_bytes(b"1" * ((1 << 20) + 1))
    text = """
    capture = {env = "UNSET"}
    [aggregation]
    only = ["pid:1", {file = "absent"}]
    interval = {file = "bytes"}
    max_records = {file = "large"}
    [[sinks]]
    type = {env = "UNSET"}
    [[sinks]]
    type = "jsonl"
    path = {file = "a\\u0000b"}
    """
    assert problems_of(tmp_path, text) == [
        'capture: environment variable "UNSET" is not set',
        'aggregation.only[1]: cannot read file "absent": No such file or directory',
        'aggregation.interval: file "bytes" is not UTF-8',
        'aggregation.max_records: file "large" is larger than 1048576 bytes',
        'sinks[0].type: environment variable "UNSET" is not set',
        'sinks[1].path: cannot read file "a\\x00b": must not hold a NUL character',
    ]


def test_a_variable_that_is_not_utf8_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BYTES", "hush\udcff")
    assert problems_of(tmp_path, '[capture]\nfilter = {env = "BYTES"}') == [
        'capture.filter: environment variable "BYTES" is not UTF-8'
    ]


@pytest.mark.parametrize(
    ("key", "secret", "problem"),
    [
        ("capture.source", "hush", 'must be "pcap", "savefile" or "ebpf"'),
        ("capture.filter", "port 99999", "libpcap refuses it"),
        ("capture.snaplen", "hush", "expected int, got str"),
        ("capture.path", "hush", 'only for source "savefile"'),
        ("capture.interfaces", "hush", "expected array, got str"),
        ("attribution.procfs", "/hush", "No such file or directory"),
        ("attribution.ledger", "hush", 'must be "auto", "on" or "off"'),
        ("attribution.hold", "nan", EXPECTED_DURATION),
        ("attribution", "hush", "expected table, got str"),
        ("aggregation.only[0]", "hush", "not a selector"),
        ("plugins.paths[0]", "/hush", "No such file or directory"),
        ("sinks[0].type", "jsnl", f"unknown sink type; known: {KNOWN_SINKS}"),
        ("sinks", "hush", "expected array of tables, got str; write [[sinks]]"),
    ],
)
def test_a_wrong_value_from_a_reference_is_not_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, secret: str, problem: str
) -> None:
    monkeypatch.setenv("SECRET", secret)
    assert problems_of(tmp_path, "", f'{key}={{env = "SECRET"}}') == [f"{key}: {problem}"]


def test_a_folder_of_plugins_from_a_reference_is_not_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "hush").mkdir()
    (tmp_path / "hush" / "broken.py").write_text("raise OSError(__file__)")
    monkeypatch.setenv("FOLDER", "hush")
    load_text(tmp_path, '[plugins]\npaths = [{env = "FOLDER"}]')
    assert caplog.messages == ["plugin broken failed to load and is left out"]
