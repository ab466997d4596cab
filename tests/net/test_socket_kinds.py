"""Sockets of every kind have their owner, as docs/sockets.md says, in each of the three ways."""

from pathlib import Path

import pytest
from support.bpf import require_bpf
from support.namespaces import require
from support.socket_kinds_run import KINDS, WAYS, WRONG, make_cells, read_table, run_way


@pytest.mark.parametrize("way", WAYS)
def test_the_table_of_sockets_shows_which_bytes_have_their_owner(way: str, tmp_path: Path) -> None:
    require("ip", "sysctl")
    require_bpf()
    found = make_cells(*run_way(way, tmp_path))
    shown = read_table()[way]
    assert not {case: text for case, text in found.items() if WRONG in text}
    assert found == {case: text for case, text in shown.items() if case in found}


def test_the_table_of_sockets_has_all_kinds() -> None:
    for cells in read_table().values():
        assert {name for name, _ in cells} == KINDS.keys()
