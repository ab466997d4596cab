"""The table of keys on a page is compared with the settings of the sink type."""

from pathlib import Path

import pytest

from hogpipe import JsonSettings
from hogpipe.testing import check_key_table, find_code_blocks


class _Settings(JsonSettings, frozen=True, kw_only=True):
    port: int
    host: str = "localhost"
    rate: float = 1.0
    quiet: bool = False
    ca: Path | None = None
    labels: tuple[str, ...] = ("a", "b")


PAGE = """
| key | default | |
|---|---|---|
| `port` | | the port |
| `host`, `rate` | `"localhost"`, 1.0 | two keys |
| `quiet` | `false` | |
| `ca` | none | |
| `labels` | `["a", "b"]` | |

| `other` | another table |
"""


def test_a_complete_table_passes() -> None:
    check_key_table(PAGE, _Settings)


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("| `port` | | the port |\n", "", "no row for port"),
        ("`quiet`", "`silent`", "no row for quiet"),
        ("| `ca` | none | |\n", "| `ca` | none | |\n| `key` | | |\n", "a row for key, which"),
        ("`false`", "`true`", "the default of quiet is not `true`"),
        ('"localhost"', '"host"', 'the default of host, rate is not `"host"`, 1.0'),
        ('["a", "b"]', '["a"]', "the default of labels is not"),
    ],
)
def test_a_table_that_disagrees_fails(before: str, after: str, problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        check_key_table(PAGE.replace(before, after), _Settings)


def test_code_blocks_are_found_by_their_language() -> None:
    page = "```sh\none\n```\n\n```toml\ntwo = 2\n```\n\n```sh\nthree\n```\n"
    assert find_code_blocks(page, "sh") == ["one\n", "three\n"]
