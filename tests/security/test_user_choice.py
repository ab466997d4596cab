"""Who a run becomes, and what that user cannot use."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.namespaces import require

from hogpipe.errors import ConfigurationError
from hogpipe.security.named_files import NamedFiles
from hogpipe.security.user_choice import (
    find_obstacles,
    find_obstacles_of,
    find_sudo_caller,
    find_user,
)


def test_users_are_found_by_name_and_by_number() -> None:
    by_name, by_number = find_user("nobody"), find_user("65534")
    assert by_name == by_number
    assert (by_name.name, by_name.uid) == ("nobody", 65534)
    assert by_name.gid in by_name.groups


@pytest.mark.parametrize("name", ["", "no such\nuser", "-1", "99999999999999999999"])
def test_a_user_that_does_not_exist_is_a_problem_of_the_key(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^security.user: there is no user ") as raised:
        find_user(name)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"SUDO_UID": "65534"},
        {"SUDO_UID": "0", "SUDO_GID": "0"},
        {"SUDO_UID": "-5", "SUDO_GID": "0"},
        {"SUDO_UID": "x", "SUDO_GID": "1"},
    ],
)
def test_whoever_did_not_call_sudo_is_nobody(environ: dict[str, str]) -> None:
    assert find_sudo_caller(environ) is None


def test_a_caller_without_a_name_has_the_group_of_sudo() -> None:
    require()
    caller = find_sudo_caller({"SUDO_UID": "987654", "SUDO_GID": "321"})
    assert caller is not None
    assert (caller.name, caller.uid, caller.gid, caller.groups) == ("987654", 987654, 321, (321,))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of root that everybody may look into, and not write to."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_what_a_user_cannot_use_is_named_and_root_stays_root(folder: Path) -> None:
    require()
    (folder / "key.pem").touch(0o600)
    (folder / "own").mkdir()
    os.chown(folder / "own", 65534, 65534)
    key, own, others = folder / "key.pem", folder / "own/a.jsonl", folder / "b.jsonl"
    absent = folder / "absent.py"
    files = NamedFiles((own, others, folder / "own"), (key,))
    assert find_obstacles(files, [absent]) == {}
    found = find_obstacles_of(find_user("nobody"), files, [absent])
    assert os.geteuid() == 0
    assert found[key] == "may not be read"
    assert "may not be written to" in found[others]
    assert not {own, folder / "own", absent} & set(found)
