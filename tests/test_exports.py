"""The exports of the package, which are imported when they are first used."""

import subprocess
import sys

import pytest

import hogpipe


@pytest.mark.parametrize("name", hogpipe.__all__)
def test_each_export_can_be_imported(name: str) -> None:
    assert getattr(hogpipe, name) is getattr(hogpipe, name)


def test_a_name_that_is_no_export_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        _ = hogpipe.nothing


def test_the_package_alone_imports_nothing_that_takes_time() -> None:
    program = (
        "import sys, hogpipe.__main__\n"
        "print(*sys.modules.keys() & {'asyncio', 'click', 'msgspec', 'numpy', 'pluggy'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "\n"
