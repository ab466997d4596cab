"""The unit under systemd itself, and a run by sudo.

Both run in a container over the root of this machine (systemd-nspawn), whose changes end with it.
"""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.namespaces import require
from support.roots import CONTAINER, PATIENCE, Container, boot, overlay

from hogpipe.linux.landlock import read_version

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "packaging/systemd"
CONFIG = """
[capture]
interfaces = ["lo"]
[[sinks]]
type = "jsonl"
path = "/var/lib/hogpipe/records.jsonl"
"""
# So that the test need not wait for half a minute.
WATCHDOG = "[Service]\nWatchdogSec=3\nRestartSec=1\n"


def install(root: Path, folder: Path) -> None:
    """Install hogpipe from its wheel, its unit and a configuration."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    place = root / "usr/lib/hogpipe"
    subprocess.run(["/usr/bin/python3", "-m", "venv", place], check=True)
    pip = [place / "bin/python", "-m", "pip", "install", "--quiet", wheel]
    subprocess.run(pip, check=True, cwd=folder)
    script = place / "bin/hogpipe"
    script.write_text(re.sub(r"^#!.*", "#!/usr/lib/hogpipe/bin/python", script.read_text()))
    (root / "usr/bin/hogpipe").symlink_to("/usr/lib/hogpipe/bin/hogpipe")
    (root / "etc/hogpipe").mkdir()
    (root / "etc/hogpipe/config.toml").write_text(CONFIG)
    units = root / "etc/systemd/system"
    shutil.copy(UNITS / "hogpipe.service", units)
    wanted = units / "multi-user.target.wants"
    wanted.mkdir(exist_ok=True)
    (wanted / "hogpipe.service").symlink_to("../hogpipe.service")
    (units / "hogpipe.service.d").mkdir()
    (units / "hogpipe.service.d/watchdog.conf").write_text(WATCHDOG)


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    require(*CONTAINER, "sudo", "systemd-analyze")
    with overlay(Path("/"), tmp_path_factory.mktemp("overlay")) as root:
        install(root, tmp_path_factory.mktemp("wheel"))
        with boot(root) as booted:
            booted.wait_until("ActiveState", "active")
            yield booted


def test_the_service_is_active_once_it_captures_and_has_a_status(container: Container) -> None:
    assert container.show("SubState") == "running"
    container.wait_until("StatusText", r"\d+\.\d s, \d+ packets, .*")
    listed = container.run("ls", "-l", "/var/lib/private/hogpipe/records.jsonl")
    assert listed.startswith("-rw-------")


def test_the_service_gives_up_its_capabilities(container: Container) -> None:
    status = container.run("cat", f"/proc/{container.show('MainPID')}/status")
    found = dict(line.split(":", 1) for line in status.splitlines())
    assert int(found["CapPrm"], 16) == int(found["CapAmb"], 16) == 0
    assert "WARNING" not in container.run("journalctl", "-u", "hogpipe")


@pytest.mark.skipif(read_version() < 4, reason="needs Landlock for ports (Linux 6.7)")
def test_the_unit_permits_each_step_of_a_strict_sandbox(container: Container) -> None:
    config = "/etc/hogpipe/config.toml"
    container.run("cp", config, "/tmp/config.toml")
    container.run("sh", "-c", f"echo '[security]\nsandbox = \"strict\"' >> {config}")
    container.run("systemctl", "restart", "hogpipe")
    assert container.show("ActiveState") == "active", container.run("journalctl", "-u", "hogpipe")
    container.run("cp", "/tmp/config.toml", config)
    container.run("systemctl", "restart", "hogpipe")
    assert container.show("ActiveState") == "active"


def test_a_reload_reopens_files(container: Container) -> None:
    container.run("mv", "/var/lib/private/hogpipe/records.jsonl", "/var/lib/private/hogpipe/old")
    container.run("systemctl", "reload", "hogpipe")
    container.wait_until("ActiveState", "active")
    patience = time.monotonic() + PATIENCE
    while not container.run("cat", "/var/lib/private/hogpipe/records.jsonl"):
        assert time.monotonic() < patience
        time.sleep(0.2)


def test_a_reload_takes_over_the_configuration_or_has_the_reason_as_status(
    container: Container,
) -> None:
    config = "/etc/hogpipe/config.toml"
    container.run("sh", "-c", f"echo '[aggregation]\ninterval = 0' >> {config}")
    container.run("systemctl", "reload", "hogpipe")
    assert container.show("ActiveState") == "active"
    refused = "the last configuration is refused: "
    container.wait_until(
        "StatusText", f"{refused}{config}: aggregation.interval: .*; .* packets, .*"
    )
    container.run("sed", "-i", "s/interval = 0/interval = 0.5/", config)
    container.run("systemctl", "reload", "hogpipe")
    container.wait_until("StatusText", r"\d+\.\d s, \d+ packets, .*")
    journal = container.run("journalctl", "-u", "hogpipe")
    assert "configuration reloaded: aggregation.interval" in journal


def test_the_watchdog_ends_and_restarts_a_service_that_hangs(container: Container) -> None:
    pid = container.show("MainPID")
    assert pid != "0"  # to which a signal would stop the tests themselves
    container.run("kill", "-STOP", pid)
    container.wait_until("NRestarts", "1")
    container.wait_until("ActiveState", "active")
    assert container.show("MainPID") not in {pid, "0"}
    assert "Watchdog timeout" in container.run("journalctl", "-u", "hogpipe")


def test_the_unit_is_valid_and_exposes_little(container: Container) -> None:
    assert container.run("systemd-analyze", "verify", "--man=no", "hogpipe.service") == ""
    report = container.run("systemd-analyze", "security", "--no-pager", "hogpipe.service")
    (exposure,) = re.findall(r"Overall exposure level for hogpipe.service: (\S+)", report)
    assert float(exposure) <= 2.0


def test_the_unit_stops_with_a_summary(container: Container) -> None:
    container.run("systemctl", "stop", "hogpipe")
    assert container.show("Result") == "success"
    assert " captured, 0 dropped, " in container.run("journalctl", "-u", "hogpipe", "-n", "5")


def test_a_run_by_sudo_writes_files_of_its_caller(container: Container) -> None:
    container.run("useradd", "--create-home", "caller")
    container.run("sh", "-c", "echo 'caller ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/caller")
    config = CONFIG.replace("/var/lib/hogpipe/", "")
    container.run("runuser", "-l", "caller", "-c", f"echo '{config}' > config.toml")
    run = "sudo hogpipe -v run --duration 1s config.toml 2>&1; echo exit code $?"
    printed = container.run("runuser", "-l", "caller", "-c", run)
    assert "runs as caller, with CAP_NET_RAW " in printed
    assert "WARNING" not in printed
    assert printed.endswith("exit code 0")
    written = container.run("stat", "-c", "%U %G %a %s", "/home/caller/records.jsonl").split()
    assert written[:3] == ["caller", "caller", "640"]
    assert int(written[3]) > 0
