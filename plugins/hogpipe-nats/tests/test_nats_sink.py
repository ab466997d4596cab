"""A real server: what is written is in the stream, once, whatever happens to the server."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hogpipe_nats import NatsSettings, NatsSink

from hogpipe import ConfigurationError, DeliveryError, Record, RefusedError, TlsSettings
from hogpipe.delivery.dispatch import Dispatcher
from hogpipe.testing.records import RecordMaker

QUICK = {"retry_initial": 0.01, "retry_max": 0.1, "ack_timeout": 1.0}


def settings_for(server: Any, **changes: Any) -> NatsSettings:
    return NatsSettings(**{"type": "nats", "servers": (server.url,), **QUICK, **changes})


@asynccontextmanager
async def opened(settings: NatsSettings) -> AsyncIterator[NatsSink]:
    sink = NatsSink(settings)
    try:
        await sink.open()
        yield sink
    finally:
        await sink.close()


async def fails_to_open(settings: NatsSettings) -> str:
    """Return why; the sink is closed as a run closes it."""
    sink = NatsSink(settings)
    with pytest.raises(DeliveryError) as caught:
        await sink.open()
    await sink.close()
    text = str(caught.value)
    assert "\n" not in text
    return text


def ids(records: Sequence[Record]) -> list[str]:
    return [f"{record['run']}-{record['sequence']}" for record in records]


async def test_each_record_is_a_message_with_its_id_on_the_subject_of_its_host_and_type(
    server: Any,
) -> None:
    window = RecordMaker("web1.example.org").window(3)
    async with opened(settings_for(server)) as sink:
        await sink.write(window)
    messages = await server.messages()
    assert [document for _, _, document in messages] == window
    assert [identity for _, identity, _ in messages] == ids(window)
    assert [subject for subject, _, _ in messages] == [
        "hogpipe.web1_example_org.traffic",
        "hogpipe.web1_example_org.traffic",
        "hogpipe.web1_example_org.stats",
    ]


async def test_a_record_that_the_stream_has_is_not_taken_again(server: Any) -> None:
    window = RecordMaker().window(50)
    async with opened(settings_for(server)) as sink:
        await sink.write(window)
        await sink.write(window)
    assert await server.documents() == window


async def test_the_layout_is_as_configured(server: Any) -> None:
    async with opened(settings_for(server, layout="flat")) as sink:
        await sink.write(RecordMaker().window(1))
    (document,) = await server.documents()
    assert "host.name" in document


async def test_a_large_window_arrives_in_order(server: Any) -> None:
    window = RecordMaker().window(5000)
    async with opened(settings_for(server)) as sink:
        await sink.write(window)
    assert await server.documents() == window


async def test_a_stream_that_is_there_is_used_and_left_as_it_is(server: Any) -> None:
    async with server.client() as client:
        await client.jetstream().add_stream(name="hogpipe", subjects=["mine.>"], max_age=60)
    async with opened(settings_for(server, subject="mine.{type}")) as sink:
        await sink.write(RecordMaker().window(2))
    assert len(await server.documents()) == 2
    async with server.client() as client:
        config = (await client.jetstream().stream_info("hogpipe")).config
    assert (config.max_age, config.max_bytes) == (60, -1)


async def test_a_new_stream_has_bounds(server: Any) -> None:
    async with opened(settings_for(server, stream="s", stream_mib=5, duplicate_window=7.5)):
        pass
    async with server.client() as client:
        config = (await client.jetstream().stream_info("s")).config
    assert (config.max_bytes, config.duplicate_window) == (5 << 20, 7.5)
    assert config.subjects == ["hogpipe.*.*"]


async def test_without_a_stream_nothing_is_delivered_until_somebody_makes_one(server: Any) -> None:
    window = RecordMaker().window(3)
    async with opened(settings_for(server, create_stream=False)) as sink:
        with pytest.raises(DeliveryError, match="no stream takes the subject") as caught:
            await sink.write(window)
        assert caught.value.undelivered == window
        async with server.client() as client:
            await client.jetstream().add_stream(name="hogpipe", subjects=["hogpipe.>"])
        await sink.write(window)
    assert await server.documents() == window


async def test_a_stream_that_was_deleted_is_made_again(server: Any) -> None:
    maker = RecordMaker()
    async with opened(settings_for(server)) as sink:
        await sink.write(maker.window())
        async with server.client() as client:
            await client.jetstream().delete_stream("hogpipe")
        window = maker.window()
        with pytest.raises(DeliveryError, match="no stream takes the subject"):
            await sink.write(window)
        await sink.write(window)
    assert await server.documents() == window


async def test_what_a_full_stream_does_not_take_comes_again(server: Any) -> None:
    async with server.client() as client:
        await client.jetstream().add_stream(
            name="hogpipe", subjects=["hogpipe.>"], max_msgs=5, discard="new"
        )
    window = RecordMaker().window(8)
    async with opened(settings_for(server)) as sink:
        with pytest.raises(DeliveryError, match="maximum messages exceeded") as caught:
            await sink.write(window)
        assert caught.value.undelivered == window[5:]
        async with server.client() as client:
            await client.jetstream().purge_stream("hogpipe")
        await sink.write(window[5:])
    assert await server.documents() == window[5:]


async def test_a_record_too_large_for_the_server_is_refused_and_the_rest_goes(
    make_server: Callable[..., Any],
) -> None:
    server = make_server("max_payload: 4096")
    await server.start()
    window = RecordMaker().window(4)
    for record, size in zip(window[:3], (5000, 3000, 4096), strict=False):
        record["process"] = {"command": "x" * size}  # type: ignore[typeddict-unknown-key]
    async with opened(settings_for(server)) as sink:
        with pytest.raises(RefusedError, match="2 records are larger") as caught:
            await sink.write(window)
    assert caught.value.refused == [window[0], window[2]]
    assert await server.documents() == [window[1], window[3]]


async def test_the_largest_message_that_the_server_takes_is_sent(
    make_server: Callable[..., Any],
) -> None:
    server = make_server("max_payload: 4096")
    await server.start()
    window = RecordMaker().window(1)
    async with opened(settings_for(server)) as sink:
        (message,) = sink._messages(window)
        window[0]["host"] = {"name": window[0]["host"]["name"] + "x" * (4096 - message.size)}
        await sink.write(window)
        assert await server.documents() == window
        window[0]["host"] = {"name": window[0]["host"]["name"] + "x"}
        with pytest.raises(RefusedError):
            await sink.write(window)


async def test_a_record_too_large_for_the_stream_is_refused_and_the_rest_goes(
    server: Any,
) -> None:
    async with server.client() as client:
        await client.jetstream().add_stream(
            name="hogpipe", subjects=["hogpipe.>"], max_msg_size=4096
        )
    window = RecordMaker().window(3)
    window[1]["process"] = {"command": "x" * 5000}  # type: ignore[typeddict-unknown-key]
    async with opened(settings_for(server)) as sink:
        with pytest.raises(RefusedError) as caught:
            await sink.write(window)
    assert caught.value.refused == [window[1]]
    assert await server.documents() == [window[0], window[2]]


async def test_a_server_killed_over_and_over_has_each_record_once(server: Any) -> None:
    """Windows go through hogpipe's own dispatcher while the server is killed and comes back."""
    settings = settings_for(server, queue_windows=1000)
    dispatcher = Dispatcher([(NatsSink(settings), settings)], on_output_closed=lambda: None)
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
            server.kill()
            await asyncio.sleep(rng.random() * 0.2)
            await server.start()
        async with asyncio.timeout(60):
            await dispatcher.idle()
        assert await dispatcher.drain(1) == []
        await running
    (health,) = dispatcher.health()
    assert (health["delivered"], health["dropped"]) == (len(sent), 0)
    assert health["retries"] > 0
    messages = await server.messages()
    assert sorted(identity for _, identity, _ in messages) == sorted(ids(sent))


