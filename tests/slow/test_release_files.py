"""The files of a release, made from a clone that has all that a release takes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import build_dist
import pytest
from release import read_version

ROOT = Path(__file__).parents[2]
VERSION = read_version(ROOT)


def git(clone: Path, *words: str) -> None:
    who = ("-c", "user.name=A", "-c", "user.email=a@example")
    subprocess.run(["git", *who, *words], cwd=clone, check=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clone = build_dist.copy_tracked(ROOT, tmp_path_factory.mktemp("release") / "clone")
    changelog = clone / "CHANGELOG.md"
    heading = f"## [Unreleased]\n\n## [{VERSION}] - 2026-12-01"
    changelog.write_text(changelog.read_text().replace("## [Unreleased]", heading))
    git(clone, "init", "--quiet")
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "--message=x")
    git(clone, "tag", f"v{VERSION}")
    command = [sys.executable, "packaging/release.py", "--tag", f"v{VERSION}", "made"]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return clone / "made"


def test_each_package_has_a_wheel_and_an_sdist_that_the_checksums_name(made: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=made, check=True)
    named = re.findall(r"^[0-9a-f]{64}  (.+)$", (made / "SHA256SUMS").read_text(), re.MULTILINE)
    assert sorted([*named, "SHA256SUMS", "notes.md"]) == sorted(one.name for one in made.iterdir())
    assert len([*made.glob("*.whl")]) == len([*made.glob("*.tar.gz")]) == 5


def test_the_bill_has_what_the_packages_require_with_versions_and_licences(made: Path) -> None:
    bill = json.loads((made / f"hogpipe-{VERSION}.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    components = {one["name"]: one for one in bill["components"]}
    required = {"hogpipe-kafka", "numpy", "orjson", "pcapy-ng", "aiokafka", "nats-py", "aiohttp"}
    assert required <= components.keys()
    assert all(one["version"] for one in components.values())
    assert components["numpy"]["licenses"]
    about = bill["metadata"]["component"]
    assert (about["name"], about["version"]) == ("hogpipe", VERSION)
    assert "pip" not in components


def test_the_notes_are_the_changelog(made: Path) -> None:
    assert (made / "notes.md").read_text().startswith("### Added\n")


def test_each_file_of_a_locked_installation_has_its_checksum(made: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    pip = (tmp_path / "venv/bin/python", "-m", "pip", "install", "--quiet")
    lock = made / f"hogpipe-{VERSION}.requirements.txt"
    binary = ("--only-binary", ":all:")
    subprocess.run([*pip, "--require-hashes", *binary, "--requirement", lock], check=True)
    subprocess.run([*pip, "--no-deps", "--no-index", *made.glob("*.whl")], check=True)
    subprocess.run([tmp_path / "venv/bin/python", "-m", "pip", "check"], check=True)
    shown = subprocess.run(
        [tmp_path / "venv/bin/hogpipe", "plugins"], check=True, capture_output=True, text=True
    )
    assert {"kafka", "nats", "otlp", "prometheus", "web"} <= {*shown.stdout.split()}
