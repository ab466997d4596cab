"""libbpf of another version: the error names what is there, what is needed, and the remedy."""

import ctypes
from typing import Any

import pytest

from hogpipe.linux.bpf import libbpf
from hogpipe.linux.bpf.obstacles import BpfUnavailableError, Obstacle


def _load() -> str:
    with pytest.raises(BpfUnavailableError) as caught:
        libbpf.load_library.__wrapped__()
    assert caught.value.obstacle is Obstacle.LIBRARY
    assert caught.value.exit_code == 78
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_host_with_libbpf_0_gets_the_version_that_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(name: str, **_options: Any) -> object:
        if name == "libbpf.so.1":
            raise OSError(f"{name}: cannot open shared object file")
        return object()

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(libbpf, "read_os_release", lambda: {"ID": "debian"})
    assert _load() == (
        "eBPF: this host has libbpf 0, and libbpf.so.1 is needed: apt install libbpf1, or where "
        "the distribution has only the old one, its next release"
    )


def test_an_unknown_distribution_gets_the_commands_of_all_known_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(libbpf, "LIBRARY", "libnosuch.so.1")
    monkeypatch.setattr(libbpf, "_OLD_LIBRARY", "libnosuch.so.0")
    monkeypatch.setattr(libbpf, "read_os_release", lambda: {"ID": "mine"})
    assert _load() == (
        "eBPF: libnosuch.so.1 cannot be loaded; install it: debian: apt install libbpf1; fedora: "
        "dnf install libbpf; suse: zypper install libbpf1; arch: pacman -S libbpf; alpine: apk add "
        "libbpf"
    )


def test_a_library_without_the_functions_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "LIBRARY", "libm.so.6")
    text = _load()
    assert text.startswith("eBPF: this libm.so.6 is too old (")
    assert text.endswith("undefined symbol: bpf_object__open_file); install version 1.0 or later")
