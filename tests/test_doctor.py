"""The output of `hogpipe doctor` on this host, with and without capabilities."""

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.bpf import find_cgroup_root, require_bpf
from support.namespaces import Namespace, require

from hogpipe import doctor
from hogpipe.linux.capabilities import parse_missing

SUBJECTS = [
    "capture",
    "processes",
    "conntrack",
    "kernel",
    "cgroup v2",
    "libbpf",
    "object",
    "eBPF",
    "ledger",
    "senders",
    "health",
    "containers",
    "names",
    "packets",
    "privileges",
]
NOT_THE_HOSTS = "its capabilities do not apply to the host"
NO_RIGHTS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
ONLY_NET_RAW = ("setpriv", "--bounding-set=-all,+net_raw", "--inh-caps=-all,+net_raw")


def call(*prefix: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """Return the exit code, and mark and text by subject."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "hogpipe", "doctor"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    return done.returncode, {line[4:14].rstrip(): (line[:2], line[15:]) for line in lines}


def test_all_checks_pass_on_a_complete_host() -> None:
    require_bpf()
    code, found = call()
    assert code == 0
    assert list(found) == SUBJECTS
    assert {mark for mark, _ in found.values()} == {"ok"}
    assert found["cgroup v2"][1] == str(find_cgroup_root())
    assert "a run by default keeps CAP_NET_RAW to open packet sockets" in found["privileges"][1]


def test_without_capabilities_each_remedy_is_named_and_the_exit_code_is_not_permitted() -> None:
    require_bpf()
    require("setpriv")
    code, found = call(*NO_RIGHTS)
    assert code == 77
    assert found["capture"] == ("no", "not permitted; grant CAP_NET_RAW, or run as root")
    assert "grant CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH" in found["processes"][1]
    assert found["conntrack"][0] == "no"
    assert "(NAT) counts twice; grant CAP_NET_ADMIN, or run as root" in found["conntrack"][1]
    assert "grant CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN" in found["eBPF"][1]
    assert found["ledger"][1].startswith("owners come from /proc alone (eBPF: not permitted")
    assert found["health"][0] == "no"
    assert "only once they end (eBPF: not permitted" in found["health"][1]
    assert "grant CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN" in found["health"][1]
    assert found["packets"] == ("no", "hogpipe capture cannot capture packets: see capture")
    assert found["libbpf"][0] == found["object"][0] == "ok"
    assert found["privileges"] == ("ok", "a run has no capability that it could give up")


@pytest.mark.usefixtures("root")
def test_what_a_sandbox_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hogpipe.linux.landlock.read_version", lambda: 0)
    monkeypatch.setattr("hogpipe.linux.seccomp.is_available", lambda: False)
    (finding,) = [one for one in doctor.examine() if one.subject == "privileges"]
    assert finding.good
    assert "as the kernel has no Landlock" in finding.text
    assert "system calls are not filtered: install libseccomp" in finding.text


def test_with_only_the_right_to_capture_a_run_is_possible() -> None:
    require("setpriv")
    code, found = call(*ONLY_NET_RAW)
    assert code == 0
    assert found["capture"][0] == "ok"
    assert found["conntrack"][0] == found["ledger"][0] == "no"
    mark, text = found["packets"]
    assert mark == "no"
    assert text.endswith("those of short connections have no owner: see processes, ledger")


def test_in_a_user_namespace_capabilities_do_not_count() -> None:
    require_bpf()
    code, found = call("unshare", "--user", "--map-root-user")
    assert code == 77
    for subject in ("capture", "processes", "conntrack", "eBPF"):
        mark, text = found[subject]
        assert mark == "no"
        assert text.endswith("run outside of this user namespace: " + NOT_THE_HOSTS)
    assert found["ledger"][0] == "no"


def test_in_a_container_the_text_says_that_proc_shows_no_process_of_the_host() -> None:
    require("unshare")
    _, found = call("unshare", "--pid", "--fork", "--mount-proc")
    assert found["processes"][0] == "ok"
    assert found["processes"][1].startswith("processes of this container are visible; for those of")
    assert found["ledger"][0] == "no"


def test_without_a_proc_the_remedy_is_to_mount_it() -> None:
    require("unshare")
    words = ["sh", "-c", 'umount -R -l /proc && exec "$@"', "-"]
    _, found = call("unshare", "--mount", *words)
    assert found["processes"] == ("no", "/proc/thread-self/status does not exist; mount /proc")


def test_each_single_missing_capability_is_named() -> None:
    require_bpf()
    require("setpriv")

    def without(*names: str) -> dict[str, tuple[str, str]]:
        dropped = ",".join(f"-{name}" for name in names)
        return call("setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}")[1]

    assert without("sys_ptrace")["processes"][1].endswith("grant CAP_SYS_PTRACE, or run as root")
    assert without("dac_read_search")["processes"][0] == "ok"  # CAP_DAC_OVERRIDE is sufficient, too
    found = without("dac_read_search", "dac_override")
    assert found["processes"][1].endswith("grant CAP_DAC_READ_SEARCH, or run as root")
    found = without("sys_admin")
    for subject, what in (
        ("conntrack", "containers that translate"),
        ("ledger", "connections of containers"),
    ):
        assert found[subject][0] == "ok"
        assert found[subject][1].endswith(f"for {what}, grant CAP_SYS_ADMIN")


@pytest.mark.parametrize("prefix", [(), ONLY_NET_RAW, NO_RIGHTS], ids=["root", "some", "none"])
def test_json_output_has_the_same_findings_and_exit_code(prefix: tuple[str, ...]) -> None:
    require("setpriv")
    code, found = call(*prefix)
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "hogpipe", "doctor", "--json"],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, b"")
    findings = json.loads(done.stdout)
    assert all(one.keys() == {"subject", "good", "text"} for one in findings)
    marks = {True: "ok", False: "no"}
    assert found == {one["subject"]: (marks[one["good"]], one["text"]) for one in findings}


def test_without_a_visible_cgroup_mount_the_text_says_that_one_is_made(
    netns: Namespace,
) -> None:
    require_bpf()
    code, found = call(*netns.command())
    assert code == 0
    assert found["cgroup v2"] == (
        "ok",
        "no mount is visible; hogpipe makes a private one",
    )
    assert found["ledger"][0] == "ok"


@pytest.mark.parametrize("is_tracking", [False, True])
def test_the_text_of_conntrack_shows_whether_the_kernel_tracks_connections(
    netns: Namespace, is_tracking: bool
) -> None:
    require("nft")
    if is_tracking:
        rules = "table inet t { chain out { type filter hook output priority 0; ct state new; }; }"
        subprocess.run(netns.command("nft", rules), check=True)
        netns.call(transmit)
    mark, text = call(*netns.command())[1]["conntrack"]
    assert mark == "ok"
    assert ("the kernel tracks no connection now" in text) is not is_tracking


def transmit() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.sendto(b"x", ("127.0.0.1", 9))


def test_the_text_of_containers_says_whose_names_are_there_and_what_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_ROOT", tmp_path)
    monkeypatch.setattr(doctor, "in_initial_user_namespace", lambda: True)

    def check() -> doctor.Finding:
        (finding,) = [one for one in doctor.examine() if one.subject == "containers"]
        return finding

    assert check() == doctor.Finding(
        "containers", True, "no runtime has left names of containers on this host"
    )
    (tmp_path / "var/lib/docker/containers").mkdir(parents=True)
    (tmp_path / "var/log/pods").mkdir(parents=True)
    assert check().text == "names of containers are read from Docker, kubelet"
    (tmp_path / "run/containerd").mkdir(parents=True)
    (tmp_path / "run/containerd/io.containerd.runtime.v2.task").symlink_to(
        "io.containerd.runtime.v2.task"
    )
    assert not check().good
    assert check().text.startswith("names of containers of containerd cannot be read: ")

    def refuse(_root: Path, path: str, _limit: int) -> list[bytes]:
        code = errno.EACCES if path.startswith("var/lib/docker") else errno.ENOENT
        raise OSError(code, os.strerror(code), path)

    monkeypatch.setattr("hogpipe.enrichment.container_names.list_rooted_folder", refuse)
    assert check() == doctor.Finding(
        "containers",
        False,
        "names of containers of Docker cannot be read; grant CAP_DAC_READ_SEARCH, or run as root",
    )


@pytest.mark.parametrize("code", [errno.EPROTONOSUPPORT, errno.EINVAL])
def test_for_a_kernel_without_ctnetlink_the_module_is_named(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_tuples: object) -> None:
        raise OSError(code, os.strerror(code), "conntrack")

    monkeypatch.setattr(doctor.ctnetlink, "read_connections", refuse)
    (found,) = [one for one in doctor.examine() if one.subject == "conntrack"]
    assert not found.good
    assert found.text.endswith("counts twice; load nf_conntrack_netlink")


def test_untrusted_text_becomes_valid_json() -> None:
    untrusted = doctor.Finding("object", False, 'a "\x1b[2J\n" b')
    text = doctor.encode_findings([untrusted])
    assert text.isprintable()
    assert json.loads(text) == [{"subject": "object", "good": False, "text": untrusted.text}]


def test_for_an_old_kernel_the_required_version_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = os.uname()
    for release, is_good in (("5.14.21-old", False), ("5.15.0", True), ("6.1.0-13-amd64", True)):
        fields = (now.sysname, now.nodename, release, now.version, now.machine)
        monkeypatch.setattr(os, "uname", lambda fields=fields: os.uname_result(fields))
        (found,) = [one for one in doctor.examine() if one.subject == "kernel"]
        assert found.good is is_good
        assert is_good or "Linux 5.15 is needed" in found.text


def test_for_a_missing_object_the_remedy_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "object_path", lambda: Path("/nowhere/hogpipe.bpf.o"))
    (found,) = [one for one in doctor.examine() if one.subject == "object"]
    assert not found.good
    assert "reinstall hogpipe" in found.text


def test_capabilities_are_read_from_the_status_of_a_process() -> None:
    wanted = {"CAP_DAC_READ_SEARCH": 2, "CAP_SYS_PTRACE": 19}
    status = b"CapPrm:\tffffffffffffffff\nCapEff:\t0000000000000004\n"
    assert parse_missing(status, wanted) == ["CAP_SYS_PTRACE"]
    assert parse_missing(b"", wanted) == list(wanted)


def test_the_line_of_names_has_the_remedy_where_dns_answers_cannot_be_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert doctor._check_peer_names().startswith("DNS answers can be decoded")
    monkeypatch.setattr(doctor, "can_decode", lambda: False)
    assert doctor._check_peer_names().endswith('pip install "hogpipe[names]"')
