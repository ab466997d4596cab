"""A mock cluster of librdkafka: what is written is in the topic, whatever the broker does."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hogpipe_kafka import KafkaSettings, KafkaSink

from hogpipe import DeliveryError, Record, RefusedError
from hogpipe.delivery.dispatch import Dispatcher
from hogpipe.testing import RecordMaker

TOO_LARGE, NO_TOPIC, NOT_LEADER, OUT_OF_ORDER, NOT_ALLOWED = 10, 3, 6, 45, 29
PRODUCE = 0


def settings_for(broker: Any, **changes: Any) -> KafkaSettings:
    quick = {"retry_initial": 0.01, "retry_max": 0.1, "ack_timeout": 1.0}
    return KafkaSettings(**{"type": "kafka", "servers": (broker.address,), **quick, **changes})


@asynccontextmanager
async def opened(settings: KafkaSettings) -> AsyncIterator[KafkaSink]:
    sink = KafkaSink(settings)
    try:
        await sink.open()
        yield sink
    finally:
        await sink.close()


async def test_each_record_is_a_message_keyed_by_its_host(broker: Any) -> None:
    window = RecordMaker("web1").window(5)
    async with opened(settings_for(broker)) as sink:
        await sink.write(window)
    messages = await broker.messages()
    assert [document for _, _, document in messages] == window
    assert {key for _, key, _ in messages} == {"web1"}
    assert len({partition for partition, _, _ in messages}) == 1


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_a_large_window_arrives_in_order(broker: Any, compression: str) -> None:
    window = RecordMaker().window(2000)
    async with opened(settings_for(broker, compression=compression)) as sink:
        await sink.write(window)
    assert await broker.documents() == window


async def test_the_layout_is_as_configured(broker: Any) -> None:
    async with opened(settings_for(broker, layout="flat")) as sink:
        await sink.write(RecordMaker().window(1))
    (document,) = await broker.documents()
    assert "host.name" in document


async def test_what_the_broker_can_only_not_take_now_is_sent_again_by_the_producer(
    broker: Any,
) -> None:
    window = RecordMaker().window(5)
    async with opened(settings_for(broker)) as sink:
        broker.tell("fail", PRODUCE, NOT_LEADER, NOT_LEADER)
        await sink.write(window)
    assert await broker.documents() == window


async def test_a_broker_that_is_down_is_told_of_and_nothing_is_sent_twice(broker: Any) -> None:
    maker = RecordMaker()
    first, second = maker.window(), maker.window()
    async with opened(settings_for(broker, ack_timeout=0.3)) as sink:
        await sink.write(first)
        broker.tell("down")
        with pytest.raises(DeliveryError, match=f"{broker.address}: Connection refused") as caught:
            await sink.write(second)
        assert caught.value.undelivered == second
        broker.tell("up")
        await sink.write(second)
    assert await broker.documents() == first + second


async def test_a_write_that_is_given_up_goes_on_and_is_not_sent_again(broker: Any) -> None:
    window = RecordMaker().window(3000)
    async with opened(settings_for(broker, ack_timeout=30)) as sink:
        broker.pause()
        writing = asyncio.create_task(sink.write(window))
        await asyncio.sleep(0.3)
        writing.cancel()
        await asyncio.wait({writing})
        broker.resume()
        await sink.write(window)
    assert await broker.documents() == window


async def test_a_record_too_large_is_refused_and_the_rest_goes(broker: Any) -> None:
    window = RecordMaker().window(4)
    window[1]["process"] = {"command": "x" * (1 << 20)}  # type: ignore[typeddict-unknown-key]
    async with opened(settings_for(broker)) as sink:
        with pytest.raises(RefusedError, match="1 records are larger") as caught:
            await sink.write(window)
    assert caught.value.refused == [window[1]]
    assert await broker.documents() == [window[0], *window[2:]]


async def test_a_batch_too_large_for_the_broker_is_sent_one_by_one(broker: Any) -> None:
    window = RecordMaker().window(4)
    async with opened(settings_for(broker)) as sink:
        broker.tell("fail", PRODUCE, TOO_LARGE)
        with pytest.raises(DeliveryError, match=r"\(error 10\)") as caught:
            await sink.write(window)
        assert caught.value.undelivered == window
        broker.tell("fail", PRODUCE, 0, TOO_LARGE)
        with pytest.raises(DeliveryError) as caught:
            await sink.write(window)
        assert caught.value.refused == [window[1]]
        assert caught.value.undelivered == window[2:]
        await sink.write(window[2:])
    assert await broker.documents() == [window[0], *window[2:]]


@pytest.mark.parametrize("code", [OUT_OF_ORDER, NOT_ALLOWED])
async def test_after_an_error_that_ends_a_producer_another_one_goes_on(
    broker: Any, code: int
) -> None:
    window = RecordMaker().window(4)
    async with opened(settings_for(broker)) as sink:
        broker.tell("fail", PRODUCE, code)
        with pytest.raises(DeliveryError, match=rf"\(error {code}\)") as caught:
            await sink.write(window)
        assert caught.value.undelivered == window
        await sink.write(window)
    assert await broker.documents() == window


async def test_a_topic_that_is_not_there_is_told_of(broker: Any) -> None:
    window = RecordMaker().window(4)
    async with opened(settings_for(broker, ack_timeout=0.3)) as sink:
        broker.tell("fail_topic", NO_TOPIC)
        with pytest.raises(DeliveryError, match="topic hogpipe: there is no such topic") as caught:
            await sink.write(window)
        assert caught.value.undelivered == window
        broker.tell("fail_topic", 0)
        await sink.write(window)
    assert await broker.documents() == window


async def test_a_broker_that_goes_down_over_and_over_has_each_record(broker: Any) -> None:
    """Windows go through hogpipe's own dispatcher while the broker breaks its connections."""
    settings = settings_for(broker, queue_windows=1000)
    dispatcher = Dispatcher([(KafkaSink(settings), settings)], on_output_closed=lambda: None)
    await dispatcher.open()
    maker = RecordMaker()
    sent: list[Record] = []
    rng = random.Random(7)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(dispatcher.run())
        for _ in range(6):
            for _ in range(8):
                window = maker.window(rng.randrange(1, 700))
                sent += window
                await dispatcher.publish(window)
                await asyncio.sleep(0)
            await asyncio.sleep(rng.random() * 0.2)
            broker.tell("down")
            await asyncio.sleep(rng.random() * 0.2)
            broker.tell("up")
        async with asyncio.timeout(60):
            await dispatcher.idle()
        assert await dispatcher.drain(1) == []
        await running
    (health,) = dispatcher.health()
    assert (health["delivered"], health["dropped"]) == (len(sent), 0)
    received = [document["sequence"] for document in await broker.documents()]
    print(len(received), len(set(received)), received == sorted(received))
    assert set(received) == {record["sequence"] for record in sent}


async def test_closing_does_not_wait_for_a_broker_that_does_nothing_more(broker: Any) -> None:
    sink = KafkaSink(settings_for(broker, ack_timeout=60))
    await sink.open()
    broker.pause()
    writing = asyncio.create_task(sink.write(RecordMaker().window(20_000)))
    await asyncio.sleep(0.2)
    writing.cancel()
    await asyncio.wait({writing})
    async with asyncio.timeout(0.4):
        await sink.close()


async def test_a_cancelled_open_leaves_nothing_behind(broker: Any) -> None:
    for steps in range(40):
        sink = KafkaSink(settings_for(broker))
        opening = asyncio.create_task(sink.open())
        for _ in range(steps):
            await asyncio.sleep(0.0005)
        opening.cancel()
        await asyncio.wait({opening})
        await sink.close()
