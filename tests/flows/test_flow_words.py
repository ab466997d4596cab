"""Words stand for flow keys: each for one, and back."""

from hypothesis import given
from hypothesis import strategies as st
from support.traffic import flows, make_flow

from hogpipe.flows.flow_slots import fold_words
from hogpipe.flows.flow_words import FLOW_WORDS, FlowPacker, Numbering
from hogpipe.model import UNKNOWN_FLOW, FlowKey, fold_key

some_flows = st.lists(
    st.builds(
        lambda flow, namespace: FlowKey(
            flow.protocol,
            flow.local_address,
            flow.local_port,
            flow.remote_address,
            flow.remote_port,
            flow.interface,
            namespace,
        ),
        flows | st.builds(fold_key, flows) | st.just(UNKNOWN_FLOW),
        st.sampled_from([0, None, 4026531840]),
    ),
    max_size=20,
)


@given(some_flows)
def test_words_are_equal_where_flows_are_and_unpack_to_them(taken: list[FlowKey]) -> None:
    packer = FlowPacker()
    words = packer.pack(taken)
    assert [packer.unpack(row) for row in words] == taken
    distinct = {row.tobytes() for row in words}
    assert len(distinct) == len(set(taken))


@given(some_flows)
def test_flows_are_folded_as_words_as_they_are_as_keys(taken: list[FlowKey]) -> None:
    packer = FlowPacker()
    folded = fold_words(packer.pack(taken), packer)
    assert [packer.unpack(row) for row in folded] == [fold_key(flow) for flow in taken]


def test_the_parts_of_words_can_be_read() -> None:
    flow = make_flow(4242, protocol=17, remote_port=53)
    parts = FlowPacker().pack([flow]).view(FLOW_WORDS)[0, 0]
    assert parts["protocol"] == 17
    assert (parts["local_port"], parts["remote_port"]) == (4242, 53)
    assert parts["local_address"].tobytes() == flow.local_address.ljust(16, b"\0")


def test_numbers_that_are_not_kept_are_used_again() -> None:
    numbering: Numbering[str] = Numbering()
    assert [numbering.number(name) for name in "abcab"] == [0, 1, 2, 0, 1]
    numbering.keep([1])
    assert len(numbering) == 1
    assert numbering.find("a") is None
    assert [numbering.number(name) for name in "bxyz"] == [1, 0, 2, 3]
    assert [numbering.name(number) for number in range(4)] == ["x", "b", "y", "z"]