async def test_closing_does_not_wait_for_a_server_that_does_nothing_more(server: Any) -> None:
    sink = NatsSink(settings_for(server, ack_timeout=60))
    await sink.open()
    writing = asyncio.create_task(sink.write(RecordMaker().window(5)))
    await asyncio.sleep(0.05)
    server.pause()
    large = asyncio.create_task(sink.write(RecordMaker().window(20_000)))
    await asyncio.sleep(0.2)
    writing.cancel()
    large.cancel()
    await asyncio.wait({writing, large})
    async with asyncio.timeout(0.4):
        await sink.close()
    server.resume()


async def test_what_a_stalled_server_did_not_acknowledge_comes_again(server: Any) -> None:
    window = RecordMaker().window(5)
    async with opened(settings_for(server, ack_timeout=0.2)) as sink:
        server.pause()
        with pytest.raises(DeliveryError, match=r"no acknowledgement within 0\.2 s") as caught:
            await sink.write(window)
        assert caught.value.undelivered == window
        server.resume()
        await sink.write(window)
    assert await server.documents() == window


async def test_the_next_server_is_tried_where_one_is_down(server: Any, make_server: Any) -> None:
    dead = make_server()
    async with opened(settings_for(server, servers=(dead.url, server.url))) as sink:
        await sink.write(RecordMaker().window(3))
    assert len(await server.documents()) == 3


