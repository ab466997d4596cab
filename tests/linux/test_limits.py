import errno
import resource

from hogpipe.linux.limits import explain_os_error, raise_descriptor_limit


def test_as_many_descriptors_are_allowed_as_the_hard_limit_says() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard - 1), hard))
    try:
        raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_shortage_is_told_with_its_remedy() -> None:
    assert explain_os_error(OSError(errno.EMFILE, "Too many open files")) == (
        "Too many open files; allow more open files (ulimit -n, LimitNOFILE=)"
    )
    assert (
        explain_os_error(OSError(errno.EPERM, "Operation not permitted"))
        == "Operation not permitted"
    )
