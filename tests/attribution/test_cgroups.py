"""What the path of a control group tells."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hogpipe.attribution.cgroups import container_of, parse_cgroup, unit_of

ID = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("0::/system.slice/nginx.service\n", "/system.slice/nginx.service"),
        ("4:memory:/m\n1:name=systemd:/s\n0::/two\n", "/two"),
        ("4:memory:/m\n1:name=systemd:/s\n", "/s"),
        ("4:memory:/m\n3:cpu,cpuacct:/c\n", "/m"),
        ("4:memory:/m\n1:name=systemd:/s\n0::/\n", "/s"),  # v2 is mounted and not used
        ("1:name=systemd:/\n0::/\n", "/"),
        ("0::/a:b:c\n", "/a:b:c"),
        ("0::/gone.service (deleted)\n", "/gone.service"),
        ("0::/odd\x85name\n", "/odd\x85name"),
        ("", None),
        ("garbage\n", None),
    ],
)
def test_the_path_is_that_of_the_hierarchy_that_says_most(text: str, path: str | None) -> None:
    assert parse_cgroup(text) == path


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/system.slice/nginx.service", "nginx.service"),
        ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
        ("/user.slice/user-1000.slice/session-1.scope", "session-1.scope"),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/editor.service",
            "editor.service",
        ),
        (r"/system.slice/my\x2dapp.service/worker", r"my\x2dapp.service"),
        ("/init.scope", "init.scope"),
        ("/../../system.slice/ssh.service", "ssh.service"),
        (f"/system.slice/docker-{ID}.scope/system.slice/cron.service", "cron.service"),
        ("/system.slice", None),
        (f"/docker/{ID}", None),
        ("/", None),
    ],
)
def test_the_unit_is_the_innermost_one(path: str, unit: str | None) -> None:
    assert unit_of(path) == unit


@pytest.mark.parametrize(
    ("path", "container"),
    [
        (f"/docker/{ID}", ID),
        (f"/system.slice/docker-{ID}.scope", ID),
        (f"/system.slice/docker-{ID}.scope/system.slice/cron.service", ID),
        (f"/docker/{OTHER}/docker/{ID}", ID),
        (f"/machine.slice/libpod-{ID}.scope/container", ID),
        (f"/user.slice/user-1.slice/user@1.service/user.slice/libpod-{ID}.scope", ID),
        (f"/machine.slice/libpod-conmon-{ID}.scope", None),
        (f"/kubepods/burstable/pod7a1b/{ID}", ID),
        (f"/kubepods.slice/kubepods-pod7a1b.slice/cri-containerd-{ID}.scope", ID),
        (f"/kubepods.slice/kubepods-pod7a1b.slice/crio-{ID}.scope", ID),
        (f"/kubepods.slice/kubepods-pod7a1b.slice/crio-conmon-{ID}.scope", None),
        (f"/system.slice/containerd.service/kubepods-pod7a1b.slice:cri-containerd:{ID}", ID),
        ("/lxc/web1", "web1"),
        ("/lxc/web1/system.slice/nginx.service", "web1"),
        ("/lxc.payload/web1", "web1"),
        ("/lxc.payload.web1/system.slice/nginx.service", "web1"),
        ("/lxc.monitor.web1", None),
        (f"/docker/{ID[:-1]}", None),
        (f"/docker/{ID}0", None),
        ("/system.slice/nginx.service", None),
        ("/lxc/", None),
        ("/", None),
    ],
)
def test_the_container_is_the_innermost_one(path: str, container: str | None) -> None:
    assert container_of(path) == container


PIECES = st.sampled_from(["/", ":", "0::", "name=systemd", "lxc", "docker-", ID, ".scope", "\n"])


@settings(deadline=None)
@given(st.text() | st.lists(PIECES | st.text(max_size=3)).map("".join))
def test_any_text_is_fine(text: str) -> None:
    path = parse_cgroup(text)
    assert path is None or path in text
    assert (unit_of(text) or "") in text
    assert (container_of(text) or "") in text
