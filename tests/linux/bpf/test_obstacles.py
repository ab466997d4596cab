"""Why programs that are attached cannot be used: the kernel, or a limit of the process."""

import errno
import os

import pytest

from hogpipe.linux.bpf.obstacles import Obstacle, explain_failed_open


def explain(code: int) -> tuple[Obstacle, str]:
    found = explain_failed_open(OSError(code, os.strerror(code)), "the maps")
    return found.obstacle, str(found)


def test_a_kernel_without_namespace_cookies_is_too_old() -> None:
    obstacle, text = explain(errno.ENOPROTOOPT)
    assert obstacle is Obstacle.KERNEL
    assert text == (
        "eBPF: the kernel does not name network namespaces (Protocol not available); "
        "Linux 5.15 is needed, on arm64 5.18 to count"
    )


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOMEM])
def test_any_other_failure_is_a_limit(code: int) -> None:
    assert explain(code) == (
        Obstacle.LIMITS,
        f"eBPF: no memory or descriptors for the maps ({os.strerror(code)}); raise the limits",
    )
