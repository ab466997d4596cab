r"""What the path of a control group tells: the systemd unit and the container in it.

Pure: text in, names out; any text is fine. Names stay as they are in the path, systemd's escapes
(`\x2d`) among it. Sources: cgroups(7), systemd.slice(5), and the paths that Docker, containerd,
CRI-O, Podman, Kubernetes and LXC make.
"""

import re

_DELETED = " (deleted)"

# Processes live in units of these types; a slice only holds other units.
_UNIT_TYPES = (".service", ".scope", ".socket", ".mount", ".swap")

# `ID`, `docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID`, `libpod-ID.scope`,
# `kubepods-pod1.slice:cri-containerd:ID`
_HEX_ID = re.compile(r"(?P<runtime>.*[-:])?(?P<id>[0-9a-f]{64})(?:\.scope)?", re.DOTALL)
_LXC_PARENTS = ("lxc", "lxc.payload")
_LXC_PREFIX = "lxc.payload."


def parse_cgroup(text: str) -> str | None:
    """Return the path that /proc/PID/cgroup tells, or None.

    That of cgroup v2, else that of the hierarchy that systemd names, else the first; the root,
    which says nothing, only where none of these is another.
    """
    lines = (line.split(":", 2) for line in text.split("\n"))
    hierarchies = [line for line in lines if len(line) == 3]
    paths = [path for number, names, path in hierarchies if number == "0" and not names]
    paths += [path for _, names, path in hierarchies if names == "name=systemd"]
    paths += [path for _, _, path in hierarchies[:1]]
    path = next((path for path in paths if path != "/"), "/" if paths else None)
    return None if path is None else path.removesuffix(_DELETED)


def unit_of(path: str) -> str | None:
    """Return the innermost systemd unit of a cgroup path, or None."""
    return next((name for name in reversed(path.split("/")) if name.endswith(_UNIT_TYPES)), None)


def container_of(path: str) -> str | None:
    """Return the innermost container of a cgroup path: 64 hexadecimal digits, or LXC's name."""
    names = path.split("/")
    for index in range(len(names) - 1, -1, -1):
        found = _container_at(names[index - 1] if index else "", names[index])
        if found is not None:
            return found
    return None


def _container_at(parent: str, name: str) -> str | None:
    match = _HEX_ID.fullmatch(name)
    if match is not None:
        # conmon watches a container from outside.
        return None if "conmon" in (match["runtime"] or "") else match["id"]
    if name.startswith(_LXC_PREFIX):
        return name.removeprefix(_LXC_PREFIX) or None
    return name or None if parent in _LXC_PARENTS else None
