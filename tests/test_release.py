"""What packaging/release.py demands of a clone, and what the workflows do with it."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import build_dist
import pytest
import release
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOWS = ROOT / ".github/workflows"
CHANGELOG = """# Changelog

## [Unreleased]

## [1.2.3] - 2026-12-01

### Added

- A thing.

## [1.2.2] - 2026-11-01

- Another.
"""
CORE = '[project]\nname = "hogpipe"\ndependencies = ["click>=8.1"]\n'
PLUGIN = '[project]\nname = "hogpipe-x"\nversion = "1.2.3"\ndependencies = ["hogpipe>=1.2"]\n'
LOCK = f"click==8.5.1 \\\n    --hash=sha256:{'0' * 64}\n"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone that can be released."""
    files = {
        "hogpipe/version.py": '__version__ = "1.2.3"\n',
        "pyproject.toml": CORE,
        "packaging/requirements.lock": LOCK,
        "plugins/hogpipe-x/pyproject.toml": PLUGIN,
        "CHANGELOG.md": CHANGELOG,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    return tmp_path


def git(clone: Path, *words: str) -> None:
    who = ("-c", "user.name=A", "-c", "user.email=a@example")
    subprocess.run(["git", *who, *words], cwd=clone, check=True)


def commit(clone: Path) -> None:
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "--message=x")


def test_a_clean_clone_with_a_section_of_its_version_has_no_problem(clone: Path) -> None:
    git(clone, "tag", "v1.2.3")
    assert [*release.find_problems(clone, "v1.2.3")] == []


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("hogpipe/version.py", '__version__ = "1.2"\n', "'1.2' is no version"),
        ("hogpipe/version.py", "", "'' is no version"),
        (
            "plugins/hogpipe-x/pyproject.toml",
            PLUGIN.replace("1.2.3", "1.2.2"),
            "plugins/hogpipe-x: version 1.2.2 instead of 1.2.3",
        ),
        (
            "CHANGELOG.md",
            CHANGELOG.replace("[Unreleased]\n", "[Unreleased]\n\n- More.\n"),
            r"CHANGELOG.md: move what is under \[Unreleased\] to \[1.2.3\]",
        ),
        (
            "CHANGELOG.md",
            CHANGELOG.replace(" - 2026-12-01", ""),
            r"no section \[1.2.3\] with a date",
        ),
        (
            "CHANGELOG.md",
            CHANGELOG.replace("### Added\n\n- A thing.\n", ""),
            r"the section \[1.2.3\] is empty",
        ),
        ("packaging/requirements.lock", "", r"requirements.lock: click>=8.1 is not locked; run: "),
    ],
)
def test_what_is_in_the_way_is_named(clone: Path, name: str, text: str, problem: str) -> None:
    (clone / name).write_text(text)
    commit(clone)
    assert any(re.search(problem, one) for one in release.find_problems(clone, None))


def test_changed_and_stray_files_are_named(clone: Path) -> None:
    (clone / "stray").write_text("")
    (clone / "CHANGELOG.md").write_text(f"{CHANGELOG}\n")
    (problem,) = release.find_problems(clone, None)
    assert problem == "git has changes: CHANGELOG.md, stray"


def test_a_tag_must_be_that_of_the_version_and_of_the_commit(clone: Path) -> None:
    git(clone, "tag", "v1.2.3")
    assert [*release.find_problems(clone, "v1.2.4")] == [
        "the tag v1.2.4 is not that of version 1.2.3",
        "the tag v1.2.4 is not at this commit",
    ]
    (clone / "more").write_text("")
    commit(clone)
    assert [*release.find_problems(clone, "v1.2.3")] == ["the tag v1.2.3 is not at this commit"]


def test_the_notes_are_the_section_of_the_version() -> None:
    assert release.read_section(CHANGELOG, "1.2.3") == "### Added\n\n- A thing."
    assert release.read_section(CHANGELOG, "1.2.2") == "- Another."
    assert release.read_section(CHANGELOG, "9.9.9") == ""


def test_sha256sum_accepts_the_checksums(tmp_path: Path) -> None:
    shutil.copy(ROOT / "LICENSE", tmp_path)
    (tmp_path / "SHA256SUMS").write_text(release.format_checksums([tmp_path / "LICENSE"]))
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=True)


def test_a_package_that_is_missing_fails_the_check(tmp_path: Path) -> None:
    with pytest.raises(release.ReleaseError, match=r"^packages \['x'\] instead of \['hogpipe-1.0"):
        release.check_packages([tmp_path / "x"], tmp_path, "1.0")


def test_all_packages_here_have_one_version() -> None:
    version = release.read_version(ROOT)
    for project in build_dist.list_projects(ROOT)[1:]:
        metadata = tomllib.loads((project / "pyproject.toml").read_text())["project"]
        assert metadata["version"] == version, project


def read_workflow(name: str) -> Any:
    return yaml.safe_load((WORKFLOWS / name).read_text())


def test_ci_runs_on_each_python_that_the_package_supports_and_on_both_machines() -> None:
    matrix = read_workflow("ci.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.12", "3.13", "3.14"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={matrix['python'][0]}"
    assert [runner.endswith("-arm") for runner in matrix["runner"]] == [False, True]


def test_a_release_publishes_each_package_after_the_tests_without_a_stored_token() -> None:
    jobs = read_workflow("release.yml")["jobs"]
    publish = jobs["publish"]
    names = [project.name for project in build_dist.list_projects(ROOT)[1:]]
    assert publish["strategy"]["matrix"]["project"] == ["hogpipe", *names]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["steps"][-1]["with"]["attestations"] is True
    assert (publish["needs"], jobs["attest"]["needs"], jobs["build"]["needs"]) == (
        "attest",
        "build",
        "tests",
    )
    assert jobs["tests"]["uses"] == "./.github/workflows/ci.yml"
    assert "secrets" not in (WORKFLOWS / "release.yml").read_text()


def test_the_workflow_takes_the_files_of_one_package(tmp_path: Path) -> None:
    steps = read_workflow("release.yml")["jobs"]["publish"]["steps"]
    (script,) = (step["run"] for step in steps if "run" in step)
    (tmp_path / "dist").mkdir()
    ends = ("-0.1.0-py3-none-any.whl", "-0.1.0.tar.gz")
    for name in ("hogpipe", "hogpipe_nats"):
        for end in (*ends, "-0.1.0.cdx.json"):
            (tmp_path / "dist" / f"{name}{end}").write_text("")
    environ = {"PROJECT": "hogpipe", "PATH": os.environ["PATH"]}
    subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, check=True, env=environ)
    taken = {path.name for path in (tmp_path / "upload").iterdir()}
    assert taken == {f"hogpipe{end}" for end in ends}
