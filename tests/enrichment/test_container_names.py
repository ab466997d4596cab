"""Names of containers and pods, from a fake tree of what runtimes leave, be it hostile."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_proc import FakeProc

from hogpipe.enrichment.cgroup_paths import CgroupNames, parse_cgroup
from hogpipe.enrichment.container_names import ContainerNameReader
from hogpipe.enrichment.container_state import (
    find_in_container_logs,
    find_in_pod_logs,
    find_runtime,
    parse_docker_config,
    parse_oci_config,
    parse_storage,
)
from hogpipe.enrichment.processes import ProcessReader
from hogpipe.linux.procfs import ProcessIdentity, Procfs
from hogpipe.model import ContainerNames

ID = "3f" * 32
UID = "7a1b90f2-713c-467a-a18a-cbb50a075296"
DOCKER = f"/system.slice/docker-{ID}.scope"
PODMAN = f"/machine.slice/libpod-{ID}.scope/container"
KUBEPODS = f"/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice"
DOCKER_CONFIG = f"var/lib/docker/containers/{ID}/config.v2.json"
TASK = f"run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/config.json"
STORAGE = "var/lib/containers/storage/overlay-containers"


class Tree:
    """A root with state files, a reader of it, and the reader's clock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 0.0
        self.reader = ContainerNameReader(root, lambda: self.now)

    def write(self, path: str, content: object) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return file

    def find(self, cgroup: str) -> ContainerNames | None:
        return self.reader.find(parse_cgroup(f"0::{cgroup}\n"))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    root = tmp_path / "root"
    root.mkdir()
    return Tree(root)


def test_a_container_of_docker_has_the_name_and_the_image_of_its_state_file(tree: Tree) -> None:
    tree.write(DOCKER_CONFIG, {"Name": "/web", "Config": {"Image": "nginx:1.27", "Labels": None}})
    assert tree.find(DOCKER) == ContainerNames("web", "nginx:1.27", "docker")
    assert tree.find(f"/docker/{ID}") == ContainerNames("web", "nginx:1.27", "docker")


def test_a_container_of_containerd_has_the_names_of_its_annotations(tree: Tree) -> None:
    annotations = {
        "io.kubernetes.cri.container-name": "app",
        "io.kubernetes.cri.sandbox-name": "web-0",
        "io.kubernetes.cri.sandbox-namespace": "shop",
        "io.kubernetes.cri.image-name": "docker.io/library/nginx:1.27",
    }
    tree.write(TASK, {"ociVersion": "1.0.2", "annotations": annotations})
    assert tree.find(f"{KUBEPODS}/cri-containerd-{ID}.scope") == ContainerNames(
        "app", "docker.io/library/nginx:1.27", "containerd", "web-0", "shop", "app"
    )


@pytest.mark.parametrize("file", ["containers.json", "volatile-containers.json"])
def test_a_container_of_podman_is_one_of_those_in_its_storage(tree: Tree, file: str) -> None:
    metadata = json.dumps({"image-name": "localhost/web:1", "name": "web"})
    one = {"id": ID, "names": ["web"], "image": "ab", "metadata": metadata, "flags": {"x": ""}}
    tree.write(f"{STORAGE}/{file}", [{"id": "ab" * 32, "names": ["other"]}, one])
    assert tree.find(PODMAN) == ContainerNames("web", "localhost/web:1", "podman")


def test_a_container_of_crio_has_the_names_of_its_pod(tree: Tree) -> None:
    metadata = json.dumps(
        {
            "pod-name": "web-0",
            "image-name": "nginx",
            "name": "k8s_app_web-0_shop_0",
            "metadata-name": "app",
            "namespace": "shop",
        }
    )
    names = ["k8s_app_web-0_shop_0"]
    tree.write(f"{STORAGE}/containers.json", [{"id": ID, "names": names, "metadata": metadata}])
    assert tree.find(f"{KUBEPODS}/crio-{ID}.scope") == ContainerNames(
        names[0], "nginx", "cri-o", "web-0", "shop", "app"
    )


def test_the_names_of_logs_are_enough_for_a_pod(tree: Tree) -> None:
    (tree.root / "var/log/pods" / f"shop_web-0_{UID}").mkdir(parents=True)
    pod = f"{KUBEPODS}/cri-containerd-{ID}.scope"
    assert tree.find(pod) == ContainerNames(
        runtime="containerd", pod_name="web-0", pod_namespace="shop"
    )
    logs = tree.root / "var/log/containers"
    logs.mkdir()
    (logs / f"web-0_shop_app-{ID}.log").symlink_to("/nowhere")
    tree.now = 5.0
    names = tree.find(pod)
    assert names is not None
    assert names.pod_container == "app"
    assert tree.reader.unreadable == 0


@pytest.mark.parametrize(
    ("cgroup", "name", "runtime"),
    [
        ("/lxc.payload.box/init.scope", "box", "lxc"),
        ("/lxc/box/system.slice/a.service", "box", "lxc"),
        (r"/machine.slice/machine-my\x2dbox.scope/payload", "my-box", "systemd-nspawn"),
        ("/machine.slice/systemd-nspawn@box.service/payload", "box", "systemd-nspawn"),
        (r"/machine.slice/machine-lxc\x2d42\x2dbox.scope/libvirt", "lxc-42-box", "libvirt-lxc"),
    ],
)
def test_a_container_whose_control_group_has_its_name_needs_no_file(
    tree: Tree, cgroup: str, name: str, runtime: str
) -> None:
    assert tree.find(cgroup) == ContainerNames(name=name, runtime=runtime)


