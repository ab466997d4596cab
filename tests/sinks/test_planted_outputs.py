"""No sink, and no spool, writes where a link of another user leads."""

import os
from pathlib import Path

import pytest
from support.namespaces import require

from hogpipe.delivery.spool.store import Spool
from hogpipe.errors import ConfigurationError
from hogpipe.sinks.jsonl.jsonl_sink import JsonlSettings, JsonlSink
from hogpipe.sinks.sqlite import SqliteSettings, SqliteSink

OTHER = 65534
PLANTED = "a symbolic link of nobody, in a folder that others may write to"


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder like /tmp, with a link of another user to a folder of root."""
    require()
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    (tmp_path / "private").mkdir()
    plant(tmp_path / "shared/folder", tmp_path / "private")
    return tmp_path / "shared"


def plant(path: Path, target: Path) -> None:
    path.symlink_to(target)
    os.chown(path, OTHER, OTHER, follow_symlinks=False)


@pytest.mark.parametrize("name", ["planted", "folder/inner", "folder/new/inner"])
@pytest.mark.parametrize("kind", ["jsonl", "sqlite"])
async def test_a_sink_refuses_a_planted_link(shared: Path, kind: str, name: str) -> None:
    private = shared.parent / "private"
    plant(shared / "planted", private / "victim")
    sink: JsonlSink | SqliteSink = (
        JsonlSink(JsonlSettings(type=kind, path=shared / name))
        if kind == "jsonl"
        else SqliteSink(SqliteSettings(type=kind, path=shared / name))
    )
    with pytest.raises(ConfigurationError, match=PLANTED):
        await sink.open()
    await sink.close()
    assert [*private.iterdir()] == []


async def test_a_history_is_not_continued_in_a_file_of_another_user(shared: Path) -> None:
    path = shared / "history.db"
    path.touch()
    os.chown(path, OTHER, OTHER)
    sink = SqliteSink(SqliteSettings(type="sqlite", path=path))
    with pytest.raises(ConfigurationError, match="a file of nobody, in a folder that others"):
        await sink.open()
    await sink.close()
    assert path.stat().st_size == 0


@pytest.mark.parametrize("name", ["folder", "folder/new"])
def test_a_spool_refuses_a_planted_link(shared: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=PLANTED):
        Spool(shared / name, 1 << 20, "coalesce").open()
    assert [*(shared.parent / "private").iterdir()] == []
