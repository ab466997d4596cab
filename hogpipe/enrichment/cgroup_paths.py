r"""PURE: systemd unit, container and Kubernetes pod, by the names in control group paths.

In: the text of /proc/PID/cgroup, or a path in the v2 tree; any text is valid. Out: `CgroupNames`.
Names of units keep systemd's escapes (`\x2d`). Only the names in a path matter, not its root: seen
from inside a cgroup namespace, a path may begin with `/..`.

Sources: cgroups(7), systemd.slice(5), systemd-escape(1), the OCI runtime's cgroupsPath, and the
paths that Docker, containerd, CRI-O, Podman, Kubernetes, LXC, Incus, systemd-nspawn, libvirt, ECS
and Garden create, with cgroupfs and with systemd as their driver.
"""

import re

import msgspec

_DELETED = " (deleted)"

# Units of these types contain processes; a slice contains only other units.
_UNIT_TYPES = (".service", ".scope", ".socket", ".mount", ".swap")

# `ID`, `docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID`, `libpod-payload-ID`, `kata_ID`,
# `kubepods-podUID.slice:cri-containerd:ID`
_HEX_ID = re.compile(r"(?P<runtime>.*[-:_])?(?P<id>[0-9a-f]{64})(?:\.scope)?", re.DOTALL)
# Fargate: the task id and a number.
_TASK_ID = re.compile(r"[0-9a-f]{32}-[0-9]+")
# Garden (Cloud Foundry): a UUID, or one without its last eight digits.
_GARDEN_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){4}(?:[0-9a-f]{8})?")

_LXC_PARENTS = ("lxc", "lxc.payload")
_LXC_PREFIX = "lxc.payload."
# Containers of systemd-nspawn and libvirt; processes in `/supervisor` below are outside.
_MACHINE = re.compile(r"machine-(.+)\.scope|systemd-nspawn@(.+)\.service", re.DOTALL)
_VIRTUAL_MACHINE = "qemu-"
# Printable ASCII only; other escapes stay, so that the text remains valid.
_ESCAPED = re.compile(r"\\x([2-7][0-9a-f])")

# `podUID`, `kubepods-burstable-podUID.slice`, `kubelet-kubepods-podUID.slice:cri-containerd:ID`.
# In names of slices a dash is a level of the tree, so `_` replaces it there. Static pods of the
# kubelet have a hash instead of a UUID.
_POD = re.compile(
    r"(?:.*-)?pod(?P<uid>[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})"
    r"(?:\.slice(?::.*)?)?",
    re.DOTALL,
)


class CgroupNames(msgspec.Struct, frozen=True):
    """The path of a process's control group, and what its names identify."""

    cgroup: str | None = None
    unit: str | None = None
    container: str | None = None
    pod: str | None = None


def parse_cgroup(text: str) -> CgroupNames:
    """Return the names in the best path of a /proc/PID/cgroup.

    The best path names a pod; otherwise it names a container (a runtime may use only hierarchies of
    cgroup v1 and leave the process in its former v2 group); otherwise it names a unit. Among equal
    paths, the one of v2 comes first, then the one of systemd's own hierarchy, then the order of the
    file. The root is the last choice.
    """
    lines = (line.split(":", 2) for line in text.split("\n"))
    hierarchies = [line for line in lines if len(line) == 3]
    paths = [path for number, kind, path in hierarchies if number == "0" and not kind]
    paths += [path for _, kind, path in hierarchies if kind == "name=systemd"]
    paths += [path for _, _, path in hierarchies]
    names = [_names_in(path.removesuffix(_DELETED)) for path in dict.fromkeys(paths)]
    return max(names, key=_completeness, default=CgroupNames())  # the first of equal ones


def has_only_cgroup_v2(text: str) -> bool:
    """Return whether a /proc/PID/cgroup has no hierarchy of cgroup v1."""
    lines = text.split("\n")
    return any(lines) and all(line.startswith("0::") for line in lines if line)


def parse_v2_of(text: str) -> str | None:
    """Return the path in the v2 tree of a /proc/PID/cgroup, or None."""
    paths = (line[3:] for line in text.split("\n") if line.startswith("0::"))
    return next((path.removesuffix(_DELETED) for path in paths), None)


def parse_v2_path(path: str, *, only_hierarchy: bool) -> CgroupNames:
    """Return the names in a path of the v2 tree, without the paths of other hierarchies.

    Unless v2 is the `only_hierarchy`, the path may be meaningless: the v2 tree may have all
    processes in its root, and those of containers in the unit that started them. A path is then
    used only if it names a container or a pod, because `parse_cgroup` would choose it, too.
    """
    names = _names_in(path)
    return names if only_hierarchy or names.container or names.pod else CgroupNames()


def _names_in(path: str) -> CgroupNames:
    return CgroupNames(path, unit_of(path), container_of(path), pod_of(path))


def _completeness(names: CgroupNames) -> tuple[bool, ...]:
    by_rank = (names.pod, names.container, names.unit)
    return *(name is not None for name in by_rank), names.cgroup != "/"


def unit_of(path: str) -> str | None:
    """Return the innermost systemd unit of a cgroup path, or None."""
    return next((name for name in reversed(path.split("/")) if name.endswith(_UNIT_TYPES)), None)


def container_of(path: str) -> str | None:
    """Return the innermost container of a cgroup path, or None.

    A container is identified by 64 hexadecimal digits (ECS and Garden have their own formats), or
    by its name in LXC, Incus, systemd-nspawn or libvirt.
    """
    names = path.split("/")
    for index in range(len(names) - 1, -1, -1):
        found = _container_at(names, index)
        if found is not None:
            return found
    return None


def pod_of(path: str) -> str | None:
    """Return the uid of the innermost Kubernetes pod of a cgroup path, or None.

    A UUID is returned with dashes, a static pod's hash unchanged.
    """
    matches = (_POD.fullmatch(name) for name in reversed(path.split("/")))
    return next((match["uid"].replace("_", "-") for match in matches if match is not None), None)


def _container_at(names: list[str], index: int) -> str | None:
    name, parent = names[index], names[index - 1] if index else ""
    match = _HEX_ID.fullmatch(name)
    below = names[index + 1 : index + 2]
    if match is not None:
        # conmon monitors a container from outside; in `ID/conmon` the id is that of the pod.
        is_monitor = "conmon" in (match["runtime"] or "") or below == ["conmon"]
        return None if is_monitor else match["id"]
    if _TASK_ID.fullmatch(name) or (_GARDEN_ID.fullmatch(name) and "garden" in names[:index]):
        return name
    if name.startswith(_LXC_PREFIX):
        return name.removeprefix(_LXC_PREFIX) or None
    if parent in _LXC_PARENTS:
        # `lxc/NAME/lxc.monitor` is outside of the container, too.
        return None if below == ["lxc.monitor"] else name or None
    return _machine_at(name, below=below)


def _machine_at(name: str, *, below: list[str]) -> str | None:
    match = _MACHINE.fullmatch(name)
    if match is None or below == ["supervisor"]:
        return None
    machine = _unescape(match[1] or match[2])
    return None if machine.startswith(_VIRTUAL_MACHINE) else machine


def _unescape(name: str) -> str:
    r"""Return the name of a unit without systemd's escapes: `\x2d` becomes a dash."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), name)
