import logging
from pathlib import Path

import pytest
from support.configuration import EXPECTED_DURATION, KNOWN_SINKS, load_text, problems_of

from hogpipe.config import AggregationSettings, CaptureSettings, Settings, load_config
from hogpipe.errors import ConfigurationError

BY_ZERO = "ZeroDivisionError: division by zero ({}, line 1)"
PLUGIN = """
import msgspec
from pathlib import Path
from hogpipe.sinks.hookspecs import hookimpl
from hogpipe.sinks.contract import SinkSettings, SinkType

class PigeonSettings(SinkSettings, frozen=True, kw_only=True):
    nest: Path
    tokens: tuple[str, ...] = ()
    height: float = 1.0

    def __post_init__(self):
        if "worn" in self.tokens:
            raise ValueError(f"worn tokens: {self.tokens}")

@hookimpl
def hogpipe_sinks():
    return [SinkType("pigeon", PigeonSettings, object)]
"""


def test_an_empty_array_of_sinks_means_no_sink(tmp_path: Path) -> None:
    assert load_text(tmp_path, "sinks = []").sinks == ()
    assert [sink.settings.type for sink in load_text(tmp_path, "").sinks] == ["stdout"]


def test_an_empty_file_gives_the_defaults_and_one_stdout_sink(tmp_path: Path) -> None:
    settings = load_text(tmp_path, "")
    assert settings.capture == CaptureSettings()
    assert [choice.settings.name for choice in settings.sinks] == ["stdout"]
    assert settings.sinks[0].type.name == "stdout"
    assert getattr(settings.sinks[0].settings, "format", None) == "auto"


def test_each_value_is_stored_in_its_field_with_its_type(tmp_path: Path) -> None:
    settings = load_text(
        tmp_path,
        """
        [capture]
        interfaces = ["eth*", "lo"]
        snaplen = 256
        promiscuous = true
        [aggregation]
        interval = 2
        group_by = ["process", "remote"]
        [[sinks]]
        type = "tcp"
        host = "::1"
        port = 5170
        when_full = "block"
        """,
    )
    assert settings.capture == CaptureSettings(
        interfaces=("eth*", "lo"), snaplen=256, promiscuous=True
    )
    assert settings.aggregation == AggregationSettings(interval=2.0, group_by=("process", "remote"))
    assert isinstance(settings.aggregation.interval, float)
    assert settings.sinks[0].settings.when_full == "block"
    assert getattr(settings.sinks[0].settings, "port", None) == 5170


def test_settings_can_be_built_without_a_file() -> None:
    settings = Settings(capture=CaptureSettings(interfaces=("lo",)))
    assert settings.aggregation.interval == 1.0
    assert settings.sinks == ()


def test_all_problems_of_a_file_are_reported_at_once(tmp_path: Path) -> None:
    text = """
    [capture]
    interfacs = ["lo"]
    snaplen = 1
    filter = "tcp and ("
    [aggregation]
    interval = "1w"
    [[sinks]]
    type = "tcp"
    host = 5
    port = 0
    retry_initial = 9
    retry_max = 3
    """
    assert problems_of(tmp_path, text, "sinks[7].path=x") == [
        "--set sinks[7].path: sinks has 1 items, so the next free index is 1",
        'capture.interfacs: unknown key; did you mean "interfaces"?',
        "capture.snaplen: must be at least 96",
        f'aggregation.interval: {EXPECTED_DURATION}, not "1w"',
        "sinks[0].host: expected str, got int",
        "sinks[0].port: must be at least 1",
        'capture.filter: libpcap refuses "tcp and (": can\'t parse filter expression: syntax error',
        "sinks[0].retry_max: must be at least retry_initial",
    ]


