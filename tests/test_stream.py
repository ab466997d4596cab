"""`stream_records`: whatever the reader does, the pipeline ends and no error is hidden."""

import asyncio
import shutil
from pathlib import Path

import msgspec
import pytest
from support.namespaces import Namespace

from hogpipe import CaptureError, ConfigurationError, Settings, load_config, stream_records
from hogpipe.config import CaptureSettings

GOLDEN = Path(__file__).parent / "data" / "golden"


def golden(trace: Path | None = None) -> Settings:
    settings = load_config(GOLDEN / "config.toml", ["sinks=[]"])
    if trace is None:
        return settings
    capture = msgspec.structs.replace(settings.capture, path=trace)
    return msgspec.structs.replace(settings, capture=capture)


@pytest.fixture
def truncated_trace(tmp_path: Path) -> Path:
    trace = tmp_path / "cut.pcap"
    trace.write_bytes((GOLDEN / "trace.pcap").read_bytes()[:-3])
    return trace


async def test_records_end_when_the_source_does() -> None:
    async with stream_records(golden()) as records:
        kinds = [record["type"] async for record in records]
    assert kinds == ["traffic", "traffic", "stats", "traffic", "traffic", "traffic", "stats"]


async def test_a_loop_may_be_left_early() -> None:
    async with stream_records(golden()) as records:
        async for record in records:
            assert record["sequence"] == 1
            break
    assert len(asyncio.all_tasks()) == 1


async def test_a_context_need_not_be_read_from() -> None:
    async with stream_records(golden()):
        pass
    assert len(asyncio.all_tasks()) == 1


async def test_an_error_in_the_loop_comes_out_as_itself(truncated_trace: Path) -> None:
    async def fail() -> None:
        async with stream_records(golden(truncated_trace)) as records:
            async for _record in records:
                raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await fail()


async def test_the_error_of_a_truncated_savefile_comes_after_all_its_records(
    truncated_trace: Path,
) -> None:
    kinds: list[str] = []

    async def read() -> None:
        async with stream_records(golden(truncated_trace)) as records:
            kinds.extend([record["type"] async for record in records])

    with pytest.raises(CaptureError, match="truncated: its last record"):
        await read()
    assert kinds.count("stats") == 2


async def test_a_reader_that_leaves_early_gets_no_error_of_the_savefile(
    truncated_trace: Path,
) -> None:
    async with stream_records(golden(truncated_trace)) as records:
        async for _record in records:
            break


async def test_a_wrong_path_raises_on_entry(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.pcap"):
        async with stream_records(golden(tmp_path / "absent.pcap")):
            pass


async def test_a_cancelled_reader_leaves_nothing_behind() -> None:
    async def read_on() -> None:
        async with stream_records(golden()) as records:
            async for _record in records:
                await asyncio.Event().wait()

    reading = asyncio.create_task(read_on())
    await asyncio.sleep(0.2)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert len(asyncio.all_tasks()) == 1


def test_runs_leave_no_descriptor_open(netns: Namespace) -> None:
    async def run(interface: str) -> None:
        settings = Settings(capture=CaptureSettings(interfaces=(interface,)))
        async with stream_records(settings):
            pass

    def count_after(interface: str, times: int) -> int:
        for _ in range(times):
            try:
                asyncio.run(run(interface))
            except ConfigurationError:
                assert interface == "eth7"
        return len(list(Path("/proc/self/fd").iterdir()))

    def leak(interface: str) -> int:
        return -count_after(interface, 1) + count_after(interface, 5)

    # Packet sockets are of the namespace of the thread that opens them. The pipeline's threads
    # inherit the namespace of the thread that starts them.
    assert netns.call(lambda: leak("lo")) == 0
    assert netns.call(lambda: leak("eth7")) == 0


async def test_a_process_that_is_younger_than_the_packets_cannot_be_their_owner(
    tmp_path: Path,
) -> None:
    tree = tmp_path / "proc"
    shutil.copytree(GOLDEN / "proc", tree, symlinks=True)
    (tree / "stat").write_text("btime 1999999999\n")
    settings = golden()
    attribution = msgspec.structs.replace(settings.attribution, procfs=tree)
    settings = msgspec.structs.replace(settings, attribution=attribution)
    async with stream_records(settings) as records:
        qualities = [set(r["attribution"]) async for r in records if r["type"] == "traffic"]
    assert qualities
    assert all(quality == {"none"} for quality in qualities)
