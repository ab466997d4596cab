"""PURE: names of containers and pods in what their runtimes leave on disk.

In: the content of state files, names in folders of logs, and control group paths. Out:
`ContainerNames`, None where there is nothing. Raises ValueError for content that is torn, of
another form, or nested too deeply. Names are hostile: they are cut at `_LONGEST` characters, and
escaped where they are shown.

    docker       config.v2.json: Name, Config.Image, Config.Labels
    podman       containers.json of containers/storage: names, and JSON in `metadata`
    cri-o        the same, with the names of the pod; annotations of the OCI config.json
    containerd   annotations of the OCI config.json in the state of the task
    kubelet      NAMESPACE_POD_UID in /var/log/pods, POD_NAMESPACE_CONTAINER-ID.log in
                 /var/log/containers
"""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec

from hogpipe.model import ContainerNames

_T = TypeVar("_T")

_LONGEST = 512
_MACHINE = re.compile(r"machine-.+\.scope|systemd-nspawn@.+\.service", re.DOTALL)
_LIBVIRT = re.compile(r"lxc-[0-9]+-")
_RUNTIMES = (
    ("docker", "docker"),
    ("cri-containerd", "containerd"),
    ("nerdctl", "containerd"),
    ("crio", "cri-o"),
    ("libpod", "podman"),
)
"""The beginning of a name in a control group path, and the runtime."""
_POD_NAME = ("io.kubernetes.pod.name", "io.kubernetes.cri.sandbox-name")
_POD_NAMESPACE = ("io.kubernetes.pod.namespace", "io.kubernetes.cri.sandbox-namespace")
_POD_CONTAINER = ("io.kubernetes.container.name", "io.kubernetes.cri.container-name")
_IMAGE = ("io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName")
_NAME = ("nerdctl/name", "io.kubernetes.cri.container-name", "io.kubernetes.cri-o.Name")


class _DockerSettings(msgspec.Struct):
    image: str = msgspec.field(name="Image", default="")
    labels: dict[str, str] | None = msgspec.field(name="Labels", default=None)


class _DockerConfig(msgspec.Struct):
    name: str = msgspec.field(name="Name", default="")
    config: _DockerSettings | None = msgspec.field(name="Config", default=None)


class _Stored(msgspec.Struct):
    id: str
    names: list[str] | None = None
    metadata: str = ""


class _Metadata(msgspec.Struct, rename="kebab"):
    image_name: str = ""
    pod_name: str = ""
    namespace: str = ""
    metadata_name: str = ""


class _OciConfig(msgspec.Struct):
    annotations: dict[str, str] | None = None


def parse_docker_config(content: bytes) -> ContainerNames:
    """Return the names in a config.v2.json."""
    found = _decode(content, _DockerConfig)
    settings = found.config or _DockerSettings()
    labels = settings.labels or {}
    return ContainerNames(
        name=_clean(found.name.removeprefix("/")),
        image=_clean(settings.image),
        pod_name=_pick(labels, _POD_NAME),
        pod_namespace=_pick(labels, _POD_NAMESPACE),
        pod_container=_pick(labels, _POD_CONTAINER),
    )


def parse_storage(content: bytes, container: str) -> ContainerNames | None:
    """Return the names of a container in a containers.json, None if it is not there."""
    for one in _decode(content, list[_Stored]):
        if one.id == container:
            data = _decode(one.metadata.encode(), _Metadata) if one.metadata else _Metadata()
            return ContainerNames(
                name=_clean(one.names[0]) if one.names else None,
                image=_clean(data.image_name),
                pod_name=_clean(data.pod_name),
                pod_namespace=_clean(data.namespace),
                pod_container=_clean(data.metadata_name),
            )
    return None


def parse_oci_config(content: bytes) -> ContainerNames:
    """Return the names in the annotations of a config.json."""
    annotations = _decode(content, _OciConfig).annotations or {}
    return ContainerNames(
        name=_pick(annotations, _NAME),
        image=_pick(annotations, _IMAGE),
        pod_name=_pick(annotations, _POD_NAME),
        pod_namespace=_pick(annotations, _POD_NAMESPACE),
        pod_container=_pick(annotations, _POD_CONTAINER),
    )


def find_in_container_logs(names: Iterable[bytes], container: str) -> ContainerNames | None:
    """Return what the name of a log in /var/log/containers says of a container."""
    end = f"-{container}.log".encode()
    for name in names:
        parts = name.removesuffix(end).split(b"_")
        if name.endswith(end) and len(parts) == 3:
            pod, namespace, inner = map(_decode_name, parts)
            return ContainerNames(pod_name=pod, pod_namespace=namespace, pod_container=inner)
    return None


def find_in_pod_logs(names: Iterable[bytes], pod: str) -> ContainerNames | None:
    """Return what the name of a folder in /var/log/pods says of a pod."""
    for name in names:
        parts = name.split(b"_")
        if len(parts) == 3 and parts[2] == pod.encode():
            return ContainerNames(
                pod_name=_decode_name(parts[1]), pod_namespace=_decode_name(parts[0])
            )
    return None


def find_runtime(cgroup: str, container: str) -> str | None:
    """Return the runtime that made a control group of a container, if its names show that."""
    parts = cgroup.split("/")
    for part, above in zip(parts[::-1], [*parts[-2::-1], ""], strict=True):
        if container in part:
            name = part.rpartition(":")[0].rpartition(":")[2] or part
            for prefix, runtime in _RUNTIMES:
                if name.startswith(prefix) or above.startswith(prefix):
                    return runtime
        if part.startswith("lxc.payload.") or above in {"lxc", "lxc.payload"}:
            return "lxc"
        if _MACHINE.fullmatch(part):
            return "libvirt-lxc" if _LIBVIRT.match(container) else "systemd-nspawn"
    return None


def merge_names(first: ContainerNames, second: ContainerNames | None) -> ContainerNames:
    """Return the names of the first, and where it has none those of the second."""
    if second is None:
        return first
    known = {key: value for key, value in msgspec.structs.asdict(first).items() if value}
    return msgspec.structs.replace(second, **known)


def _decode(content: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _pick(annotations: Mapping[str, str], keys: Iterable[str]) -> str | None:
    return next((found for key in keys if (found := _clean(annotations.get(key, "")))), None)


def _clean(text: str) -> str | None:
    return text[:_LONGEST] or None


def _decode_name(name: bytes) -> str | None:
    return _clean(name.decode("utf-8", "backslashreplace"))
