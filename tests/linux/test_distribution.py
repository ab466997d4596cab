import platform

import pytest

from hogpipe.linux.distribution import choose_libbpf_command, read_os_release


@pytest.mark.parametrize(
    ("os_release", "command"),
    [
        ({"ID": "debian"}, "apt install libbpf1"),
        ({"ID": "ubuntu", "ID_LIKE": "debian"}, "apt install libbpf1"),
        ({"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}, "apt install libbpf1"),
        ({"ID": "fedora"}, "dnf install libbpf"),
        ({"ID": "rocky", "ID_LIKE": "rhel centos fedora"}, "dnf install libbpf"),
        ({"ID": "opensuse-leap", "ID_LIKE": "suse opensuse"}, "zypper install libbpf1"),
        ({"ID": "sles"}, "zypper install libbpf1"),
        ({"ID": "arch"}, "pacman -S libbpf"),
        ({"ID": "alpine"}, "apk add libbpf"),
        ({"ID": "nobodys"}, "debian: apt install libbpf1; fedora: dnf install libbpf; suse: "),
        ({}, "debian: apt install libbpf1; fedora: dnf install libbpf; suse: "),
    ],
)
def test_the_command_is_that_of_the_distribution(os_release: dict[str, str], command: str) -> None:
    chosen = choose_libbpf_command(os_release)
    assert chosen.startswith(command)
    assert (";" in chosen) is (";" in command)


def test_a_system_without_os_release_is_an_unknown_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> dict[str, str]:
        raise FileNotFoundError

    monkeypatch.setattr(platform, "freedesktop_os_release", refuse)
    assert read_os_release() == {}
