"""Which command installs a package on this distribution (os-release(5))."""

import platform
from collections.abc import Mapping

# By ID, or by what ID_LIKE names: Ubuntu is like debian, Rocky Linux like rhel.
_LIBBPF = {
    "debian": "apt install libbpf1",
    "fedora": "dnf install libbpf",
    "rhel": "dnf install libbpf",
    "suse": "zypper install libbpf1",
    "arch": "pacman -S libbpf",
    "alpine": "apk add libbpf",
}
_EACH = "; ".join(f"{name}: {command}" for name, command in _LIBBPF.items() if name != "rhel")


def read_os_release() -> Mapping[str, str]:
    """Return the fields of /etc/os-release or /usr/lib/os-release, empty if there is none."""
    try:
        return platform.freedesktop_os_release()
    except OSError:  # a minimal image
        return {}


def choose_libbpf_command(os_release: Mapping[str, str]) -> str:
    """Return the command that installs libbpf 1; all known ones for an unknown distribution."""
    names = [os_release.get("ID", ""), *os_release.get("ID_LIKE", "").split()]
    known = (_LIBBPF.get("suse" if "suse" in name or name == "sles" else name) for name in names)
    return next((command for command in known if command), _EACH)
