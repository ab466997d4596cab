"""Reads what containers and pods are called, without asking a runtime.

In: the container and the pod that a control group names. Out: `ContainerNames`, from what runtimes
leave on disk below a root (container_state.py). What is not there, or may not be read, is absent;
what is there and cannot be used is counted in `unreadable`. `probe_state_folders` returns which
runtimes have left state, for `hogpipe doctor`.

A container is read once, and its names are kept. Names that are incomplete are read again, with
pauses that grow from `_FIRST_PAUSE` to `_LONGEST_PAUSE`: the kubelet links the log of a container
after it has started.

Safety: files are read up to `_MOST_BYTES`, folders up to `_MOST_NAMES`; only an id of 64
hexadecimal digits becomes part of a path, and no link leads out of the root
(linux/rooted_files.py).

Known limits: a container that is renamed keeps its first name. Containers of users (rootless) have
their state in the homes of these users, which is not read.
"""

import errno
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from hogpipe.enrichment.cgroup_paths import CgroupNames
from hogpipe.enrichment.container_state import (
    find_in_container_logs,
    find_in_pod_logs,
    find_runtime,
    merge_names,
    parse_docker_config,
    parse_oci_config,
    parse_storage,
)
from hogpipe.linux.rooted_files import list_rooted_folder, read_rooted_file
from hogpipe.model import ContainerNames

_ID = re.compile(r"[0-9a-f]{64}")
_MOST_BYTES = 4 << 20
_MOST_NAMES = 4096
_MOST_CACHED = 4096
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0
_POD_LOGS, _CONTAINER_LOGS = "var/log/pods", "var/log/containers"
_DOCKER = "var/lib/docker/containers"
_TASKS = tuple(
    f"run/{base}/io.containerd.runtime.v2.task" for base in ("containerd", "k3s/containerd")
)
_TASK_NAMESPACES = 64
_STORAGES = tuple(
    f"{base}/containers/storage/{driver}-containers"
    for base in ("var/lib", "run")
    for driver in ("overlay", "vfs", "btrfs", "zfs")
)
_STORAGE_FILES = ("containers.json", "volatile-containers.json")
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR})
_FOLDERS: Mapping[str, Sequence[str]] = {
    "Docker": (_DOCKER,),
    "containerd": _TASKS,
    "Podman and CRI-O": _STORAGES,
    "kubelet": (_POD_LOGS, _CONTAINER_LOGS),
}
"""Where each runtime leaves its state."""

_Parse = Callable[[bytes], ContainerNames | None]


class StateFolders(NamedTuple):
    """The folders of one runtime that are there; `problem` is why one of them cannot be read."""

    runtime: str
    problem: OSError | None


def probe_state_folders(root: Path) -> list[StateFolders]:
    """Return the runtimes that have left state below a root, and whether it can be read."""
    found = []
    for runtime, paths in _FOLDERS.items():
        problems = [_probe(root, path) for path in paths]
        unreadable = [one for one in problems if one and one.errno not in _ABSENT]
        if unreadable or None in problems:
            found.append(StateFolders(runtime, unreadable[0] if unreadable else None))
    return found


def _probe(root: Path, path: str) -> OSError | None:
    try:
        list_rooted_folder(root, path, 1)
    except OSError as error:
        return error
    return None


class _Known(msgspec.Struct):
    names: ContainerNames
    pause: float
    read_again_at: float


