"""The README agrees with the settings, and its examples are valid."""

from pathlib import Path

from hogpipe_web import WebSettings

from hogpipe import load_config
from hogpipe.testing import check_key_table, find_code_blocks

PACKAGE = Path(__file__).parent.parent
README = (PACKAGE / "README.md").read_text()


def test_the_readme_has_every_key_with_its_default() -> None:
    check_key_table(README, WebSettings)


def test_the_configurations_are_valid(tmp_path: Path) -> None:
    (tmp_path / "web.token").write_text("0123456789abcdef\n")
    first, second = find_code_blocks(README, "toml")
    for block in (first, second):
        path = tmp_path / "config.toml"
        path.write_text(block)
        *_others, choice = load_config(path).sinks
        assert isinstance(choice.settings, WebSettings)
    assert choice.settings.token == "0123456789abcdef"
    assert "\n" not in choice.settings.token


def test_the_bundled_library_has_its_licence() -> None:
    static = PACKAGE / "hogpipe_web" / "static"
    assert "MIT" in (static / "uPlot.LICENSE.txt").read_text()
    assert "Leon Sorokin" in (static / "uPlot.esm.js").read_text()[:300]
