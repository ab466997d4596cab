"""The examples of README and docs run as shown; links, named files and the API page are current."""

import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from support.bpf import require_bpf
from support.namespaces import require

from hogpipe.cli import commands
from hogpipe.config.load import load_settings
from hogpipe.config.options import RunOptions

ROOT = Path(__file__).parent.parent
TOP = [
    ROOT / name
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "RELEASING.md", "SECURITY.md")
]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "plugins" / "README.md"]
REFERENCES = {"api.md", "configuration.md", "glossary.md", "plugin-reference.md", "record.md"}
MOST_WORDS = 2000


def block_of(page: str, mark: str) -> str:
    """Return the code block after the HTML comment `mark`."""
    text = (ROOT / page).read_text()
    found = re.search(rf"<!-- {mark} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert found, f"{page} has no block {mark}"
    return found[1]


def prose_of(page: Path) -> str:
    """Return the text of a page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def split_command(block: str) -> tuple[str, str]:
    """Return the command of a console block, which ends when its quotes do, and the output."""
    lines = block.removeprefix("$ ").splitlines(keepends=True)
    ends = (n for n in range(1, len(lines) + 1) if "".join(lines[:n]).count("'") % 2 == 0)
    end = next(ends)
    return "".join(lines[:end]), "".join(lines[end:])


def run_shown(block: str) -> tuple[str, str]:
    """Run the command of a console block; return what it prints, and the output in the block."""
    command, shown = split_command(block)
    here = command.replace(".venv/bin/hogpipe", f"{shlex.quote(sys.executable)} -m hogpipe")
    done = subprocess.run(
        ["sh", "-c", here], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout, shown


def test_the_table_of_the_readme_is_what_the_replay_prints() -> None:
    printed, shown = run_shown(block_of("README.md", "replay"))
    assert printed.rstrip("\n") == shown.rstrip("\n")


def test_the_picture_of_the_readme_is_a_terminal_with_the_table_as_it_is_now() -> None:
    picture = ET.parse(ROOT / "docs/run.svg")
    lines = [one.text or "" for one in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert "](docs/run.svg)" in (ROOT / "README.md").read_text()
    assert lines[0] == "$ sudo .venv/bin/hogpipe run"
    assert max(map(len, lines)) <= 80
    (heading,) = (line.split() for line in lines if "PROGRAM" in line)
    assert set(heading) <= set(block_of("README.md", "replay").split()), "run .ci/recording.py"
    assert sum(" curl " in line for line in lines) == 2


def test_the_jq_example_of_the_readme_prints_what_it_shows() -> None:
    require("jq")
    printed, shown = run_shown(block_of("README.md", "jq"))
    assert printed == shown


def test_the_example_that_refuses_a_later_schema_prints_what_it_shows() -> None:
    require("jq")
    printed, shown = run_shown(block_of("docs/upgrading.md", "schema"))
    assert printed == shown


def test_the_script_that_checks_the_sums_prints_what_it_shows() -> None:
    require("jq")
    printed, shown = run_shown(block_of("docs/record.md", "sums"))
    assert printed == shown


def test_the_script_that_finds_losses_prints_what_it_shows() -> None:
    require("jq")
    printed, shown = run_shown(block_of("docs/record.md", "losses"))
    assert printed == shown


@pytest.mark.parametrize("mark", ["report", "chart", "sql"])
def test_the_examples_of_reports_print_what_they_show(mark: str) -> None:
    printed, shown = run_shown(block_of("docs/report.md", mark))
    assert printed == shown


@pytest.mark.parametrize("mark", ["comments", "tcpdump"])
def test_the_examples_of_captured_packets_print_what_they_show(mark: str) -> None:
    if mark == "tcpdump":
        require("tcpdump")
    printed, shown = run_shown(block_of("docs/capture.md", mark))
    assert printed == shown


def test_the_json_list_of_plugins_is_the_one_on_the_page() -> None:
    require("jq")
    printed, shown = run_shown(block_of("docs/cli.md", "plugins"))
    assert "example_total" in printed
    assert printed == shown


def list_commands(page: str) -> list[list[str]]:
    """Return the words of each hogpipe command in backquotes on a page of docs/."""
    found = re.findall(r"`(?:sudo )?hogpipe ([^`]+)`", prose_of(ROOT / "docs" / page))
    return [shlex.split(one) for one in found if "…" not in one]


@pytest.mark.parametrize("words", list_commands("nethogs.md"), ids=" ".join)
def test_the_commands_for_users_of_nethogs_are_valid(words: list[str]) -> None:
    name, *rest = words
    if name not in commands.commands:
        assert CliRunner().invoke(commands, words).exit_code == 0
        return
    options = commands.commands[name].make_context(name, rest).params
    if name in {"run", "top"}:
        load_settings(options["config"], msgspec.convert(options, RunOptions), options["overrides"])


def test_the_script_for_users_of_nethogs_prints_what_nethogs_would() -> None:
    require("jq")
    (script,) = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/nethogs.md").read_text(), re.DOTALL)
    replay = f"{shlex.quote(sys.executable)} -m hogpipe run tests/data/golden/config.toml"
    done = subprocess.run(
        ["sh", "-c", script.replace("sudo hogpipe run", replay)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert rows[0] == ["nginx", "15045", "0", "74650", "74774"]
    assert {len(row) for row in rows} == {5}


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


@pytest.mark.parametrize("mark", ["measure", "watch"])
def test_the_examples_of_measuring_print_what_they_show(mark: str) -> None:
    require_bpf()
    text = (ROOT / "docs" / "measure.md").read_text()
    found = re.search(rf"<!-- {mark} -->\n```python\n(.*?)```.*?```text\n(.*?)```", text, re.DOTALL)
    assert found
    done = subprocess.run(
        [sys.executable, "-c", found[1]], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == (found[2], "")


@pytest.mark.parametrize("page", [*TOP, *PAGES], ids=lambda page: page.name)
def test_links_to_files_and_headings_lead_somewhere(page: Path) -> None:
    for target, heading in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", page.read_text()):
        path = page.parent / target if target else page
        assert path.exists(), f"{page.name}: {target}"
        assert not heading or heading in headings_of(path), f"{page.name}: {target}#{heading}"


def headings_of(page: Path) -> set[str]:
    """Return the anchors of a page, as GitHub makes them of its headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_short_unless_it_is_a_reference(page: Path) -> None:
    words = [word for word in prose_of(page).split() if re.search(r"\w", word)]
    assert page.name in REFERENCES or len(words) <= MOST_WORDS


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    for page in PAGES:
        assert page.name == "README.md" or f"]({page.name})" in index, page.name


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_files_and_folders_named_in_backquotes_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    names = set(re.findall(r"`((?:[\w.-]+/)*[\w.-]+(?:\.(?:c|h|py|toml)|/))`", text))
    known = [path.as_posix() for path in (ROOT / "hogpipe").rglob("*")]
    assert names
    for name in names:
        path = name.rstrip("/")
        assert (ROOT / path).exists() or any(one.endswith(f"/{path}") for one in known), name


def test_the_api_page_is_current() -> None:
    command = [sys.executable, ".ci/api.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    assert not done.returncode, done.stderr
