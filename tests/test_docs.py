"""What README and docs show is what happens."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.namespaces import require

ROOT = Path(__file__).parent.parent
DOCS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def block_of(page: str, mark: str) -> str:
    """Return the text of the code block after an HTML comment."""
    text = (ROOT / page).read_text()
    found = re.search(rf"<!-- {mark} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert found, f"{page} has no block {mark}"
    return found[1]


def run_shown(block: str) -> tuple[str, str]:
    """Run the command of a console block here; return what it prints, and what is shown."""
    command, _, shown = block.removeprefix("$ ").partition("\n")
    here = command.replace(".venv/bin/hogpipe", f"{shlex.quote(sys.executable)} -m hogpipe")
    done = subprocess.run(
        ["sh", "-c", here], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout, shown


def test_the_table_of_the_readme_is_what_the_replay_prints() -> None:
    printed, shown = run_shown(block_of("README.md", "replay"))
    assert printed.rstrip("\n") == shown.rstrip("\n")


def test_the_jq_example_of_the_readme_prints_what_it_shows() -> None:
    require("jq")
    printed, shown = run_shown(block_of("README.md", "jq"))
    assert printed == shown


def test_the_list_of_plugins_as_json_is_what_the_page_of_commands_shows() -> None:
    require("jq")
    printed, shown = run_shown(block_of("docs/cli.md", "plugins"))
    assert "example_total" in printed
    assert printed == shown


def test_the_example_of_the_library_page_runs(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "library.md").read_text()
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found
    program = tmp_path / "example.py"
    program.write_text(found[1])
    done = subprocess.run(
        [sys.executable, program, ROOT / "tests" / "data" / "golden" / "config.toml"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["nginx 74650", "- 135", "nginx 124", "- 248", "curl 54774"]


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"
