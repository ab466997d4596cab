"""The README's table is that of the settings, and its example and those of docs/http.md work."""

from pathlib import Path

import pytest
import trustme
from hogpipe_http import HttpSettings

from hogpipe import load_config
from hogpipe.testing import check_key_table, find_code_blocks

PACKAGE = Path(__file__).parent.parent
README = (PACKAGE / "README.md").read_text()
PAGE = (PACKAGE.parent.parent / "docs" / "http.md").read_text()
EXAMPLES = [*find_code_blocks(README, "toml"), *find_code_blocks(PAGE, "toml")]


def test_the_readme_has_every_key_with_its_default() -> None:
    check_key_table(README, HttpSettings)


def test_there_is_an_example_for_each_preset() -> None:
    assert len(EXAMPLES) == 1 + 5


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_configuration_is_read(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ES_AUTHORIZATION", "HEC_TOKEN", "LOKI_PASSWORD", "CLICKHOUSE_PASSWORD", "TOKEN"):
        monkeypatch.setenv(name, "x")
    path = tmp_path / "config.toml"
    trustme.CA().cert_pem.write_to_path(ca := tmp_path / "ca.pem")
    path.write_text(example.replace("/etc/hogpipe/ca.pem", str(ca)))
    (choice,) = load_config(path).sinks
    assert isinstance(choice.settings, HttpSettings)
    assert "x" in choice.settings.make_headers().values() or choice.settings.authorization
