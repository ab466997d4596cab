"""Records of one group differ in stamp and counters alone."""

import orjson
from support.records import FULL

from hogpipe.records.groups import describe_group


def test_a_description_has_neither_stamp_nor_counters() -> None:
    description = describe_group(FULL)
    assert list(description) == ["process", "systemd", "container", "k8s", "server", "network"]
    assert description["network"] == {
        key: value for key, value in FULL["network"].items() if key not in {"flows", "io", "tcp"}
    }


def test_a_record_is_not_changed() -> None:
    before = orjson.dumps(FULL)
    describe_group(FULL)
    assert orjson.dumps(FULL) == before
