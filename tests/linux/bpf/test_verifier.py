"""The kernel's verifier accepts the programs with little of what it may spend on one."""

import pytest
from support.bpf import require_bpf
from support.verifier import LARGEST, SETS, read_verified


@pytest.mark.parametrize("name", SETS)
def test_the_verifier_processes_few_instructions_of_each_program(name: str) -> None:
    require_bpf()
    verified = read_verified(SETS[name])
    assert len(verified) >= (3 if name == "health" else 9)
    assert all(verified.values())
    assert max(verified.values()) <= LARGEST[name], verified