async def test_a_server_that_is_down_is_named(make_server: Any) -> None:
    dead = make_server()
    text = await fails_to_open(settings_for(dead))
    assert text == f"127.0.0.1:{dead.port}: Connection refused"


async def test_a_name_that_does_not_resolve_is_named() -> None:
    text = await fails_to_open(NatsSettings(type="nats", servers=("nats://nowhere.invalid",)))
    assert text.startswith("nowhere.invalid:4222: ")
    assert "nam" in text.lower()


async def test_a_server_that_says_nothing_is_given_up() -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    listener = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    settings = NatsSettings(type="nats", servers=(f"nats://127.0.0.1:{port}",), connect_timeout=0.1)
    assert await fails_to_open(settings) == f"127.0.0.1:{port}: no answer within 0.1 s"
    listener.close()
    await asyncio.sleep(0.05)


async def test_a_server_without_jetstream_is_told_of(make_server: Any) -> None:
    server = make_server()
    server._config.write_text(f'listen: "127.0.0.1:{server.port}"')
    await server.start()
    assert "has no JetStream" in await fails_to_open(settings_for(server))
    async with opened(settings_for(server, create_stream=False)) as sink:
        with pytest.raises(DeliveryError, match="no stream takes the subject"):
            await sink.write(RecordMaker().window(1))


async def test_what_the_server_does_not_permit_is_told_at_once(make_server: Any) -> None:
    permissions = '{publish: {deny: "hogpipe.>"}}'
    user = f"{{user: u, password: p, permissions: {permissions}}}"
    server = make_server(f"authorization: {{users: [{user}]}}", user="u", password="p")
    await server.start()
    window = RecordMaker().window(3)
    login = {"user": "u", "password": "p", "ack_timeout": 60}
    async with opened(settings_for(server, **login)) as sink:
        async with asyncio.timeout(20):
            with pytest.raises(DeliveryError, match=r"(?i)permissions violation") as caught:
                await sink.write(window)
    assert caught.value.undelivered == window


async def test_a_user_who_may_only_publish_is_enough_where_there_is_a_stream(
    make_server: Any,
) -> None:
    permissions = '{publish: "hogpipe.>", subscribe: "_INBOX.>"}'
    users = f"{{user: u, password: p, permissions: {permissions}}}, {{user: boss, password: p}}"
    server = make_server(f"authorization: {{users: [{users}]}}", user="boss", password="p")
    await server.start()
    async with server.client() as client:
        await client.jetstream().add_stream(name="hogpipe", subjects=["hogpipe.>"])
    window = RecordMaker().window(3)
    login = {"user": "u", "password": "p", "create_stream": False}
    async with opened(settings_for(server, **login)) as sink:
        await sink.write(window)
    assert await server.documents() == window


@pytest.mark.parametrize("records", [1, 2000])
async def test_a_cancelled_write_leaves_nothing_behind(server: Any, records: int) -> None:
    maker = RecordMaker()
    async with opened(settings_for(server)) as sink:
        for steps in range(40):
            writing = asyncio.create_task(sink.write(maker.window(records)))
            for _ in range(steps):
                await asyncio.sleep(0)
            writing.cancel()
            await asyncio.wait({writing})
        window = maker.window(10)
        await sink.write(window)
    assert (await server.documents())[-10:] == window


async def test_files_that_were_there_when_the_run_began_may_come_back(
    server: Any, tmp_path: Any
) -> None:
    sink = NatsSink(settings_for(server, tls=TlsSettings(ca=tmp_path / "gone.pem")))
    with pytest.raises(ConfigurationError, match=r"tls\.ca: .*gone\.pem: No such file"):
        await sink.open()
    window = RecordMaker().window(2)
    with pytest.raises(DeliveryError, match="No such file") as caught:
        await sink.write(window)
    assert caught.value.undelivered == window
    await sink.close()
