"""The image of packaging/Containerfile, built by podman and run by an OCI runtime (crun).

The base is a root of debootstrap, since no registry is asked. The container is that of the
manifest for Kubernetes: its user, capabilities, mounts and configuration, and the default seccomp
profile of podman.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.namespaces import Namespace, require
from support.roots import DEBOOTSTRAP, unpack_debian
from support.running import running, traffic_of

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "packaging/kubernetes/daemonset.yaml"
PROFILE = Path("/usr/share/containers/seccomp.json")
BASE = "docker.io/library/debian"
SUITE = "test"
PROGRAMS = ("podman", "crun", "getcap", "curl", "unshare", *DEBOOTSTRAP)
# What profiles since 2022 permit; that of podman 4 asks for CAP_SYS_ADMIN.
CALLS = {"CAP_BPF": ["bpf"], "CAP_PERFMON": ["perf_event_open"]}
CURLS = 100
PORT = 8080
URL = f"http://127.0.0.1:{PORT}/"


def find(kind: str) -> Any:
    (found,) = (one for one in yaml.safe_load_all(MANIFEST.read_text()) if one["kind"] == kind)
    return found


@pytest.fixture(scope="module")
def image(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Build the image; return its root."""
    require(*PROGRAMS)
    folder = tmp_path_factory.mktemp("image")
    cache = request.config.cache
    assert cache is not None
    base = unpack_debian(cache.mkdir("debian"), folder)
    if certificates := os.environ.get("PIP_CERT"):  # the base image knows only public ones
        shutil.copy(certificates, base / "etc/certificates.pem")
        (base / "etc/pip.conf").write_text("[global]\ncert = /etc/certificates.pem\n")
    storage = ["podman", "--storage-driver=vfs", f"--root={folder}/root", f"--runroot={folder}/run"]
    call("tar", "-C", base, "-cf", folder / "base.tar", ".")
    call(*storage, "import", folder / "base.tar", f"{BASE}:{SUITE}-slim")
    shutil.rmtree(base)
    build = ["build", "--isolation=chroot", "--pull=never", "--cgroup-manager=cgroupfs"]
    what = [f"--build-arg=SUITE={SUITE}", "--file", "packaging/Containerfile", "--tag=hogpipe", "."]
    call(*storage, *build, *what)
    try:
        yield Path(call(*storage, "image", "mount", "hogpipe").strip())
    finally:
        call(*storage, "image", "unmount", "hogpipe")
        call(*storage, "system", "reset", "--force")


def call(*words: str | Path) -> str:
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def write_bundle(
    folder: Path, image: Path, *arguments: str, capabilities: Sequence[str], **process: object
) -> list[str]:
    """Write the bundle of a container with the manifest's user; return the command that runs it."""
    user = find("DaemonSet")["spec"]["template"]["spec"]["securityContext"]
    (folder / "config").mkdir()
    for name, text in find("ConfigMap")["data"].items():
        (folder / "config" / name).write_text(text)
    names = [f"CAP_{name}" for name in capabilities]
    bind = {"type": "bind", "options": ["rbind", "ro"]}
    bundle = {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": user["runAsUser"], "gid": user["runAsGroup"]},
            "args": ["/opt/hogpipe/bin/hogpipe", *arguments],
            "cwd": "/",
            "noNewPrivileges": False,
            "capabilities": {"bounding": names},  # no runtime needs to give a user more
            **process,
        },
        "root": {"path": str(image), "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/sys", "source": "/sys", **bind},
            {"destination": "/etc/hogpipe", "source": str(folder / "config"), **bind},
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("mount", "uts", "ipc", "cgroup")],
            "seccomp": make_seccomp(names),
        },
    }
    (folder / "config.json").write_text(json.dumps(bundle))
    run = ["crun", "--cgroup-manager=disabled", "--root", f"{folder}/crun", "run", folder.name]
    # With cgroup v2 alone, as on the nodes: crun refuses other mounts.
    script = f'cd {folder}; mount -t cgroup2 none /sys/fs/cgroup; exec "$@"'
    return ["unshare", "--mount", "sh", "-ec", script, "sh", *run]