@pytest.mark.parametrize(
    ("cgroup", "runtime"),
    [
        (f"/system.slice/docker-{ID}.scope", "docker"),
        (f"/docker/{ID}", "docker"),
        (f"{KUBEPODS}/cri-containerd-{ID}.scope", "containerd"),
        (f"/a/kubepods-pod.slice:cri-containerd:{ID}", "containerd"),
        (f"{KUBEPODS}/crio-{ID}.scope", "cri-o"),
        (f"/machine.slice/libpod-payload-{ID}", "podman"),
        (f"/libpod_parent/libpod-{ID}", "podman"),
        (f"/kubepods/pod{UID}/{ID}", None),
    ],
)
def test_the_runtime_is_that_of_the_names_in_the_path(cgroup: str, runtime: str | None) -> None:
    assert find_runtime(cgroup, ID) == runtime


def test_a_container_is_read_once_and_an_unknown_one_with_growing_pauses(tree: Tree) -> None:
    assert tree.find(DOCKER) == ContainerNames(runtime="docker")
    file = tree.write(DOCKER_CONFIG, {"Name": "/web", "Config": {"Image": "nginx"}})
    tree.now = 4.9
    assert tree.find(DOCKER) == ContainerNames(runtime="docker")
    tree.now = 5.0
    known = tree.find(DOCKER)
    assert known == ContainerNames("web", "nginx", "docker")
    file.unlink()
    tree.now = 1e9
    assert tree.find(DOCKER) is known


def test_what_is_in_no_container_has_no_names(tree: Tree) -> None:
    assert tree.find("/system.slice/nginx.service") is None
    assert tree.reader.recall(CgroupNames(container=ID)) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"Name": "/we',
        b"[]",
        b'{"Name": 7}',
        b'{"Config": {"Labels": {"a": 1}}}',
        b'{"Name": "\xff"}',
        b'{"a":' * 100_000,
        b'{"Name": "/web", "x": "' + b"x" * (4 << 20) + b'"}',
    ],
    ids=["empty", "torn", "a list", "a number", "a label", "not UTF-8", "deep", "huge"],
)
def test_a_state_file_that_cannot_be_used_is_counted(tree: Tree, content: bytes) -> None:
    tree.write(DOCKER_CONFIG, content)
    assert tree.find(DOCKER) == ContainerNames(runtime="docker")
    assert tree.reader.unreadable == 1


def test_a_state_file_that_is_a_link_a_fifo_or_a_folder_is_not_read(tree: Tree) -> None:
    secret = tree.write("etc/secret", {"Name": "/secret"})
    file = tree.root / DOCKER_CONFIG
    file.parent.mkdir(parents=True)
    for number, make in enumerate(
        (lambda: file.symlink_to(secret), lambda: os.mkfifo(file), file.mkdir), 1
    ):
        make()
        tree.now += 1000
        assert tree.find(DOCKER) == ContainerNames(runtime="docker")
        assert tree.reader.unreadable == number
        file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()


def test_links_of_folders_are_followed_within_the_root(tree: Tree, tmp_path: Path) -> None:
    outside = tmp_path / "data" / ID
    outside.mkdir(parents=True)
    (outside / "config.v2.json").write_text('{"Name": "/outside"}')
    (tree.root / "var/lib/docker").mkdir(parents=True)
    folder = tree.root / "var/lib/docker/containers"
    folder.symlink_to(tmp_path / "data")
    assert tree.find(DOCKER) == ContainerNames(runtime="docker")
    folder.unlink()
    folder.symlink_to("/data")
    tree.write(f"data/{ID}/config.v2.json", {"Name": "/inside", "Config": {"Image": "i"}})
    tree.now = 10.0
    assert tree.find(DOCKER) == ContainerNames("inside", "i", "docker")


def test_hostile_names_are_cut_and_stay_valid_text(tree: Tree) -> None:
    name = "\x1b[31m" + "é" * 2000
    tree.write(DOCKER_CONFIG, {"Name": name, "Config": {"Image": "\u202e"}})
    found = tree.find(DOCKER)
    assert found is not None
    assert found.name == name[:512]
    names = [f"a\xff_\x1b_c-{ID}.log".encode("latin-1")]
    logged = find_in_container_logs(names, ID)
    assert logged == ContainerNames(pod_name="a\\xff", pod_namespace="\x1b", pod_container="c")
    assert find_in_container_logs([b"a_b.log", f"-{ID}.log".encode()], ID) is None
    assert find_in_pod_logs([b"a_b", b"_", f"a_b_c_{UID}".encode()], UID) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(
    st.binary()
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.builds(
        lambda value: json.dumps([{"id": ID, "metadata": value}]).encode(), st.text() | json_values
    )
)
def test_any_content_gives_names_or_a_value_error(content: bytes) -> None:
    for parse in (parse_docker_config, parse_oci_config, lambda text: parse_storage(text, ID)):
        try:
            found = parse(content)
        except ValueError:
            continue
        assert found is None or isinstance(found, ContainerNames)


def test_a_process_has_the_names_of_its_container_until_they_are_not_asked_for(
    tree: Tree,
) -> None:
    fake = FakeProc(tree.root / "proc")
    fake.process(9, start=90, cgroup=f"0::{DOCKER}\n".encode())
    tree.write(DOCKER_CONFIG, {"Name": "/web", "Config": {"Image": "nginx"}})
    reader = ProcessReader(Procfs(fake.root), containers=tree.reader)
    owner = ProcessIdentity(9, 90)
    process = reader.find(owner, 0.0)
    assert process is not None
    assert process.container_names == ContainerNames("web", "nginx", "docker")
    reader.set_details(command_line=False, ancestors=0, container_names=False)
    assert reader.recall(process).container_names is None  # also of one that has exited since
    process = reader.find(owner, 0.5)
    assert process is not None
    assert process.container_names is None