class ContainerNameReader:
    """Reads names below `root` while it `is_on`; `clock` is in seconds. Safe from any thread."""

    def __init__(
        self, root: Path, clock: Callable[[], float] = time.monotonic, *, is_on: bool = True
    ) -> None:
        self.is_on = is_on
        self._root = root
        self._clock = clock
        self._known: OrderedDict[tuple[str | None, str | None], _Known] = OrderedDict()
        self._lock = threading.Lock()
        self.unreadable = 0
        """State files that could not be read or parsed; the number only grows."""

    def find(self, cgroup: CgroupNames) -> ContainerNames | None:
        """Return the names of the container and the pod of a control group; None if it has none."""
        key = cgroup.container, cgroup.pod
        if key == (None, None) or not self.is_on:
            return None
        known, now = self._known.get(key), self._clock()
        if known is None or now >= known.read_again_at:
            pause = _FIRST_PAUSE if known is None else min(2 * known.pause, _LONGEST_PAUSE)
            names = self._read(cgroup)
            again_at = float("inf") if _is_complete(names, cgroup) else now + pause
            known = _Known(names, pause, again_at)
            with self._lock:
                self._known[key] = known
                self._known.move_to_end(key)
                if len(self._known) > _MOST_CACHED:
                    self._known.popitem(last=False)
        return _or_none(known.names)

    def recall(self, cgroup: CgroupNames) -> ContainerNames | None:
        """Return what was read last, without reading anything."""
        known = self._known.get((cgroup.container, cgroup.pod))
        return None if known is None or not self.is_on else _or_none(known.names)

    def _read(self, cgroup: CgroupNames) -> ContainerNames:
        container, pod = cgroup.container, cgroup.pod
        runtime = find_runtime(cgroup.cgroup or "", container) if container else None
        names = ContainerNames(runtime=runtime)
        if container is not None and _ID.fullmatch(container) is None:
            names = msgspec.structs.replace(names, name=container)  # its name is its id
        elif container is not None:
            for found in self._read_states(container, runtime):
                names = merge_names(names, found)
                if _is_complete(names, cgroup):
                    break
        if pod is not None and container is not None and names.pod_container is None:
            logs = self._list(_CONTAINER_LOGS)
            names = merge_names(names, find_in_container_logs(logs, container))
        if pod is not None and names.pod_name is None:
            names = merge_names(names, find_in_pod_logs(self._list(_POD_LOGS), pod))
        return names

    def _read_states(self, container: str, runtime: str | None) -> Iterator[ContainerNames]:
        """Yield what the state of each runtime says of a container, of one if it is known."""
        if runtime in {"docker", None}:
            path = f"{_DOCKER}/{container}/config.v2.json"
            yield from self._parse(path, parse_docker_config, "docker")
        if runtime in {"containerd", "docker", None}:
            for tasks in _TASKS:
                for namespace in sorted(self._list(tasks, _TASK_NAMESPACES)):
                    path = f"{tasks}/{namespace.decode('ascii', 'replace')}/{container}/config.json"
                    yield from self._parse(path, parse_oci_config, runtime or "containerd")
        if runtime in {"podman", "cri-o", None}:
            for storage in _STORAGES:
                for file in _STORAGE_FILES:
                    yield from self._parse(
                        f"{storage}/{file}", lambda text: parse_storage(text, container), runtime
                    )
                path = f"{storage}/{container}/userdata/config.json"
                yield from self._parse(path, parse_oci_config, runtime)

    def _parse(self, path: str, parse: _Parse, runtime: str | None) -> Iterator[ContainerNames]:
        """Yield what a state file says, nothing if it is absent or cannot be used."""
        try:
            found = parse(read_rooted_file(self._root, path, _MOST_BYTES))
        except OSError as error:
            self.unreadable += error.errno not in _ABSENT
        except ValueError:  # torn, or of another form
            self.unreadable += 1
        else:
            if found is not None:
                yield msgspec.structs.replace(found, runtime=runtime)

    def _list(self, path: str, most: int = _MOST_NAMES) -> list[bytes]:
        try:
            return list_rooted_folder(self._root, path, most)
        except OSError as error:
            self.unreadable += error.errno not in _ABSENT
            return []


def _is_complete(names: ContainerNames, cgroup: CgroupNames) -> bool:
    has_container = cgroup.container is None or (names.name is not None and bool(names.image))
    if cgroup.pod is None:
        is_named = cgroup.container is not None and _ID.fullmatch(cgroup.container) is None
        return has_container or is_named
    return has_container and names.pod_name is not None


def _or_none(names: ContainerNames) -> ContainerNames | None:
    return None if names == ContainerNames() else names
