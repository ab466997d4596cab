"""`hogpipe.testing` needs no test runner, and is no part of a run."""

import subprocess
import sys


def _python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_needs_no_test_runner() -> None:
    without = "sys.modules.update(pytest=None, pytest_asyncio=None, hypothesis=None)"
    _python(f"import sys; {without}; import hogpipe.testing")


def test_a_run_does_not_import_it() -> None:
    _python("import sys, hogpipe, hogpipe.cli; assert 'hogpipe.testing' not in sys.modules")
