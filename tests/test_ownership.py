"""What other users may have placed, or may change, is not used."""

import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.namespaces import require

from hogpipe.files import find_output_problem
from hogpipe.ownership import find_other_writer, open_output, resolve_output

OTHER, THIRD = 65534, 1
SHARED = [0o1777, 0o777, 0o775]
CREATE = os.O_RDWR | os.O_CREAT


def give(path: Path, uid: int = OTHER) -> Path:
    os.chown(path, uid, uid, follow_symlinks=False)
    return path


def link(path: Path, target: Path | str, uid: int = OTHER) -> Path:
    path.symlink_to(target)
    return give(path, uid)


@pytest.fixture(autouse=True)
def _root() -> None:
    require()


@pytest.fixture(params=SHARED, ids=oct)
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder of root that others may write to."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(request.param)
    return folder


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_text("kept")
    return path


def refuses(path: Path) -> str:
    """Return why an output is refused, by whichever function."""
    texts = []
    for use in (lambda: open_output(path, CREATE), lambda: resolve_output(path)):
        with pytest.raises(PermissionError) as raised:
            use()
        texts.append(raised.value.strerror)
    assert find_output_problem(path) == texts[0] == texts[1]
    return str(texts[0])


def opens(path: Path) -> Path:
    """Return the path of the file that is opened."""
    descriptor = open_output(path, CREATE)
    try:
        found = Path(f"/proc/self/fd/{descriptor}").readlink()
    finally:
        os.close(descriptor)
    assert resolve_output(path) == found
    return found


def test_a_link_that_another_user_placed_is_not_followed(shared: Path, victim: Path) -> None:
    planted = link(shared / "records.jsonl", victim)
    assert refuses(planted).startswith("a symbolic link of nobody, in a folder that others may")
    planted.unlink()
    link(planted, shared / "absent")
    refuses(planted)
    assert not (shared / "absent").exists()
    assert victim.read_text() == "kept"


def test_neither_is_one_in_the_middle_of_a_path_or_of_links(
    shared: Path, victim: Path, tmp_path: Path
) -> None:
    link(shared / "folder", victim.parent)
    refuses(shared / "folder" / "records.jsonl")
    refuses(shared / "folder" / ".." / "records.jsonl")
    link(shared / "second", victim)
    refuses(link(tmp_path / "first", "shared/second", uid=0))


@pytest.mark.parametrize("place", ["file", "folder"])
def test_what_another_user_placed_there_is_not_used(shared: Path, place: str) -> None:
    path = shared / "x"
    (path.touch if place == "file" else path.mkdir)()
    give(path)
    with pytest.raises(PermissionError, match=f"a {place} of nobody, in a folder that others"):
        resolve_output(path)


def test_a_file_with_several_names_is_not_used_there(shared: Path, victim: Path) -> None:
    (shared / "records.jsonl").hardlink_to(victim)
    assert refuses(shared / "records.jsonl").startswith("a file with several names")
    assert opens(victim) == victim


def test_own_links_and_those_of_the_owner_of_the_folder_are_followed(
    shared: Path, victim: Path
) -> None:
    assert opens(link(shared / "own", victim, uid=0)) == victim
    give(shared)
    assert opens(link(shared / "owners", victim)) == victim
    refuses(link(shared / "third", victim, uid=THIRD))


def test_in_a_folder_of_one_user_every_link_is_followed(tmp_path: Path, victim: Path) -> None:
    folder = tmp_path / "alone"
    folder.mkdir(0o755)
    assert opens(link(folder / "a", victim)) == victim
    assert opens(link(folder / "b", "../victim")) == victim
    assert opens(folder / "new.jsonl") == folder / "new.jsonl"


def test_links_that_lead_in_a_circle_and_ways_that_end_early_are_errors(tmp_path: Path) -> None:
    link(tmp_path / "a", "b")
    link(tmp_path / "b", "a")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        open_output(tmp_path / "a", CREATE)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        open_output(tmp_path / "file" / "x", CREATE)
    with pytest.raises(FileNotFoundError):
        open_output(tmp_path / "absent" / "x", CREATE)
    assert resolve_output(tmp_path / "absent" / "x") == tmp_path / "absent" / "x"


def test_no_descriptor_is_left_open(shared: Path, victim: Path) -> None:
    before = len([*Path("/proc/self/fd").iterdir()])
    refuses(link(shared / "records.jsonl", victim))
    opens(victim)
    assert find_other_writer(victim, []) is None
    assert len([*Path("/proc/self/fd").iterdir()]) == before


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A file that only root may change."""
    folder = tmp_path / "folder"
    folder.mkdir(0o755)
    path = folder / "config.toml"
    path.touch(0o644)
    return path


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda path: path.chmod(0o666), "all users may write to .*/config.toml"),
        (lambda path: path.parent.chmod(0o777), "all users may write to .*/folder"),
        (give, "config.toml belongs to nobody"),
        (lambda path: give(path.parent), "folder belongs to nobody"),
        (lambda path: give(path, 987654), "config.toml belongs to the user 987654"),
        (lambda path: (os.chown(path, 0, 1), path.chmod(0o664)), "the group daemon may write to"),
        (lambda path: (os.chown(path, 0, 98765), path.chmod(0o664)), "the group 98765 may write"),
    ],
)
def test_a_file_that_others_may_change_is_not_trusted(
    config: Path, change: Callable[[Path], object], expected: str
) -> None:
    assert find_other_writer(config, []) is None
    change(config)
    found = find_other_writer(config, [])
    assert found is not None
    assert re.search(expected, found)


def test_trusted_users_and_their_private_groups_may_write(config: Path) -> None:
    give(config, THIRD)  # daemon, whose group has its name and no other member
    config.chmod(0o664)
    assert find_other_writer(config, [THIRD]) is None
    assert find_other_writer(config, []) == f"{config} belongs to daemon"
    os.chown(config, 0, 0)
    config.chmod(0o664)
    assert find_other_writer(config, []) is None


def test_links_on_the_way_count_as_what_they_lead_to(config: Path, tmp_path: Path) -> None:
    assert find_other_writer(link(tmp_path / "own", config, uid=0), []) is None
    assert "belongs to nobody" in str(find_other_writer(link(tmp_path / "x", config), []))
    config.chmod(0o666)
    assert "all users may write" in str(find_other_writer(tmp_path / "own", []))


def test_a_sticky_folder_protects_what_is_in_it(config: Path) -> None:
    config.parent.chmod(0o1777)
    assert find_other_writer(config, []) is None


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder like that of a ConfigMap, which all may write to on a read-only mount."""
    require("mount", "umount")
    folder = tmp_path / "map"
    folder.mkdir()
    os.spawnlp(os.P_WAIT, "mount", "mount", "-t", "tmpfs", "-o", "mode=777", "none", str(folder))
    (folder / "config.toml").touch()
    os.spawnlp(os.P_WAIT, "mount", "mount", "-o", "remount,ro", str(folder))
    yield folder
    os.spawnlp(os.P_WAIT, "umount", "umount", str(folder))


def test_nobody_writes_to_a_file_system_that_is_read_only(read_only: Path) -> None:
    assert stat.S_IMODE(read_only.stat().st_mode) == 0o777
    assert find_other_writer(read_only / "config.toml", []) is None