def test_each_line_begins_with_the_path_of_the_file_as_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.toml").write_text("[aggregation]\ninterval = 0")
    with pytest.raises(ConfigurationError) as caught:
        load_config(Path("config.toml"))
    assert str(caught.value) == "config.toml: aggregation.interval: must be at least 0.05"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a = 1\n\nb = =", "Invalid value (at line 3, column 5)"),
        (b"a = '\xff'", "not UTF-8 (at byte 5)"),
        (b"a = " + b"[" * 20_000, "nested too deeply"),
        (b"a = {file" + b".b" * 5_000 + b" = 1}", "nested too deeply"),
    ],
)
def test_a_file_that_is_not_toml_gets_one_line(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        load_config(path)
    assert caught.value.problems == (f"{path}: {problem}",)


def test_an_integer_of_thousands_of_digits_gets_one_line(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, f"a = {'9' * 5000}")
    assert problem.startswith("Exceeds the limit (4300 digits)")


def test_a_file_that_cannot_be_read_gets_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_config(tmp_path / "absent\n.toml")
    assert caught.value.problems == (
        f"{tmp_path}/absent\\n.toml: cannot read it: No such file or directory",
    )
    with pytest.raises(ConfigurationError, match="cannot read it: Is a directory"):
        load_config(tmp_path)


def test_relative_paths_start_from_the_folder_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "trace.pcap").touch()
    (tmp_path / "etc" / "config.toml").write_text(
        """
        [capture]
        source = "savefile"
        path = "trace.pcap"
        [[sinks]]
        type = "jsonl"
        path = "../out.jsonl"
        [[sinks]]
        type = "jsonl"
        path = "~/out.jsonl"
        """
    )
    settings = load_config(Path("etc/config.toml"))
    assert settings.capture.path == tmp_path / "etc/trace.pcap"
    paths = [getattr(choice.settings, "path", None) for choice in settings.sinks]
    assert paths == [tmp_path / "etc/../out.jsonl", tmp_path / "home/out.jsonl"]


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("", "must not be empty"),
        ("a\\u0000b", "must not hold a NUL character"),
        ("~no-such-user/x", "the home folder that ~ stands for is not known"),
    ],
)
def test_a_path_that_cannot_exist_is_refused(tmp_path: Path, path: str, problem: str) -> None:
    text = f'[[sinks]]\ntype = "jsonl"\npath = "{path}"'
    assert problems_of(tmp_path, text) == [f"sinks[0].path: {problem}"]


def test_an_unknown_sink_type_is_reported_with_a_similar_one_or_all(tmp_path: Path) -> None:
    text = '[[sinks]]\ntype = "kafak"\n[[sinks]]\ntype = "jsnl"\n[[sinks]]\nname = "x"'
    assert problems_of(tmp_path, text) == [
        f'sinks[0].type: unknown sink type "kafak"; known: {KNOWN_SINKS}',
        'sinks[1].type: unknown sink type "jsnl"; did you mean "jsonl"?',
        "sinks[2].type: required",
    ]


def test_the_common_settings_are_checked_even_if_the_sink_type_is_unknown(tmp_path: Path) -> None:
    text = '[[sinks]]\ntype = "kafak"\nqueue_windows = 0\nbroker = "own key of that type"'
    assert problems_of(tmp_path, text) == [
        "sinks[0].queue_windows: must be at least 1",
        f'sinks[0].type: unknown sink type "kafak"; known: {KNOWN_SINKS}',
    ]


@pytest.mark.parametrize(("sinks", "got"), [("[sinks]\ntype = 'tcp'", "table"), ("sinks=1", "int")])
def test_sinks_that_are_not_an_array_of_tables_get_a_hint(
    tmp_path: Path, sinks: str, got: str
) -> None:
    assert problems_of(tmp_path, sinks) == [
        f"sinks: expected array of tables, got {got}; write [[sinks]]"
    ]


def test_a_section_that_is_not_a_table_is_one_problem(tmp_path: Path) -> None:
    assert problems_of(tmp_path, "capture = 5\nsinks = [3]") == [
        "capture: expected table, got int",
        "sinks[0]: expected table, got int",
    ]


