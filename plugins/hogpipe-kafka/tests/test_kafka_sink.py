"""The sink writes to a mock cluster of librdkafka; the topic has each record in any trouble."""

import asyncio
from typing import Any

import pytest
from hogpipe_kafka import KafkaSettings, KafkaSink

from hogpipe import DeliveryError, RefusedError
from hogpipe.testing import RecordMaker, deliver_through_outages, enlarge, opened

TOO_LARGE, NO_TOPIC, NOT_LEADER, OUT_OF_ORDER, NOT_ALLOWED = 10, 3, 6, 45, 29
PRODUCE = 0


def settings_for(broker: Any, **changes: Any) -> KafkaSettings:
    quick = {"retry_initial": 0.01, "retry_max": 0.1, "ack_timeout": 1.0}
    return KafkaSettings(**{"type": "kafka", "servers": (broker.address,), **quick, **changes})


def sink_for(broker: Any, **changes: Any) -> KafkaSink:
    return KafkaSink(settings_for(broker, **changes))


async def test_each_record_is_a_message_keyed_by_its_host(broker: Any) -> None:
    window = RecordMaker("web1").window(5)
    async with opened(sink_for(broker)) as sink:
        await sink.write(window)
    messages = await broker.messages()
    assert [document for _, _, document in messages] == window
    assert {key for _, key, _ in messages} == {"web1"}
    assert len({partition for partition, _, _ in messages}) == 1


async def test_a_probe_names_the_size_of_the_cluster(broker: Any) -> None:
    sink = sink_for(broker)
    assert await sink.probe() == "connected to a cluster; brokers: 1"
    await sink.close()


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_a_large_window_arrives_in_order(broker: Any, compression: str) -> None:
    window = RecordMaker().window(2000)
    async with opened(sink_for(broker, compression=compression)) as sink:
        await sink.write(window)
    assert await broker.documents() == window


async def test_documents_have_the_configured_layout(broker: Any) -> None:
    async with opened(sink_for(broker, layout="flat")) as sink:
        await sink.write(RecordMaker().window(1))
    (document,) = await broker.documents()
    assert "host.name" in document


async def test_the_producer_resends_after_a_retriable_error(
    broker: Any,
) -> None:
    window = RecordMaker().window(5)
    async with opened(sink_for(broker)) as sink:
        broker.command("fail", PRODUCE, NOT_LEADER, NOT_LEADER)
        await sink.write(window)
    assert await broker.documents() == window


async def test_an_error_names_a_broker_that_is_down_and_nothing_is_sent_twice(broker: Any) -> None:
    maker = RecordMaker()
    first, second = maker.window(), maker.window()
    async with opened(sink_for(broker, ack_timeout=0.3)) as sink:
        await sink.write(first)
        async with broker.outage():
            with pytest.raises(
                DeliveryError, match=f"{broker.address}: Connection refused"
            ) as caught:
                await sink.write(second)
        assert caught.value.undelivered == second
        await sink.write(second)
    assert await broker.documents() == first + second


async def test_a_cancelled_write_goes_on_and_its_retry_resends_nothing(
    broker: Any,
) -> None:
    window = RecordMaker().window(3000)
    async with opened(sink_for(broker, ack_timeout=30)) as sink:
        async with broker.stall():
            writing = asyncio.create_task(sink.write(window))
            await asyncio.sleep(0.3)
            writing.cancel()
            await asyncio.wait({writing})
        await sink.write(window)
    assert await broker.documents() == window


async def test_a_record_too_large_is_refused_and_the_others_are_delivered(broker: Any) -> None:
    window = RecordMaker().window(4)
    enlarge(window[1], 1 << 20)
    async with opened(sink_for(broker)) as sink:
        with pytest.raises(RefusedError, match="1 records are larger") as caught:
            await sink.write(window)
    assert caught.value.refused == [window[1]]
    assert await broker.documents() == [window[0], *window[2:]]


async def test_a_batch_too_large_for_the_broker_is_sent_one_by_one(broker: Any) -> None:
    window = RecordMaker().window(4)
    async with opened(sink_for(broker)) as sink:
        broker.command("fail", PRODUCE, TOO_LARGE)
        with pytest.raises(DeliveryError, match=r"\(error 10\)") as caught:
            await sink.write(window)
        assert caught.value.undelivered == window
        broker.command("fail", PRODUCE, 0, TOO_LARGE)
        with pytest.raises(DeliveryError) as caught:
            await sink.write(window)
        assert caught.value.refused == [window[1]]
        assert caught.value.undelivered == window[2:]
        await sink.write(window[2:])
    assert await broker.documents() == [window[0], *window[2:]]


@pytest.mark.parametrize("code", [OUT_OF_ORDER, NOT_ALLOWED])
async def test_a_fatal_error_of_a_producer_makes_the_next_write_start_another(
    broker: Any, code: int
) -> None:
    window = RecordMaker().window(4)
    async with opened(sink_for(broker)) as sink:
        broker.command("fail", PRODUCE, code)
        with pytest.raises(DeliveryError, match=rf"\(error {code}\)") as caught:
            await sink.write(window)
        assert caught.value.undelivered == window
        await sink.write(window)
    assert await broker.documents() == window


async def test_an_error_names_a_missing_topic(broker: Any) -> None:
    window = RecordMaker().window(4)
    async with opened(sink_for(broker, ack_timeout=0.3)) as sink:
        broker.command("fail_topic", NO_TOPIC)
        with pytest.raises(DeliveryError, match="topic hogpipe: there is no such topic") as caught:
            await sink.write(window)
        assert caught.value.undelivered == window
        broker.command("fail_topic", 0)
        await sink.write(window)
    assert await broker.documents() == window


async def test_repeated_outages_of_the_broker_lose_no_record(broker: Any) -> None:
    settings = settings_for(broker, queue_windows=1000)
    report = await deliver_through_outages(KafkaSink(settings), settings, broker.outage)
    assert report.counts["delivered"] == len(report.records)
    assert report.counts["dropped"] == 0
    received = {document["sequence"] for document in await broker.documents()}
    assert received == {record["sequence"] for record in report.records}


async def test_close_does_not_wait_for_a_suspended_broker(broker: Any) -> None:
    sink = sink_for(broker, ack_timeout=60)
    await sink.open()
    async with broker.stall():
        writing = asyncio.create_task(sink.write(RecordMaker().window(20_000)))
        await asyncio.sleep(0.2)
        writing.cancel()
        await asyncio.wait({writing})
        async with asyncio.timeout(0.4):
            await sink.close()


async def test_a_cancelled_open_leaves_nothing_behind(broker: Any) -> None:
    for steps in range(40):
        sink = sink_for(broker)
        opening = asyncio.create_task(sink.open())
        for _ in range(steps):
            await asyncio.sleep(0.0005)
        opening.cancel()
        await asyncio.wait({opening})
        await sink.close()
