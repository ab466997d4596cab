"""What takes rights: whether a host has containers, and may translate addresses."""

from pathlib import Path

import pytest
from support.namespaces import Namespace

from hogpipe.linux import ctnetlink, host_features


def add_process(procfs: Path, pid: int, namespace: str, *links: str) -> None:
    (procfs / str(pid) / "ns").mkdir(parents=True)
    (procfs / str(pid) / "net").mkdir()
    (procfs / str(pid) / "ns/net").symlink_to(namespace)
    heads = ["Inter-|   Receive", " face |bytes"]
    lines = [*heads, *(f"{link:>6}: 0 0 0" for link in links), ""]
    (procfs / str(pid) / "net/dev").write_text("\n".join(lines))


def test_links_that_lead_to_containers_are_enough(netns: Namespace, tmp_path: Path) -> None:
    assert not netns.call(lambda: host_features.has_containers(tmp_path))
    netns.ip("link", "add", "bridge", "type", "bridge")
    assert netns.call(lambda: host_features.has_containers(tmp_path))


def test_a_process_elsewhere_counts_if_it_has_more_than_a_loopback(
    netns: Namespace, tmp_path: Path
) -> None:
    own = netns.call(lambda: str(Path("/proc/thread-self/ns/net").readlink()))
    add_process(tmp_path, 10, own, "lo", "eth0")
    add_process(tmp_path, 11, "net:[77]", "lo")
    assert not netns.call(lambda: host_features.has_containers(tmp_path))
    add_process(tmp_path, 12, "net:[78]", "lo", "eth0")
    assert netns.call(lambda: host_features.has_containers(tmp_path))


def test_a_process_whose_interfaces_cannot_be_read_counts(netns: Namespace, tmp_path: Path) -> None:
    add_process(tmp_path, 12, "net:[78]", "lo")
    (tmp_path / "12/net/dev").unlink()
    assert netns.call(lambda: host_features.has_containers(tmp_path))


@pytest.mark.parametrize(
    ("tracks", "modules", "expected"),
    [
        (False, "nf_nat 1 - -\nnf_conntrack 1 - -\n", True),  # none is tracked so early
        (True, "nf_conntrack 1 - -\n", False),
        (True, "", True),  # both may be part of the kernel
        (False, "", False),
        (False, None, False),  # a kernel without modules
        (True, None, True),
    ],
)
def test_addresses_may_be_translated_if_the_module_for_that_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tracks: bool, modules: str | None,
    expected: bool,
) -> None:  # fmt: skip
    if modules is not None:
        (tmp_path / "modules").write_text(modules)
    monkeypatch.setattr(host_features, "_MODULES", tmp_path / "modules")
    monkeypatch.setattr(ctnetlink, "has_connections", lambda: tracks)
    assert host_features.may_translate() == expected
