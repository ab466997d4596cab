"""The manifest for Kubernetes agrees with the unit, the image and the configuration.

`.ci/lint manifests` validates it against the schemas of the API.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hogpipe.config import load_config
from hogpipe.version import __version__

PACKAGING = Path(__file__).parent.parent / "packaging"
IMAGE = (PACKAGING / "Containerfile").read_text()
UNIT = (PACKAGING / "systemd/hogpipe.service").read_text()
MANIFEST = PACKAGING / "kubernetes/daemonset.yaml"


def find(kind: str) -> Any:
    (found,) = (one for one in yaml.safe_load_all(MANIFEST.read_text()) if one["kind"] == kind)
    return found


@pytest.fixture(scope="module")
def pod() -> Any:
    return find("DaemonSet")["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod: Any) -> Any:
    (only,) = pod["containers"]
    return only


def list_capabilities(text: str) -> set[str]:
    """Return the names of capabilities, which come in upper or lower case."""
    return {name.upper() for name in re.findall(r"cap_(\w+)", text, re.IGNORECASE)}


def test_capabilities_are_those_of_the_unit_without_the_one_of_captures(container: Any) -> None:
    (of_unit,) = re.findall(r"^AmbientCapabilities=(.*)$", UNIT, re.MULTILINE)
    granted = container["securityContext"]["capabilities"]
    assert granted["drop"] == ["ALL"]
    assert set(granted["add"]) == list_capabilities(of_unit) - {"NET_RAW"}


def test_the_file_in_the_image_has_what_the_pod_and_the_drop_in_for_containers_add(
    container: Any,
) -> None:
    (of_file,) = re.findall(r"setcap (\S+)=p ", IMAGE)
    drop_in = (PACKAGING / "systemd/containers.conf").read_text()
    assert list_capabilities(of_file) == list_capabilities(UNIT) | list_capabilities(drop_in)
    assert set(container["securityContext"]["capabilities"]["add"]) <= list_capabilities(of_file)
    # Capabilities of files have no effect otherwise.
    assert container["securityContext"]["allowPrivilegeEscalation"] is True


def test_the_pod_runs_as_the_user_of_the_image_and_writes_nothing(pod: Any, container: Any) -> None:
    user = pod["securityContext"]
    assert f"USER {user['runAsUser']}:{user['runAsGroup']}\n" in IMAGE
    assert user["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert all(mount["readOnly"] for mount in container["volumeMounts"])
    assert not pod["automountServiceAccountToken"]


def test_the_pod_sees_the_node(pod: Any, container: Any) -> None:
    assert pod["hostPID"]
    assert pod["hostNetwork"]
    paths = {one["name"]: one["hostPath"]["path"] for one in pod["volumes"] if "hostPath" in one}
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert paths == {"cgroup": "/sys/fs/cgroup"}
    assert mounts["cgroup"] == "/sys/fs/cgroup"


def test_resources_are_bounded_and_the_version_is_this_one(container: Any) -> None:
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}
    assert container["image"].endswith(f":{__version__}")


def test_the_configuration_is_mounted_where_the_command_reads_it_and_valid(
    pod: Any, container: Any, tmp_path: Path
) -> None:
    config = find("ConfigMap")
    ((name, text),) = config["data"].items()
    (volume,) = (one for one in pod["volumes"] if "configMap" in one)
    assert volume["configMap"]["name"] == config["metadata"]["name"]
    (mount,) = (one for one in container["volumeMounts"] if one["name"] == volume["name"])
    assert container["args"] == ["run", f"{mount['mountPath']}/{name}"]
    (tmp_path / name).write_text(text)
    settings = load_config(tmp_path / name)
    assert settings.capture.source == "ebpf"
    assert [one.settings.type for one in settings.sinks] == ["stdout"]


def test_every_object_is_in_the_namespace_of_the_manifest() -> None:
    name = find("Namespace")["metadata"]["name"]
    for kind in ("ConfigMap", "DaemonSet"):
        assert find(kind)["metadata"]["namespace"] == name
    selector = find("DaemonSet")["spec"]["selector"]["matchLabels"]
    assert find("DaemonSet")["spec"]["template"]["metadata"]["labels"] == selector
