"""Which files the tables of sinks name, before their types are known."""

from functools import partial
from pathlib import Path

from hogpipe.config.references import ReferencedText, expand_path
from hogpipe.security.named_files import NamedFiles, find_named_files


def find(folder: Path, *tables: object) -> NamedFiles:
    return find_named_files([*tables], partial(expand_path, folder))


def test_paths_and_spools_are_written_to_whether_they_exist_or_not(tmp_path: Path) -> None:
    found = find(
        tmp_path,
        {"type": "jsonl", "path": "records"},
        {"type": "tcp", "spool": "spool/tcp", "endpoints": ["host:5140"]},
        {"type": "jsonl", "path": ReferencedText("/var/x.jsonl")},
    )
    assert found == NamedFiles((tmp_path / "records", tmp_path / "spool/tcp", Path("/var/x.jsonl")))


def test_any_other_text_is_read_if_a_file_has_that_name(tmp_path: Path) -> None:
    (tmp_path / "key.pem").touch()
    (tmp_path / "folder").mkdir()
    table = {
        "type": "a-plugin",
        "tls": {"key": "key.pem", "ca": "absent.pem"},
        "others": ["folder", "x" * 5000, "", "\0", 7, None],
    }
    assert find(tmp_path, table) == NamedFiles((), (tmp_path / "key.pem",))


def test_what_is_no_table_names_nothing(tmp_path: Path) -> None:
    assert find(tmp_path, "text", 1, {}) == NamedFiles()
    assert find_named_files("text", Path) == find_named_files(None, Path) == NamedFiles()
