"""The sink writes to a real server; the stream has each record once, in any trouble."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hogpipe_nats import NatsSettings, NatsSink

from hogpipe import ConfigurationError, DeliveryError, Record, RefusedError, TlsSettings
from hogpipe.testing import RecordMaker, deliver_through_outages, enlarge, opened

QUICK = {"retry_initial": 0.01, "retry_max": 0.1, "ack_timeout": 1.0}


def settings_for(server: Any, **changes: Any) -> NatsSettings:
    return NatsSettings(**{"type": "nats", "servers": (server.url,), **QUICK, **changes})


def sink_for(server: Any, **changes: Any) -> NatsSink:
    return NatsSink(settings_for(server, **changes))


async def fails_to_open(settings: NatsSettings) -> str:
    """Return the error text of `open`."""
    with pytest.raises(DeliveryError) as caught:
        async with opened(NatsSink(settings)):
            pass
    text = str(caught.value)
    assert "\n" not in text
    return text


def ids(records: Sequence[Record]) -> list[str]:
    return [f"{record['run']}-{record['sequence']}" for record in records]


async def test_each_record_is_a_message_with_its_id_on_the_subject_of_its_host_and_type(
    server: Any,
) -> None:
    window = RecordMaker("web1.example.org").window(3)
    async with opened(sink_for(server)) as sink:
        await sink.write(window)
    messages = await server.messages()
    assert [document for _, _, document in messages] == window
    assert [identity for _, identity, _ in messages] == ids(window)
    assert [subject for subject, _, _ in messages] == [
        "hogpipe.web1_example_org.traffic",
        "hogpipe.web1_example_org.traffic",
        "hogpipe.web1_example_org.stats",
    ]


async def test_the_stream_drops_a_record_that_it_has_already(server: Any) -> None:
    window = RecordMaker().window(50)
    async with opened(sink_for(server)) as sink:
        await sink.write(window)
        await sink.write(window)
    assert await server.documents() == window


async def test_documents_have_the_configured_layout(server: Any) -> None:
    async with opened(sink_for(server, layout="flat")) as sink:
        await sink.write(RecordMaker().window(1))
    (document,) = await server.documents()
    assert "host.name" in document


async def test_a_large_window_arrives_in_order(server: Any) -> None:
    window = RecordMaker().window(5000)
    async with opened(sink_for(server)) as sink:
        await sink.write(window)
    assert await server.documents() == window


async def test_an_existing_stream_is_used_unchanged(server: Any) -> None:
    async with server.client() as client:
        await client.jetstream().add_stream(name="hogpipe", subjects=["mine.>"], max_age=60)
    async with opened(sink_for(server, subject="mine.{type}")) as sink:
        await sink.write(RecordMaker().window(2))
    assert len(await server.documents()) == 2
    async with server.client() as client:
        config = (await client.jetstream().stream_info("hogpipe")).config
    assert (config.max_age, config.max_bytes) == (60, -1)


async def test_a_new_stream_has_bounds(server: Any) -> None:
    async with opened(sink_for(server, stream="s", stream_mib=5, duplicate_window=7.5)):
        pass
    async with server.client() as client:
        config = (await client.jetstream().stream_info("s")).config
    assert (config.max_bytes, config.duplicate_window) == (5 << 20, 7.5)
    assert config.subjects == ["hogpipe.*.*"]


async def test_without_a_stream_nothing_is_delivered_until_one_is_created(server: Any) -> None:
    window = RecordMaker().window(3)
    async with opened(sink_for(server, create_stream=False)) as sink:
        with pytest.raises(DeliveryError, match="no stream takes the subject") as caught:
            await sink.write(window)
        assert caught.value.undelivered == window
        async with server.client() as client:
            await client.jetstream().add_stream(name="hogpipe", subjects=["hogpipe.>"])
        await sink.write(window)
    assert await server.documents() == window


async def test_a_probe_creates_no_stream(server: Any) -> None:
    place = server.url.removeprefix("nats://")
    for state in ("is created when a run starts", "exists"):
        sink = sink_for(server)
        assert await sink.probe() == f"connected to {place}; stream hogpipe {state}"
        await sink.close()
        async with opened(sink_for(server)):
            pass
    sink = sink_for(server, create_stream=False)
    assert await sink.probe() == f"connected to {place}"
    await sink.close()


async def test_a_deleted_stream_is_created_again(server: Any) -> None:
    maker = RecordMaker()
    async with opened(sink_for(server)) as sink:
        await sink.write(maker.window())
        async with server.client() as client:
            await client.jetstream().delete_stream("hogpipe")
        window = maker.window()
        with pytest.raises(DeliveryError, match="no stream takes the subject"):
            await sink.write(window)
        await sink.write(window)
    assert await server.documents() == window


async def test_records_that_a_full_stream_rejects_are_undelivered(server: Any) -> None:
    async with server.client() as client:
        await client.jetstream().add_stream(
            name="hogpipe", subjects=["hogpipe.>"], max_msgs=5, discard="new"
        )
    window = RecordMaker().window(8)
    async with opened(sink_for(server)) as sink:
        with pytest.raises(DeliveryError, match="maximum messages exceeded") as caught:
            await sink.write(window)
        assert caught.value.undelivered == window[5:]
        async with server.client() as client:
            await client.jetstream().purge_stream("hogpipe")
        await sink.write(window[5:])
    assert await server.documents() == window[5:]


async def test_a_record_too_large_for_the_server_is_refused_and_the_others_are_delivered(
    make_server: Callable[..., Any],
) -> None:
    server = make_server("max_payload: 4096")
    await server.start()
    window = RecordMaker().window(4)
    for record, size in zip(window[:3], (5000, 3000, 4096), strict=False):
        enlarge(record, size)
    async with opened(sink_for(server)) as sink:
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
    async with opened(sink_for(server)) as sink:
        (message,) = sink._messages(window)
        window[0]["host"] = {"name": window[0]["host"]["name"] + "x" * (4096 - message.size)}
        await sink.write(window)
        assert await server.documents() == window
        window[0]["host"] = {"name": window[0]["host"]["name"] + "x"}
        with pytest.raises(RefusedError):
            await sink.write(window)


async def test_a_record_too_large_for_the_stream_is_refused_and_the_others_are_delivered(
    server: Any,
) -> None:
    async with server.client() as client:
        await client.jetstream().add_stream(
            name="hogpipe", subjects=["hogpipe.>"], max_msg_size=4096
        )
    window = RecordMaker().window(3)
    enlarge(window[1], 5000)
    async with opened(sink_for(server)) as sink:
        with pytest.raises(RefusedError) as caught:
            await sink.write(window)
    assert caught.value.refused == [window[1]]
    assert await server.documents() == [window[0], window[2]]


async def test_a_server_killed_repeatedly_has_each_record_once(server: Any) -> None:
    settings = settings_for(server, queue_windows=1000)
    report = await deliver_through_outages(NatsSink(settings), settings, server.outage)
    assert report.counts["delivered"] == len(report.records)
    assert report.counts["dropped"] == 0
    assert report.counts["retries"] > 0
    messages = await server.messages()
    assert sorted(identity for _, identity, _ in messages) == sorted(ids(report.records))


async def test_close_does_not_wait_for_a_suspended_server(server: Any) -> None:
    sink = sink_for(server, ack_timeout=60)
    await sink.open()
    writing = asyncio.create_task(sink.write(RecordMaker().window(5)))
    await asyncio.sleep(0.05)
    async with server.stall():
        large = asyncio.create_task(sink.write(RecordMaker().window(20_000)))
        await asyncio.sleep(0.2)
        writing.cancel()
        large.cancel()
        await asyncio.wait({writing, large})
        async with asyncio.timeout(0.4):
            await sink.close()


async def test_records_without_an_acknowledgement_are_undelivered(server: Any) -> None:
    window = RecordMaker().window(5)
    async with opened(sink_for(server, ack_timeout=0.2)) as sink:
        async with server.stall():
            with pytest.raises(DeliveryError, match=r"no acknowledgement within 0\.2 s") as caught:
                await sink.write(window)
        assert caught.value.undelivered == window
        await sink.write(window)
    assert await server.documents() == window


async def test_the_next_server_is_tried_where_one_is_down(server: Any, make_server: Any) -> None:
    dead = make_server()
    async with opened(sink_for(server, servers=(dead.url, server.url))) as sink:
        await sink.write(RecordMaker().window(3))
    assert len(await server.documents()) == 3


async def test_an_error_names_a_server_that_is_down(make_server: Any) -> None:
    dead = make_server()
    text = await fails_to_open(settings_for(dead))
    assert text == f"127.0.0.1:{dead.port}: Connection refused"


async def test_an_error_names_a_host_that_does_not_resolve() -> None:
    text = await fails_to_open(NatsSettings(type="nats", servers=("nats://nowhere.invalid",)))
    assert text.startswith("nowhere.invalid:4222: ")
    assert "nam" in text.lower()


async def test_a_silent_server_fails_by_time_out() -> None:
    async def stay_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    listener = await asyncio.start_server(stay_silent, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    settings = NatsSettings(type="nats", servers=(f"nats://127.0.0.1:{port}",), connect_timeout=0.1)
    assert await fails_to_open(settings) == f"127.0.0.1:{port}: no answer within 0.1 s"
    listener.close()
    await asyncio.sleep(0.05)


async def test_an_error_names_a_server_without_jetstream(make_server: Any) -> None:
    server = make_server()
    server._config.write_text(f'listen: "127.0.0.1:{server.port}"')
    await server.start()
    assert "has no JetStream" in await fails_to_open(settings_for(server))
    async with opened(sink_for(server, create_stream=False)) as sink:
        with pytest.raises(DeliveryError, match="no stream takes the subject"):
            await sink.write(RecordMaker().window(1))


async def test_a_permission_that_is_missing_fails_at_once(make_server: Any) -> None:
    permissions = '{publish: {deny: "hogpipe.>"}}'
    user = f"{{user: u, password: p, permissions: {permissions}}}"
    server = make_server(f"authorization: {{users: [{user}]}}", user="u", password="p")
    await server.start()
    window = RecordMaker().window(3)
    login = {"user": "u", "password": "p", "ack_timeout": 60}
    async with opened(sink_for(server, **login)) as sink:
        async with asyncio.timeout(20):
            with pytest.raises(DeliveryError, match=r"(?i)permissions violation") as caught:
                await sink.write(window)
    assert caught.value.undelivered == window


async def test_permission_to_publish_is_enough_where_a_stream_exists(
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
    async with opened(sink_for(server, **login)) as sink:
        await sink.write(window)
    assert await server.documents() == window


@pytest.mark.parametrize("records", [1, 2000])
async def test_a_cancelled_write_leaves_nothing_behind(server: Any, records: int) -> None:
    maker = RecordMaker()
    async with opened(sink_for(server)) as sink:
        for steps in range(40):
            writing = asyncio.create_task(sink.write(maker.window(records)))
            for _ in range(steps):
                await asyncio.sleep(0)
            writing.cancel()
            await asyncio.wait({writing})
        window = maker.window(10)
        await sink.write(window)
    assert (await server.documents())[-10:] == window


async def test_a_file_that_disappears_during_the_run_is_a_delivery_error(
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
