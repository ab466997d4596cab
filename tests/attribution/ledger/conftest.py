"""Fixtures of the ledger's tests."""

from collections.abc import Iterator

import pytest
from support.bpf import require_bpf

from hogpipe.attribution.ledger.kernel_ledger import KernelLedger
from hogpipe.linux.bpf.programs import attach_ledger_programs


@pytest.fixture
def ledger() -> Iterator[KernelLedger]:
    """Give a ledger that is attached to the running kernel."""
    require_bpf()
    made = KernelLedger(attach_ledger_programs())
    try:
        yield made
    finally:
        made.close()
