import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.captures import Captured, Pcapng, pcap_file, write_pcap
from support.frames import A4, B4, ethernet, ipv4, sll, tcp, udp

from hogpipe.capture.local_addresses import LocalAddresses
from hogpipe.capture.savefile import SavefileSource
from hogpipe.errors import CaptureError, ConfigurationError
from hogpipe.flows.flow_batch import FlowBatch
from hogpipe.flows.flow_table import FlowTable
from hogpipe.model import CaptureCounts, Tally

ETHERNET = 1
TCP, UDP = 6, 17
SECOND_US = 1_000_000
START_US = 1_700_000_000 * SECOND_US
INTERVAL_NS = 1_000_000_000
LOCAL = LocalAddresses(frozenset({A4}))


def make_table(max_flows: int = 65_536) -> FlowTable:
    return FlowTable(max_flows, max_flows, reserve=max_flows // 2)


def source_of(path: Path, expression: str = "", table: FlowTable | None = None) -> SavefileSource:
    return SavefileSource(
        path,
        table or make_table(),
        expression=expression,
        local=LOCAL,
        interval_ns=INTERVAL_NS,
    )


def replay(
    path: Path, expression: str = "", table: FlowTable | None = None
) -> tuple[list[FlowBatch], CaptureError | None]:
    """Return the batches, each with all of its flows."""
    batches: list[FlowBatch] = []
    table = table or make_table()
    source = source_of(path, expression, table)
    source.open()

    def offer(batch: FlowBatch) -> None:
        if batch.rows is not None:
            batch.flows = table.count(batch.rows, batch.time_ns / 1e9)
        batches.append(batch)

    try:
        source.run(offer)
    except CaptureError as error:
        return batches, error
    return batches, None


def counts_of(batches: list[FlowBatch]) -> CaptureCounts:
    counts = CaptureCounts()
    for batch in batches:
        counts.add(batch.counts)
    return counts


def transmitted(batches: list[FlowBatch]) -> int:
    return sum(delta.transmit_bytes for batch in batches for delta in batch.flows.values())


def datagram(size: int = 72, **parts: object) -> bytes:
    return ethernet(ipv4(UDP, udp(payload=bytes(size)), **parts))  # type: ignore[arg-type]


def at(second: float, frame: bytes, length: int = 0) -> Captured:
    return Captured(START_US + round(second * SECOND_US), frame, length)


def test_batches_never_span_two_windows(tmp_path: Path) -> None:
    seconds = [0.1, 0.9, 1.0, 1.5, 4.2, 4.999999]
    path = write_pcap(tmp_path / "t.pcap", ETHERNET, [at(s, datagram()) for s in seconds])
    batches, failure = replay(path)
    assert failure is None
    windows = [batch.time_ns // INTERVAL_NS - 1_700_000_000 for batch in batches]
    assert windows == [0, 1, 4]
    assert [batch.counts.captured.packets for batch in batches] == [2, 2, 2]


def test_a_packet_with_an_earlier_timestamp_counts_in_the_open_window(
    tmp_path: Path,
) -> None:
    seconds = [2.5, 1.0, 2.6]
    path = write_pcap(tmp_path / "t.pcap", ETHERNET, [at(s, datagram()) for s in seconds])
    batches, _failure = replay(path)
    assert [batch.counts.captured.packets for batch in batches] == [3]


def test_packets_of_several_reads_are_all_counted(tmp_path: Path) -> None:
    frames = [at(number / 10_000, datagram()) for number in range(20_000)]
    batches, _failure = replay(write_pcap(tmp_path / "t.pcap", ETHERNET, frames))
    assert transmitted(batches) == 20_000 * 100


def test_more_flows_than_the_table_has_room_for_are_counted_each_by_itself(
    tmp_path: Path,
) -> None:
    frames = [
        at(number / 10_000, ethernet(ipv4(UDP, udp(number % 1500, 53, bytes(72)))))
        for number in range(9_000)
    ]
    path = write_pcap(tmp_path / "t.pcap", ETHERNET, frames)
    batches, failure = replay(path, table=make_table(256))
    assert failure is None
    assert counts_of(batches).overflowed == Tally()
    assert len({flow for batch in batches for flow in batch.flows}) == 1500
    assert transmitted(batches) == 9_000 * 100


def test_whole_frames_of_a_truncated_file_are_counted_before_the_error(tmp_path: Path) -> None:
    frames = [at(number / 10_000, datagram()) for number in range(10_000)]
    path = write_pcap(tmp_path / "t.pcap", ETHERNET, frames)
    path.write_bytes(path.read_bytes()[:-5])
    batches, failure = replay(path)
    assert transmitted(batches) == 9_999 * 100
    assert counts_of(batches).captured == Tally(9_999, 9_999 * 100)
    assert str(failure).startswith(f"{path}: truncated: its last record")


def test_a_file_truncated_in_its_first_packet_counts_nothing(tmp_path: Path) -> None:
    path = write_pcap(tmp_path / "t.pcap", ETHERNET, [at(0, datagram())])
    path.write_bytes(path.read_bytes()[:30])
    batches, failure = replay(path)
    assert transmitted(batches) == 0
    assert failure is not None


def test_big_tcp_packets_of_a_file_count_with_their_original_length(tmp_path: Path) -> None:
    big = ethernet(ipv4(TCP, tcp(), total=0))
    frames = [
        at(0, datagram()),
        at(0.1, datagram()),
        at(0.2, big, 14 + 190_000),
        at(0.3, datagram()),
    ]
    batches, _failure = replay(write_pcap(tmp_path / "t.pcap", ETHERNET, frames))
    counts = counts_of(batches)
    assert counts.captured == Tally(4, 190_000 + 300)
    assert counts.length_floored == Tally()
    assert transmitted(batches) == 190_000 + 300


@pytest.mark.parametrize("count", [1, 100])
def test_cut_packets_count_with_the_length_that_the_file_has_for_their_frames(
    tmp_path: Path, count: int
) -> None:
    whole, lying = datagram(1000), ethernet(ipv4(UDP, udp(payload=bytes(1000)), total=1500))
    frames = [at(0, frame[:96], len(frame)) for frame in [whole, lying] * count]
    batches, failure = replay(write_pcap(tmp_path / "t.pcap", ETHERNET, frames))
    assert failure is None
    assert transmitted(batches) == 1028 * count
    assert counts_of(batches).undecoded == Tally(count, 96 * count)


@pytest.mark.parametrize("cut_off", [0, 5])
def test_timestamps_after_2038_are_replayed(tmp_path: Path, cut_off: int) -> None:
    seconds = [2**31 - 1, 2**31, 2**32 - 1, 2**32 - 1]
    frames = [Captured(second * SECOND_US, datagram()) for second in seconds]
    path = write_pcap(tmp_path / "t.pcap", ETHERNET, frames)
    path.write_bytes(path.read_bytes()[: -cut_off or None])
    batches, failure = replay(path)
    assert (failure is not None) == bool(cut_off)
    assert [batch.time_ns // INTERVAL_NS for batch in batches] == seconds[:3]


def test_fragments_before_a_big_tcp_packet_are_counted_once(tmp_path: Path) -> None:
    whole = udp(payload=bytes(2000))
    first = ethernet(ipv4(UDP, whole[:1480], more=True, identification=7))
    later = ethernet(ipv4(UDP, whole[1480:], offset=1480, identification=7))
    big = ethernet(ipv4(TCP, tcp(), total=0))
    frames = [at(0, later), at(0.1, big, 14 + 100_000), at(0.2, first)]
    batches, _failure = replay(write_pcap(tmp_path / "t.pcap", ETHERNET, frames))
    assert transmitted(batches) == counts_of(batches).captured.bytes == 2008 + 40 + 100_000
    udp_flows = {flow for batch in batches for flow in batch.flows if flow.protocol == UDP}
    assert {(flow.local_port, flow.remote_port) for flow in udp_flows} == {(1000, 53)}


def test_frames_of_any_size_are_counted_from_a_file_and_from_a_pipe(tmp_path: Path) -> None:
    frames = [at(number / 10_000, datagram(size)) for number, size in enumerate([40, 1400] * 2000)]
    file = pcap_file(frames, ETHERNET)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as threads:
        written = threads.submit(pipe.write_bytes, file)
        through_pipe, failure = replay(pipe)
        written.result()
    assert failure is None
    assert transmitted(through_pipe) == 2000 * (68 + 1428)
    assert transmitted(replay(write(tmp_path / "t.pcap", file))[0]) == 2000 * (68 + 1428)


def test_a_filter_lets_only_matching_packets_through(tmp_path: Path) -> None:
    frames = [at(0, datagram()), at(0, ethernet(ipv4(TCP, tcp())))]
    path = write_pcap(tmp_path / "t.pcap", ETHERNET, frames)
    batches, _failure = replay(path, "tcp")
    assert counts_of(batches).captured.packets == 1


def test_the_error_of_an_invalid_filter_is_libpcaps(tmp_path: Path) -> None:
    path = write_pcap(tmp_path / "t.pcap", ETHERNET, [])
    with pytest.raises(ConfigurationError, match=r'^capture\.filter: "nonsense" on .*: '):
        source_of(path, "nonsense").open()


def test_a_file_that_is_no_capture_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are no packets, not even a header of them")
    with pytest.raises(ConfigurationError, match=r"^capture\.path: .*notes.txt: not a capture"):
        source_of(path).open()


def test_an_empty_capture_offers_nothing(tmp_path: Path) -> None:
    batches, failure = replay(write_pcap(tmp_path / "t.pcap", ETHERNET, []))
    assert batches == []
    assert failure is None


def test_a_stopped_replay_offers_no_more(tmp_path: Path) -> None:
    frames = [at(number, datagram()) for number in range(20_000)]
    source = source_of(write_pcap(tmp_path / "t.pcap", ETHERNET, frames))
    source.open()
    batches: list[FlowBatch] = []
    source.stop()
    source.run(batches.append)
    assert batches == []


def test_packets_that_are_not_local_are_counted_and_in_no_flow(tmp_path: Path) -> None:
    frame = datagram(source=B4, destination=b"\x0a\0\0\x09")
    batches, _failure = replay(write_pcap(tmp_path / "t.pcap", ETHERNET, [at(0, frame)]))
    assert counts_of(batches).not_local == Tally(1, 100)
    assert transmitted(batches) == 0


NG = Pcapng()


def described(*links: tuple[int, str]) -> bytes:
    return NG.section() + b"".join(NG.interface(*link) for link in links)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_each_interface_of_a_file_has_its_own_decoder_and_gives_flows_its_name(
    tmp_path: Path,
) -> None:
    packet = ipv4(UDP, udp(payload=bytes(72)))
    mixed = described((1, "eth0"), (113, "any"), (101, ""))
    for number, frame in enumerate([ethernet(packet), sll(packet, packet_type=4), packet]):
        mixed += NG.enhanced(number, frame, START_US)
    batches, failure = replay(write(tmp_path / "t.pcapng", mixed))
    assert failure is None
    (batch,) = batches
    assert {flow.interface: delta.total for flow, delta in batch.flows.items()} == {
        "eth0": Tally(1, 100),
        "any": Tally(1, 100),
        "": Tally(1, 100),
    }


def test_batches_of_several_interfaces_never_span_two_windows(tmp_path: Path) -> None:
    mixed = described((1, "a"), (1, "b"))
    for number, second in [(0, 0.5), (1, 0.6), (0, 1.5), (1, 0.7), (1, 3.0)]:
        mixed += NG.enhanced(number, datagram(), START_US + round(second * SECOND_US))
    batches, _failure = replay(write(tmp_path / "t.pcapng", mixed))
    windows = [batch.time_ns // INTERVAL_NS - 1_700_000_000 for batch in batches]
    assert windows == [0, 1, 3]
    assert [batch.counts.captured.packets for batch in batches] == [2, 2, 1]


@pytest.mark.parametrize(
    ("link_type", "name"), [(127, "802.11 with radiotap header"), (258, "Apple PKTAP")]
)
def test_a_file_of_which_nothing_could_be_decoded_is_an_error_that_says_why(
    tmp_path: Path, link_type: int, name: str
) -> None:
    path = write_pcap(tmp_path / "t.pcap", link_type, [at(0, bytes(50))] * 1234)
    batches, failure = replay(path)
    assert counts_of(batches).undecoded.packets == 1234
    assert str(failure).startswith(
        f"{path}: none of 1,234 frames could be decoded: 1,234 frames of link type {link_type} "
        f"({name}) cannot be decoded; capture on "
    )


def test_frames_that_are_all_truncated_are_an_error(tmp_path: Path) -> None:
    path = write_pcap(tmp_path / "t.pcap", ETHERNET, [at(0, datagram()[:20], 114)] * 2)
    assert str(replay(path)[1]) == f"{path}: none of 2 frames could be decoded"


def test_frames_of_another_network_protocol_are_no_error(tmp_path: Path) -> None:
    frame = ethernet(bytes(28), 0x0806)
    batches, failure = replay(write_pcap(tmp_path / "t.pcap", ETHERNET, [at(0, frame)]))
    assert counts_of(batches).not_ip.packets == 1
    assert failure is None


def test_what_of_a_file_cannot_be_decoded_is_named_once_for_each_kind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mixed = described((1, "eth0"), (127, "mon0")) + NG.enhanced(0, datagram(), START_US)
    mixed += NG.enhanced(1, b"beacon", START_US) * 2 + NG.enhanced(9, b"x", START_US)
    mixed += NG.block(0x204, b"event")
    path = write(tmp_path / "t.pcapng", mixed)
    batches, failure = replay(path)
    assert failure is None
    assert counts_of(batches).captured.packets == 4
    assert counts_of(batches).undecoded.packets == 3
    mon, undescribed, block = (record.getMessage() for record in caplog.records)
    assert mon.startswith(f"{path}: 2 frames of link type 127 (802.11 with radiotap header) cannot")
    assert undescribed.startswith(f"{path}: 1 frame of an interface that no block before ")
    assert "their link type is not known" in undescribed
    assert block.startswith(f"{path}: 1 block of type 0x00000204 cannot be read and are")


@pytest.mark.parametrize("data", [b"", pcap_file([]), described((1, "eth0")), described()])
def test_a_file_without_frames_is_no_error(tmp_path: Path, data: bytes) -> None:
    assert replay(write(tmp_path / "t", data)) == ([], None)


def test_a_file_with_nothing_but_unknown_blocks_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "t", described((1, "")) + NG.block(0x204, b"event"))
    assert "1 block of type 0x00000204" in str(replay(path)[1])


def test_a_filter_is_applied_to_each_interface_by_its_link_type(tmp_path: Path) -> None:
    mixed = described((1, "a"), (101, "b"))
    for packet in (ipv4(TCP, tcp()), ipv4(UDP, udp(payload=bytes(72)))):
        mixed += NG.enhanced(0, ethernet(packet)) + NG.enhanced(1, packet)
    batches, failure = replay(write(tmp_path / "t.pcapng", mixed), "udp")
    assert failure is None
    assert counts_of(batches).captured == Tally(2, 200)


def test_a_filter_compares_the_original_length(tmp_path: Path) -> None:
    frames = [at(0, datagram()[:60], 1500), at(0, datagram()[:60], 60)]
    path = write_pcap(tmp_path / "t.pcap", ETHERNET, frames)
    assert counts_of(replay(path, "greater 1000")[0]).captured.packets == 1


def test_a_filter_that_a_later_link_type_does_not_know_ends_the_replay_there(
    tmp_path: Path,
) -> None:
    first = described((1, "a")) + NG.enhanced(0, datagram(), START_US) * 12_000
    later = NG.interface(101, "b") + NG.enhanced(1, datagram()[14:], START_US)
    path = write(tmp_path / "t.pcapng", first + later)
    expression = "ether src 00:00:00:00:00:00"
    batches, failure = replay(path, expression)
    assert counts_of(batches).captured.packets > 0
    assert str(failure).startswith(f'{path}: capture.filter: "{expression}" on link type 101: ')
