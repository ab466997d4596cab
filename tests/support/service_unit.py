"""The systemd unit: its keys, and prefixes that run a program as the unit would.

systemd itself applies the keys where it can be booted (tests/slow/test_systemd.py), but then in a
pid namespace, in which there is no ledger. These prefixes need no service manager. Of the unit they
leave out the bounds of resources and IPAddressDeny=.
"""

import configparser
import socket
from pathlib import Path

from .roots import Chroot

UNIT = Path(__file__).parents[2] / "packaging/systemd/hogpipe.service"
CONFINE = Path(__file__).with_name("confine.py")
STATE = "var/lib/hogpipe"
NO_OWNER = 65534
_MOUNTED = {
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "ProtectControlGroups": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectProc": "invisible",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
}
_FILTERED = {"RestrictNamespaces": "yes", "MemoryDenyWriteExecute": "yes"}
_MOUNT = """
root=$1
shift
mount -t proc -o hidepid=invisible proc $root/proc
mount --bind $root/proc/sys $root/proc/sys
mount -o remount,bind,ro $root/proc/sys
mount -t tmpfs none $root/dev
for name in null zero full random urandom; do
    touch $root/dev/$name
    mount --bind /dev/$name $root/dev/$name
done
mount --bind $root/STATE $root/STATE
for folder in tmp home root; do mount -t tmpfs none $root/$folder; done
for target in $(findmnt --raw --noheadings --output TARGET --submounts --target $root/sys); do
    mount -o remount,bind,ro $target
done
mount -o remount,bind,ro $root
exec "$@"
""".replace("STATE", STATE)


def read_unit() -> dict[str, str]:
    """Return the keys of [Service]."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return dict(parser["Service"])


def as_service() -> list[str]:
    """Return a prefix that runs a command as the unit's user with the unit's capabilities."""
    unit = read_unit()
    assert unit["AmbientCapabilities"] == unit["CapabilityBoundingSet"]
    names = [name.removeprefix("CAP_").lower() for name in unit["AmbientCapabilities"].split()]
    kept = ",".join(["-all", *(f"+{name}" for name in names)])
    user = (f"--reuid={NO_OWNER}", f"--regid={NO_OWNER}", "--clear-groups")
    words = (f"--inh-caps={kept}", f"--ambient-caps={kept}", f"--bounding-set={kept}")
    return ["setpriv", *user, *words, "--no-new-privs"]


def confined(root: Chroot, *words: str | Path) -> list[str]:
    """Return the command that runs `words` in a root as the unit does: user, mounts, seccomp."""
    unit = read_unit()
    assert unit.items() >= (_MOUNTED | _FILTERED).items()
    families = [int(getattr(socket, name)) for name in unit["RestrictAddressFamilies"].split()]
    names = unit["SystemCallFilter"].split()
    calls = sorted({call for name in names for call in _expand_calls(root, name)})
    confine = ("/usr/bin/python3", "-c", CONFINE.read_text(), ",".join(calls))
    command = root.command(*as_service(), *confine, ",".join(map(str, families)), *words)
    mounts = ("unshare", "--mount", "--propagation", "private", "sh", "-ec", _MOUNT, "sh")
    return [*mounts, str(root.path), *command]


def _expand_calls(root: Chroot, name: str) -> set[str]:
    """Return the system calls of a group, such as @system-service, by the root's systemd."""
    if not name.startswith("@"):
        return {name}
    listed = root.run("systemd-analyze", "syscall-filter", name).splitlines()[1:]
    members = (line.strip() for line in listed)
    names = (member for member in members if member and not member.startswith("#"))
    return {call for member in names for call in _expand_calls(root, member)}
