import errno
import resource

from hogpipe.linux.limits import explain_os_error, raise_descriptor_limit


def test_the_descriptor_limit_is_raised_to_the_hard_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard - 1), hard))
    try:
        raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_shortage_is_explained_with_its_remedy() -> None:
    assert explain_os_error(OSError(errno.EMFILE, "Too many open files")) == (
        "Too many open files; allow more open files (ulimit -n, LimitNOFILE=)"
    )
    assert (
        explain_os_error(OSError(errno.EPERM, "Operation not permitted"))
        == "Operation not permitted"
    )