def make_seccomp(capabilities: Sequence[str]) -> dict[str, object]:
    """Return the part of the default profile that applies with these capabilities."""
    profile = json.loads(PROFILE.read_text())
    calls = [
        {key: rule[key] for key in ("names", "action", "args", "errnoRet") if rule.get(key)}
        for rule in profile["syscalls"]
        if "arches" not in rule["includes"] and applies(rule, set(capabilities))
    ]
    calls += [
        {"names": names, "action": "SCMP_ACT_ALLOW"}
        for capability, names in CALLS.items()
        if capability in capabilities
    ]
    calls.append({"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW"})
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "syscalls": calls,
    }


def applies(rule: dict[str, Any], capabilities: set[str]) -> bool:
    """Return whether a rule applies: it names capabilities that are needed, or that are not."""
    if any(call in rule["names"] for calls in CALLS.values() for call in calls):
        return rule["action"] == "SCMP_ACT_ALLOW" and "CAP_SYS_ADMIN" in capabilities
    needed, excluded = rule["includes"].get("caps"), rule["excludes"].get("caps", ())
    return (not needed or bool(capabilities & set(needed))) and not capabilities & set(excluded)


def test_one_file_has_capabilities_and_none_changes_the_user(image: Path) -> None:
    assert call("find", image, "-xdev", "-type", "f", "-perm", "/6000") == ""
    path, _, granted = call("getcap", "-r", image).strip().partition(" ")
    assert Path(path) == image / "opt/hogpipe/bin/python3"
    assert granted.endswith("=p")
    assert Path(path).stat().st_mode & 0o777 == 0o750


def test_without_capabilities_it_starts_and_names_them(image: Path, tmp_path: Path) -> None:
    command = write_bundle(tmp_path, image, "run", capabilities=())
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 77
    assert "CAP_NET_RAW" in done.stderr


def test_without_new_privileges_the_file_has_no_capabilities(image: Path, tmp_path: Path) -> None:
    command = write_bundle(tmp_path, image, "run", capabilities=["NET_RAW"], noNewPrivileges=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 77


def test_as_the_manifest_runs_it_it_names_the_process_of_a_curl(
    image: Path, netns: Namespace, tmp_path: Path
) -> None:
    (container,) = find("DaemonSet")["spec"]["template"]["spec"]["containers"]
    granted = container["securityContext"]["capabilities"]["add"]
    command = write_bundle(tmp_path, image, *container["args"], capabilities=granted)
    serve = (sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", str(PORT))
    output = tmp_path / "records.jsonl"
    with (
        running(netns, *serve, cwd=ROOT / "docs", stdout=subprocess.DEVNULL) as server,
        output.open("w") as file,
        running(None, *command, stdout=file) as run,
    ):
        try:
            run.wait_for(r"owners come from the ledger \(eBPF\)")
            curl = f"curl --silent --fail --output /dev/null --retry-connrefused --retry 9 {URL}"
            loop = f"for n in $(seq {CURLS}); do {curl} || exit 1; done"
            subprocess.run(netns.command("sh", "-ec", loop), check=True)
            assert run.end(signal.SIGTERM) == 0, run.errors
        finally:
            delete = ["crun", "--root", f"{tmp_path}/crun", "delete", "--force", tmp_path.name]
            subprocess.run(delete, stderr=subprocess.DEVNULL, check=False)
    records = [json.loads(line) for line in output.read_text().splitlines()]
    curls = [one for one in traffic_of(records) if one.get("process", {}).get("name") == "curl"]
    served = [
        one
        for one in traffic_of(records)
        if one.get("process", {}).get("pid") == server.process.pid
    ]
    exact = sum(one["attribution"].get("exact", 0) for one in curls)
    received = sum_bytes(served, "receive")
    assert received > CURLS * 100
    assert sum_bytes(curls, "transmit") >= 0.999 * received
    assert exact >= 0.999 * (received + sum_bytes(served, "transmit"))


def sum_bytes(records: Sequence[dict[str, Any]], direction: str) -> int:
    return sum(one["network"]["io"][direction]["bytes"] for one in records)
