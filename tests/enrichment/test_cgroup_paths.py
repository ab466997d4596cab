"""Unit, container and pod by the names in control group paths."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hogpipe.enrichment.cgroup_paths import (
    CgroupNames,
    container_of,
    has_only_cgroup_v2,
    parse_cgroup,
    parse_v2_path,
    pod_of,
    unit_of,
)

ID = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4
TASK = "409b8b89ccd746bdb9b5e03418406d96"
UID = "7a1b90f2-713c-467a-a18a-cbb50a075296"
IN_SLICE = UID.replace("-", "_")
STATIC = "f3c1e2d4b5a69788796a5b4c3d2e1f00"
BURSTABLE = "/kubepods.slice/kubepods-burstable.slice"
KIND = f"/system.slice/docker-{OTHER}.scope/kubelet.slice/kubelet-kubepods.slice"


def lines(path: str, *others: str) -> str:
    """Return /proc/PID/cgroup of a hybrid host: `path` in v2, `others` in hierarchies of v1."""
    v1 = [
        f"{number}:{text}" for number, text in zip(range(len(others), 0, -1), others, strict=True)
    ]
    return "".join(f"{line}\n" for line in (*v1, f"0::{path}"))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("0::/system.slice/nginx.service\n", "/system.slice/nginx.service"),
        ("4:memory:/m\n1:name=systemd:/s\n0::/two\n", "/two"),
        ("4:memory:/m\n1:name=systemd:/s\n", "/s"),
        ("4:memory:/m\n3:cpu,cpuacct:/c\n", "/m"),
        ("4:memory:/m\n1:name=systemd:/s\n0::/\n", "/s"),  # v2 is mounted but not used
        ("4:pids:/\n3:memory:/m\n1:name=systemd:/\n0::/\n", "/m"),
        ("1:name=systemd:/\n0::/\n", "/"),
        ("0::/a:b:c\n", "/a:b:c"),
        ("0::/gone.service (deleted)\n", "/gone.service"),
        ("0::/odd\x85name\n", "/odd\x85name"),
        ("", None),
        ("garbage\n", None),
    ],
)
def test_the_path_is_that_of_the_most_specific_hierarchy(text: str, path: str | None) -> None:
    assert parse_cgroup(text).cgroup == path


@pytest.mark.parametrize(
    ("text", "placement"),
    [
        # Docker on a hybrid host creates no v2 group: the process stays in that of the daemon.
        (
            lines("/system.slice/containerd.service", "memory:/x", f"name=systemd:/docker/{ID}"),
            CgroupNames(f"/docker/{ID}", container=ID),
        ),
        # A pod on EKS Fargate: v2 names only the task.
        (
            lines(f"/ecs/{TASK}/{TASK}-30", f"pids:/ecs/{TASK}/{TASK}-30/kubepods/pod{UID}/{ID}"),
            CgroupNames(f"/ecs/{TASK}/{TASK}-30/kubepods/pod{UID}/{ID}", container=ID, pod=UID),
        ),
        (
            lines("/lxc/web1", "name=systemd:/lxc/web1/system.slice/nginx.service"),
            CgroupNames("/lxc/web1/system.slice/nginx.service", "nginx.service", "web1"),
        ),
        (
            lines(f"/a.slice/docker-{ID}.scope", f"pids:/docker/{OTHER}"),
            CgroupNames(f"/a.slice/docker-{ID}.scope", f"docker-{ID}.scope", ID),
        ),
    ],
)
def test_all_names_are_from_one_path(text: str, placement: CgroupNames) -> None:
    assert parse_cgroup(text) == placement


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/system.slice/nginx.service", "nginx.service"),
        ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
        ("/user.slice/user-1000.slice/session-1.scope", "session-1.scope"),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/editor.service",
            "editor.service",
        ),
        (r"/system.slice/my\x2dapp.service/worker", r"my\x2dapp.service"),
        ("/init.scope", "init.scope"),
        ("/../../system.slice/ssh.service", "ssh.service"),
        (f"/system.slice/docker-{ID}.scope/system.slice/cron.service", "cron.service"),
        ("/system.slice", None),
        (f"/docker/{ID}", None),
        ("/", None),
    ],
)
def test_the_unit_is_the_innermost_one(path: str, unit: str | None) -> None:
    assert unit_of(path) == unit


@pytest.mark.parametrize(
    ("path", "container"),
    [
        (f"/docker/{ID}", ID),
        (f"/system.slice/docker-{ID}.scope", ID),
        (f"/system.slice/docker-{ID}.scope/system.slice/cron.service", ID),
        (f"/docker/{OTHER}/docker/{ID}", ID),
        (f"/machine.slice/libpod-{ID}.scope/container", ID),
        (f"/user.slice/user-1.slice/user@1.service/user.slice/libpod-{ID}.scope", ID),
        (f"/machine.slice/libpod-conmon-{ID}.scope", None),
        (f"/kubepods/burstable/pod7a1b/{ID}", ID),
        (f"/kubepods.slice/kubepods-pod7a1b.slice/cri-containerd-{ID}.scope", ID),
        (f"/kubepods.slice/kubepods-pod7a1b.slice/crio-{ID}.scope", ID),
        (f"/kubepods.slice/kubepods-pod7a1b.slice/crio-conmon-{ID}.scope", None),
        (f"/system.slice/containerd.service/kubepods-pod7a1b.slice:cri-containerd:{ID}", ID),
        ("/lxc/web1", "web1"),
        ("/lxc/web1/system.slice/nginx.service", "web1"),
        ("/lxc.payload/web1", "web1"),
        ("/lxc.payload.web1/system.slice/nginx.service", "web1"),
        ("/lxc.monitor.web1", None),
        # Docker: rootless, in a container, in a pod, and with another cgroup prefix.
        (f"/user.slice/user-1.slice/user@1.service/user.slice/docker-{ID}.scope", ID),
        (f"/docker-ce/docker/{ID}", ID),
        (f"/kubepods/pod{UID}/{OTHER}/docker/{ID}", ID),
        (f"/{ID}", ID),
        # Podman: its own units, quadlets (`--cgroups=split`), pods, cgroupfs.
        (f"/user.slice/user-1.slice/user@1.service/app.slice/a.service/libpod-payload-{ID}", ID),
        ("/user.slice/user-1.slice/user@1.service/app.slice/a.service/runtime", None),
        (f"/machine.slice/machine-libpod_pod_{OTHER}.slice/libpod-{ID}.scope/container", ID),
        (f"/machine.slice/machine-libpod_pod_{OTHER}.slice/libpod-conmon-{ID}.scope", None),
        (f"/libpod_parent/libpod-{ID}", ID),
        (f"/libpod_parent/{OTHER}/conmon", None),
        (f"/libpod_parent/{OTHER}/libpod-{ID}", ID),
        (f"/lxc/web1/machine.slice/libpod-conmon-{ID}.scope", "web1"),
        # Nodes of kind are containers that run containers.
        (f"{KIND}/kubelet-kubepods-pod{IN_SLICE}.slice/cri-containerd-{ID}.scope", ID),
        (f"/docker/{OTHER}/kubepods/besteffort/pod{UID}/{ID}", ID),
        (f"/system.slice/docker-{OTHER}.scope/system.slice/kubelet.service", OTHER),
        (f"/kubepods/burstable/pod{UID}/crio-{ID}", ID),
        (f"/kubepods/burstable/pod{UID}/kata_{ID}", ID),
        (f"/k8s.io/{ID}", ID),
        # Seen from inside a cgroup namespace.
        (f"/../cri-containerd-{ID}.scope", ID),
        (f"/../../burstable/pod{UID}/{ID}", ID),
        # ECS, on instances and on Fargate; Garden.
        (f"/ecs/55091c13-b8cf-4801-b527-f4601742204d/{ID}", ID),
        (f"/ecstasks.slice/ecstasks-{TASK}.slice/docker-{ID}.scope", ID),
        (f"/ecs/{TASK}/{TASK}-3057940393", f"{TASK}-3057940393"),
        (f"/ecs/{TASK}-3057940393", f"{TASK}-3057940393"),
        (
            "/system.slice/garden.service/garden/good/6f265890-5165-7fab-6b52-18d1",
            "6f265890-5165-7fab-6b52-18d1",
        ),
        (f"/garden/{UID}", UID),
        (f"/user.slice/app-{UID}.scope", None),
        (f"/{UID}", None),
        (f"/ecs/{TASK}", None),
        # Machines of systemd-nspawn and libvirt; virtual machines of QEMU are not containers.
        (r"/machine.slice/machine-my\x2dbox.scope/payload/system.slice/a.service", "my-box"),
        (r"/machine.slice/systemd-nspawn@my\x2dbox.service/payload", "my-box"),
        ("/machine.slice/systemd-nspawn@box.service/supervisor", None),
        (r"/machine.slice/machine-lxc\x2d4242\x2dbox.scope/libvirt", "lxc-4242-box"),
        (r"/machine.slice/machine-qemu\x2d1\x2dbox.scope/libvirt/emulator", None),
        (r"/machine.slice/machine-\xff\x2d.scope", r"\xff-"),
        ("/lxc/100/ns/system.slice/nginx.service", "100"),
        ("/lxc/web1/lxc.payload", "web1"),
        ("/lxc/web1/lxc.monitor", None),
        ("/lxc.monitor/100", None),
        ("/lxc.payload.outer/lxc.payload.inner/init.scope", "inner"),
        ("/lxc.payload.project_web1", "project_web1"),
        (f"/docker/{ID[:-1]}", None),
        (f"/docker/{ID}0", None),
        ("/system.slice/nginx.service", None),
        ("/lxc/", None),
        ("/", None),
    ],
)
def test_the_container_is_the_innermost_one(path: str, container: str | None) -> None:
    assert container_of(path) == container


@pytest.mark.parametrize(
    ("path", "pod"),
    [
        (f"/kubepods/pod{UID}/{ID}", UID),
        (f"/kubepods/burstable/pod{UID}/{ID}", UID),
        (f"/kubepods/besteffort/pod{UID}/crio-{ID}", UID),
        (f"/kubepods/kubepods/besteffort/pod{UID}/{ID}", UID),
        (f"/kubepods.slice/kubepods-pod{IN_SLICE}.slice/crio-{ID}.scope", UID),
        (
            f"{BURSTABLE}/kubepods-burstable-pod{IN_SLICE}.slice/cri-containerd-{ID}.scope",
            UID,
        ),
        (f"/kubepods.slice/kubepods-pod{UID}.slice/docker-{ID}.scope", UID),
        (f"/system.slice/containerd.service/kubepods-pod{IN_SLICE}.slice:cri-containerd:{ID}", UID),
        (f"/kubepods-besteffort-pod{IN_SLICE}.slice:cri-containerd:{ID}", UID),
        (f"{KIND}/kubelet-kubepods-pod{IN_SLICE}.slice/cri-containerd-{ID}.scope", UID),
        (f"/../../burstable/pod{UID}/{ID}", UID),
        (f"/kubepods/pod{UID}/{ID}/docker/{OTHER}", UID),
        (f"/kubepods/pod{OTHER[:32]}/{OTHER}/kubepods/pod{UID}/{ID}", UID),
        (f"/kubepods/burstable/pod{STATIC}/{ID}", STATIC),
        (f"/kubepods.slice/kubepods-burstable-pod{STATIC}.slice/crio-{ID}.scope", STATIC),
        (f"/machine.slice/machine-libpod_pod_{ID}.slice/libpod-{OTHER}.scope", None),
        (f"/../cri-containerd-{ID}.scope", None),
        (f"/kubepods/pod{UID[:-1]}/{ID}", None),
        (f"/kubepods/{UID}/{ID}", None),
        ("/podruntime/kubelet", None),
        (f"/docker/{ID}", None),
        ("/", None),
    ],
)
def test_the_pod_is_the_innermost_one_its_uid_with_dashes(path: str, pod: str | None) -> None:
    assert pod_of(path) == pod


WORDS = ["name=systemd", "lxc", "docker-", "machine-", "ecs", "garden", "pod", ID, TASK, UID]
PIECES = st.sampled_from(["/", ":", "0::", ".slice", ".scope", r"\x2d", "\n", *WORDS])


@given(st.text() | st.lists(PIECES | st.text(max_size=3)).map("".join))
def test_any_text_parses(text: str) -> None:
    place = parse_cgroup(text)
    assert place.cgroup is None or place.cgroup in text
    assert (unit_of(text) or "") in text
    assert len(container_of(text) or "") <= len(text)
    assert (pod_of(text) or "") in text.replace("_", "-")


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("0::/init.scope\n", True),
        ("0::/\n", True),
        ("1:name=systemd:/init.scope\n0::/init.scope\n", False),
        ("4:memory:/\n0::/\n", False),
        ("", False),
    ],
)
def test_a_host_has_only_v2_if_no_other_hierarchy_is_listed(text: str, is_one: bool) -> None:
    assert has_only_cgroup_v2(text) is is_one


DOCKER = f"/system.slice/docker-{'a1' * 32}.scope"
UNIT = "/system.slice/containerd.service"


@pytest.mark.parametrize("alone", [True, False])
def test_a_v2_path_that_names_a_container_is_used_on_every_host(alone: bool) -> None:
    place = parse_v2_path(DOCKER, only_hierarchy=alone)
    assert place == parse_cgroup(f"0::{DOCKER}\n")
    assert place.container == "a1" * 32


@pytest.mark.parametrize("path", ["/", UNIT, "/user.slice"])
def test_any_other_v2_path_is_used_only_without_other_hierarchies(path: str) -> None:
    assert parse_v2_path(path, only_hierarchy=True) == parse_cgroup(f"0::{path}\n")
    assert parse_v2_path(path, only_hierarchy=False) == CgroupNames()
