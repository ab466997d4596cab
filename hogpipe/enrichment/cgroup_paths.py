r"""What control groups tell of a process: systemd's unit, the container, the Kubernetes pod.

Pure: text in, names out; any text is fine. Names of units stay as they are in the path, systemd's
escapes (`\x2d`) among it. Only names in the path count, not where it begins: one that is seen from
inside a cgroup namespace begins with `/..`.

Sources: cgroups(7), systemd.slice(5), systemd-escape(1), the OCI runtime's cgroupsPath, and the
paths that Docker, containerd, CRI-O, Podman, Kubernetes, LXC, Incus, systemd-nspawn, libvirt, ECS
and Garden make, with cgroupfs and with systemd as their driver.
"""

import re

import msgspec

_DELETED = " (deleted)"

# Processes live in units of these types; a slice only holds other units.
_UNIT_TYPES = (".service", ".scope", ".socket", ".mount", ".swap")

# `ID`, `docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID`, `libpod-payload-ID`, `kata_ID`,
# `kubepods-podUID.slice:cri-containerd:ID`
_HEX_ID = re.compile(r"(?P<runtime>.*[-:_])?(?P<id>[0-9a-f]{64})(?:\.scope)?", re.DOTALL)
# Fargate: the id of the task and a number.
_TASK_ID = re.compile(r"[0-9a-f]{32}-[0-9]+")
# Garden (Cloud Foundry): a UUID, or one without its last eight digits.
_GARDEN_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){4}(?:[0-9a-f]{8})?")

_LXC_PARENTS = ("lxc", "lxc.payload")
_LXC_PREFIX = "lxc.payload."
# Of systemd-nspawn and of libvirt's containers; `/supervisor` below it is outside.
_MACHINE = re.compile(r"machine-(.+)\.scope|systemd-nspawn@(.+)\.service", re.DOTALL)
_VIRTUAL_MACHINE = "qemu-"
# Of printable ASCII; what else is escaped stays so, that no text becomes less valid than it was.
_ESCAPED = re.compile(r"\\x([2-7][0-9a-f])")

# `podUID`, `kubepods-burstable-podUID.slice`, `kubelet-kubepods-podUID.slice:cri-containerd:ID`.
# systemd takes a dash for a step in the tree, so `_` stands for it there. The kubelet's static pods
# have a hash in place of a UUID.
_POD = re.compile(
    r"(?:.*-)?pod(?P<uid>[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})"
    r"(?:\.slice(?::.*)?)?",
    re.DOTALL,
)


class CgroupNames(msgspec.Struct, frozen=True):
    """Where a process is: the path of its control group, and what the names in it tell."""

    cgroup: str | None = None
    unit: str | None = None
    container: str | None = None
    pod: str | None = None


def parse_cgroup(text: str) -> CgroupNames:
    """Return what /proc/PID/cgroup tells; all of it is from one of the paths there.

    That is the path that names a pod, else one that names a container (runtimes may use only the
    hierarchies of cgroup v1, and leave the process where it was in v2), else one that names a unit.
    Among equals it is that of v2, then that of the hierarchy which systemd names, then the first;
    and the root, which says nothing, only where none is another.
    """
    lines = (line.split(":", 2) for line in text.split("\n"))
    hierarchies = [line for line in lines if len(line) == 3]
    paths = [path for number, names, path in hierarchies if number == "0" and not names]
    paths += [path for _, names, path in hierarchies if names == "name=systemd"]
    paths += [path for _, _, path in hierarchies]
    places = [_place(path.removesuffix(_DELETED)) for path in dict.fromkeys(paths)]
    # The first of those that say as much wins.
    return max(places, key=_tells, default=CgroupNames())


def has_only_cgroup_v2(text: str) -> bool:
    """Return whether a /proc/PID/cgroup shows that v2 is the only hierarchy of its host."""
    lines = text.split("\n")
    return any(lines) and all(line.startswith("0::") for line in lines if line)


def parse_v2_path(path: str, *, alone: bool) -> CgroupNames:
    """Return what the path in the v2 tree tells of a process, of which no other one is known.

    Where that tree is not `alone` the process may have been elsewhere in another hierarchy: the
    tree may hold all processes in its root, and those of containers in the unit that started them.
    So nothing is told there but by a path that names a container or a pod, which `parse_cgroup`
    would prefer, too.
    """
    place = _place(path)
    return place if alone or place.container or place.pod else CgroupNames()


def _place(path: str) -> CgroupNames:
    return CgroupNames(path, unit_of(path), container_of(path), pod_of(path))


def _tells(place: CgroupNames) -> tuple[bool, ...]:
    told = (place.pod, place.container, place.unit)
    return *(name is not None for name in told), place.cgroup != "/"


def unit_of(path: str) -> str | None:
    """Return the innermost systemd unit of a cgroup path, or None."""
    return next((name for name in reversed(path.split("/")) if name.endswith(_UNIT_TYPES)), None)


def container_of(path: str) -> str | None:
    """Return the innermost container of a cgroup path, or None.

    Its id is 64 hexadecimal digits (ECS and Garden have ids of their own), or the name that LXC,
    Incus, systemd-nspawn or libvirt has for it.
    """
    names = path.split("/")
    for index in range(len(names) - 1, -1, -1):
        found = _container_at(names, index)
        if found is not None:
            return found
    return None


def pod_of(path: str) -> str | None:
    """Return the uid of the innermost Kubernetes pod of a cgroup path, or None.

    A UUID comes with dashes, however the path spells it; a static pod's hash is as it is.
    """
    matches = (_POD.fullmatch(name) for name in reversed(path.split("/")))
    return next((match["uid"].replace("_", "-") for match in matches if match is not None), None)


def _container_at(names: list[str], index: int) -> str | None:
    name, parent = names[index], names[index - 1] if index else ""
    match = _HEX_ID.fullmatch(name)
    below = names[index + 1 : index + 2]
    if match is not None:
        # conmon watches a container from outside; in `ID/conmon` the id is that of its pod.
        watches = "conmon" in (match["runtime"] or "") or below == ["conmon"]
        return None if watches else match["id"]
    if _TASK_ID.fullmatch(name) or (_GARDEN_ID.fullmatch(name) and "garden" in names[:index]):
        return name
    if name.startswith(_LXC_PREFIX):
        return name.removeprefix(_LXC_PREFIX) or None
    if parent in _LXC_PARENTS:
        # `lxc/NAME/lxc.monitor` watches one from outside, too.
        return None if below == ["lxc.monitor"] else name or None
    return _machine_at(name, below=below)


def _machine_at(name: str, *, below: list[str]) -> str | None:
    match = _MACHINE.fullmatch(name)
    if match is None or below == ["supervisor"]:
        return None
    machine = _unescape(match[1] or match[2])
    return None if machine.startswith(_VIRTUAL_MACHINE) else machine


def _unescape(name: str) -> str:
    r"""Return what systemd escaped in the name of a unit: `\x2d` is a dash again."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), name)