def test_the_settings_of_a_plugins_sink_are_converted_like_built_in_ones(tmp_path: Path) -> None:
    (tmp_path / "pigeon.py").write_text(PLUGIN)
    text = '[plugins]\npaths = ["pigeon.py"]\n[[sinks]]\ntype = "pigeon"\n'
    settings = load_text(tmp_path, text + 'nest = "loft"\nheight = 2')
    assert getattr(settings.sinks[0].settings, "nest", None) == tmp_path / "loft"
    assert getattr(settings.sinks[0].settings, "height", None) == 2.0
    assert problems_of(tmp_path, text + "nest = 5\ntokens = [1]\nnset = 2") == [
        'sinks[0].nset: unknown key; did you mean "nest"?',
        "sinks[0].nest: expected str, got int",
        "sinks[0].tokens[0]: expected str, got int",
    ]


def test_an_error_of_a_plugins_settings_is_reported_unless_they_contain_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pigeon.py").write_text(PLUGIN)
    monkeypatch.setenv("TOKEN", "hush-hush")
    text = '[plugins]\npaths = ["pigeon.py"]\n[[sinks]]\ntype = "pigeon"\nnest = "x"\n'
    assert problems_of(tmp_path, text + 'tokens = ["worn"]') == ["sinks[0]: worn tokens: ('worn',)"]
    assert problems_of(tmp_path, text + 'tokens = ["worn", {env = "TOKEN"}]') == [
        "sinks[0]: these values do not go together"
    ]


def test_a_plugin_path_that_does_not_exist_is_a_problem(tmp_path: Path) -> None:
    assert problems_of(tmp_path, '[plugins]\npaths = ["absent.py"]') == [
        f'plugins.paths[0]: "{tmp_path}/absent.py": No such file or directory'
    ]


def test_a_plugin_whose_path_the_file_names_is_a_problem_if_it_fails(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    assert problems_of(tmp_path, '[plugins]\npaths = ["broken.py"]') == [
        f'plugins.paths[0]: "{tmp_path}/broken.py" failed to load: ' + BY_ZERO.format("broken.py")
    ]


def test_a_plugin_from_a_folder_is_logged_once_if_it_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "broken.py").write_text("1 / 0")
    with caplog.at_level(logging.WARNING):
        load_text(tmp_path, '[plugins]\npaths = ["more"]')
    assert caplog.messages == [
        f"plugin broken failed to load and is left out ({tmp_path}/more/broken.py): "
        + BY_ZERO.format("broken.py")
    ]


def test_failed_plugins_are_reported_with_an_unknown_sink_type(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "kafka.py").write_text("1 / 0")
    text = '[plugins]\npaths = ["more"]\n[[sinks]]\ntype = "kafka"'
    assert problems_of(tmp_path, text) == [
        f'sinks[0].type: unknown sink type "kafka"; known: {KNOWN_SINKS}',
        "plugins.kafka: failed to load, and the unknown sink type may be its own: "
        + BY_ZERO.format("kafka.py"),
    ]


def test_a_failed_plugin_whose_path_the_file_names_is_reported_once_with_an_unknown_sink_type(
    tmp_path: Path,
) -> None:
    (tmp_path / "kafka.py").write_text("1 / 0")
    text = '[plugins]\npaths = ["kafka.py"]\n[[sinks]]\ntype = "kafka"'
    assert problems_of(tmp_path, text) == [
        f'plugins.paths[0]: "{tmp_path}/kafka.py" failed to load: ' + BY_ZERO.format("kafka.py"),
        f'sinks[0].type: unknown sink type "kafka"; known: {KNOWN_SINKS}',
    ]


def test_a_disabled_plugin_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    settings = load_text(tmp_path, '[plugins]\npaths = ["broken.py"]\ndisabled = ["broken"]')
    assert settings.plugins.disabled == ("broken",)
