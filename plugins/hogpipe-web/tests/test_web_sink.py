"""The sink as a run uses it, and what its server answers."""

import asyncio
import json
import socket
from typing import Any
from urllib.parse import quote

import pytest
from hogpipe_web import server as server_module
from made_up_host import MadeUpHost, process, stats, traffic
from web_support import PATIENCE, SINK_TYPE, TOKEN, Ask, Events, Listen, OpenSink

from hogpipe import ConfigurationError, InUseError
from hogpipe.testing import RecordMaker, SinkCase, check_sink, make_sink, total_bytes


async def test_the_promises_of_sinks_are_kept(ask: Ask, port: int) -> None:
    async def arrived() -> int:
        try:
            return (await ask("/api/status", Authorization=f"Bearer {TOKEN}")).json["counters"][
                "bytes"
            ]
        except OSError:  # not open
            return 0

    case = SinkCase(
        sink_type=SINK_TYPE,
        keys={"listen": f"127.0.0.1:{port}", "token": TOKEN},
        total_bytes=arrived,
        wrong_keys=[
            {"listen": "nowhere"},
            {"listen": "0.0.0.0:9780", "token": None},
            {"token": "short"},
            {"token": " with spaces around "},
            {"hosts": ["https://name/"]},
            {"live": 0},
            {"max_groups": 1},
            {"max_readers": 0},
        ],
        secrets=[TOKEN],
        largest_window=10_000,
    )
    await check_sink(case)


@pytest.mark.parametrize("listen", ["0.0.0.0:9780", "[::]:9780", "192.0.2.1:9780", "web1:9780"])
def test_another_address_needs_a_token_and_the_error_has_the_remedy(listen: str) -> None:
    with pytest.raises(ConfigurationError, match=r'token = \{file = "PATH"\}, or listen on 127'):
        make_sink(SINK_TYPE, {"listen": listen})
    make_sink(SINK_TYPE, {"listen": listen, "token": TOKEN})


async def test_a_port_in_use_is_named(opened: OpenSink) -> None:
    await opened()
    with pytest.raises(InUseError, match="something else listens there"):
        await opened()


async def test_the_page_and_its_files_have_the_headers_that_protect_them(
    opened: OpenSink, ask: Ask
) -> None:
    await opened()
    for path in ("/", "/assets/app.js", "/assets/style.css", "/api/status", "/nothing"):
        answer = await ask(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "server" not in answer.headers
    page = (await ask("/")).body.decode()
    assert "style=" not in page
    assert not [part for part in page.split("<script")[1:] if not part.startswith(" ")]
    assert "http://" not in page
    assert "https://" not in page


async def test_a_file_is_sent_again_only_if_it_changed(opened: OpenSink, ask: Ask) -> None:
    await opened()
    first = await ask("/assets/app.js")
    again = await ask("/assets/app.js", If_None_Match=first.headers["etag"])
    assert (first.status, again.status, again.body) == (200, 304, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../settings.py", "/assets/%2e%2e/settings.py", "/assets/..%2fsettings.py",
        "/assets//etc/passwd", "/assets/%2fetc%2fpasswd", "/assets/", "/assets/app.js/",
        "/static/app.js", "/../../etc/passwd", "/assets/app.js%00.css", "/assets/__init__.py",
    ],
)  # fmt: skip
async def test_no_other_file_is_sent(opened: OpenSink, ask: Ask, path: str) -> None:
    await opened()
    assert (await ask(path)).status == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:9780"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": ""},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Dest": "document"},
    ],
    ids=str,
)
async def test_requests_of_other_sites_are_refused(
    opened: OpenSink, ask: Ask, headers: dict[str, str]
) -> None:
    await opened()
    for path in ("/api/status", "/api/events?by=program", "/api/history"):
        answer = await ask(path, **headers)
        assert answer.status == 403
        assert "bytes" not in answer.body.decode()
    assert (await ask("/login", "POST", b"{}", **headers)).status == 403


async def test_a_link_of_another_site_opens_the_page_and_a_frame_does_not(
    opened: OpenSink, ask: Ask
) -> None:
    await opened(hosts=["proxy.example"])
    opens = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Dest": "document"}
    assert (await ask("/", **opens)).status == 200
    assert (await ask("/", **{**opens, "Sec_Fetch_Dest": "iframe"})).status == 403
    assert (await ask("/", **opens, Host="evil.example")).status == 403
    for host in ("localhost", "[::1]:9780", "192.0.2.7", "proxy.example", "PROXY.example:443"):
        assert (await ask("/api/status", Host=host)).status == 200
        assert (await ask("/api/status", Host=host, Origin=f"http://{host}")).status == 200


async def test_data_needs_the_token_in_a_header_or_a_cookie(opened: OpenSink, ask: Ask) -> None:
    await opened(token=TOKEN)
    for path in ("/api/status", "/api/events?by=program", "/api/history"):
        for headers in (
            {}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Cookie": "a=b"},
            {"Authorization": "Bearer "}, {"Cookie": "hogpipe-web-1=" + "9" * 5000},
        ):  # fmt: skip
            answer = await ask(path, **headers)
            assert answer.status == 401
            assert "log in" in answer.json["error"]
    assert (await ask("/")).status == 200  # it has no data
    assert (await ask("/api/status", Authorization=f"Bearer {TOKEN}")).status == 200


async def test_a_login_gives_a_cookie_that_scripts_and_other_sites_do_not_get(
    opened: OpenSink, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    await opened(token=TOKEN)
    wrong = await ask("/login", "POST", b'{"token": "wrong"}')
    assert (wrong.status, "set-cookie" in wrong.headers) == (401, False)
    for body, status in ((b"", 400), (b"[]", 400), (b'{"token": 1}', 400), (b"x" * 5000, 413)):
        assert (await ask("/login", "POST", body)).status == status
    assert (await ask("/login")).status == 405
    right = await ask("/login", "POST", json.dumps({"token": TOKEN}).encode())
    assert (right.status, right.body) == (204, b"")
    cookie, *attributes = right.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(attributes)
    assert TOKEN not in cookie
    assert (await ask("/api/status", Cookie=cookie)).status == 200
    name, _, value = cookie.partition("=")
    made, _, signature = value.partition(".")
    for forged in (
        f"{int(made) + 1}.{signature}", f"{made}.{'0' * 64}", made, f"{made}.", "", "é.x",
        f"{'9' * 400}.{signature}",
    ):  # fmt: skip
        assert (await ask("/api/status", Cookie=f"{name}={quote(forged, safe='.')}")).status == 401
    out = await ask("/logout", "POST", Cookie=cookie)
    assert "Max-Age=0" in out.headers["set-cookie"]
    assert TOKEN not in caplog.text


async def test_a_reader_gets_the_whole_picture_and_then_each_window(
    opened: OpenSink, listen: Listen
) -> None:
    sink = await opened()
    maker = RecordMaker()
    windows = [maker.window(40) for _ in range(5)]
    for window in windows[:3]:
        await sink.write(window)
    events = await listen()
    name, picture = await events.next()
    assert name == "snapshot"
    moved = [sum(map(total_bytes, window)) for window in windows]
    assert sum(picture["sums"][:2]) == sum(moved[:3])
    assert [sum(side) for side in zip(*picture["totals"], strict=True)] == moved[:3]
    for index in (3, 4):
        await sink.write(windows[index])
        name, change = await events.next()
        assert name == "window"
        assert sum(change["total"]) == moved[index]
        assert sum(change["sums"][:2]) == sum(moved[: index + 1])


async def test_a_filter_selects_what_a_program_exchanged_with_its_peers(
    opened: OpenSink, listen: Listen
) -> None:
    sink = await opened()
    host = MadeUpHost()
    window: Any = host.window(1000.0)
    await sink.write(window)
    events = await listen(
        f"by=remote&where={quote(json.dumps({'program': ['nginx', None, None]}))}"
    )
    picture = await events.wait_for("snapshot")
    of_nginx = {
        record["network"]["peer"]["address"]: total_bytes(record)
        for record in window
        if record.get("process", {}).get("name") == "nginx"
    }
    labels = {number: label for number, label, _detail, _values in picture["groups"]}
    assert {labels[row[0]]: row[3] + row[4] for row in picture["rows"]} == of_nginx


@pytest.mark.parametrize(
    "question",
    [
        "", "by=nothing", "by=program&where=[]", "by=program&where={", "by=program&where=%ff",
        'by=program&where={"program":["a"]}', 'by=program&where={"nothing":[1]}',
        "by=program&where=" + "x" * 5000, 'by=program&where={"program":[{},1,1]}',
    ],
)  # fmt: skip
async def test_a_wrong_question_is_answered_with_what_is_wrong(
    opened: OpenSink, ask: Ask, question: str
) -> None:
    await opened()
    answer = await ask("/api/events?" + quote(question, safe="=&%"))
    assert answer.status == 400
    assert answer.json["error"].startswith(("by: ", "where: "))


async def test_a_slow_reader_loses_windows_which_are_counted_and_in_its_next_snapshot(
    opened: OpenSink, ask: Ask, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hogpipe_web.hub.MOST_QUEUED", 2)
    sink = await opened()
    host = MadeUpHost()
    bodies = [traffic(process(f"job-{pid}" * 30, pid), 10, 10, "exact") for pid in range(3000)]
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(("127.0.0.1", port))
    slow.sendall(b"GET /api/events?by=process HTTP/1.1\r\nHost: localhost\r\n\r\n")
    written = 0
    while not (await ask("/api/status")).json["counters"]["windows_lost"]:
        await sink.write(host.stamped(bodies, 1000.0 + written))
        written += 1
        assert written < 500
    reader, writer = await asyncio.open_connection(sock=slow, limit=1 << 26)
    events = Events(reader, writer)
    try:
        gap = await events.wait_for("gap")
        picture = await events.wait_for("snapshot")
    finally:
        events.close()
    assert gap["lost"] > 0
    assert picture["windows"][-1] == [1000.0 + written - 1, 1000.0 + written]
    assert len(picture["windows"]) == min(written, 600)


async def test_a_reader_that_reads_nothing_is_disconnected(
    opened: OpenSink, ask: Ask, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "STALL_SECONDS", 0.05)
    sink = await opened()
    host = MadeUpHost()
    bodies = [traffic(process(f"job-{pid}" * 30, pid), 10, 10, "exact") for pid in range(3000)]
    await sink.write(host.stamped(bodies, 1000.0))
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.connect(("127.0.0.1", port))
    paths = [b"/assets/uPlot.esm.js", b"/api/events?by=process"]
    deaf.sendall(b"".join(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % one for one in paths))
    async with asyncio.timeout(PATIENCE):
        while (await ask("/api/status")).json["counters"]["readers"] != 1:
            pass
        written = 0
        while (await ask("/api/status")).json["counters"]["readers"]:
            written += 1
            await sink.write(host.stamped(bodies, 1000.0 + written))
    deaf.close()


async def test_readers_are_bounded(opened: OpenSink, listen: Listen, ask: Ask) -> None:
    await opened(max_readers=2)
    first = await listen()
    await listen()
    assert (await ask("/api/events?by=program")).status == 503
    first.close()
    async with asyncio.timeout(PATIENCE):
        while (await ask("/api/status")).json["counters"]["readers"] > 1:
            pass
    assert (await listen()).status == 200


async def test_a_quiet_stream_says_that_it_is_alive(
    opened: OpenSink, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hogpipe_web.hub.ALIVE_SECONDS", 0.01)
    await opened()
    events = await listen()
    assert await events.wait_for("alive") == {}


async def test_close_ends_streams_and_waits_for_no_peer(
    opened: OpenSink, listen: Listen, port: int
) -> None:
    sink = await opened()
    host = MadeUpHost()
    await sink.write(host.window(1000.0, more=3000))
    events = await listen()
    deaf = socket.create_connection(("127.0.0.1", port))
    deaf.sendall(b"GET /api/events?by=process HTTP/1.1\r\nHost: localhost\r\n\r\n")
    async with asyncio.timeout(0.4):
        await sink.close()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await events.wait_for("nothing of this name")
    deaf.close()


async def test_half_open_requests_delay_nobody(
    opened: OpenSink, ask: Ask, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MOST_CONNECTIONS", 8)
    await opened()
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
    for _reader, writer in idle:
        writer.write(b"GET / HTTP/1.1\r\nX: ")
    assert (await ask("/")).status == 200
    assert (await ask("/api/status")).json["counters"]["connections_refused"] > 0
    for _reader, writer in idle:
        writer.transport.abort()


async def test_a_request_that_does_not_end_is_closed(
    opened: OpenSink, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "HEAD_SECONDS", 0.05)
    await opened()
    for sent in (b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        async with asyncio.timeout(PATIENCE):
            try:
                answer = await reader.read()
            except ConnectionError:
                answer = b""
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
        writer.close()


async def test_hostile_names_are_sent_without_control_characters(
    opened: OpenSink, listen: Listen
) -> None:
    sink = await opened()
    name = '<img src=x onerror="document.title=1">\x1b[2J\n\u202e' + "x" * 300
    bodies = [traffic(process(name), 10, 10, "exact"), stats()]
    await sink.write(MadeUpHost().stamped(bodies, 1000.0))
    picture = await (await listen()).wait_for("snapshot")
    ((_number, label, _detail, values),) = picture["groups"]
    assert values[0] == name
    assert label.isprintable()
    assert len(label) == 200


async def test_a_write_that_is_cancelled_adds_nothing(opened: OpenSink, ask: Ask) -> None:
    sink = await opened()
    task = asyncio.create_task(sink.write(MadeUpHost().window(1000.0, more=3000)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    counters = (await ask("/api/status")).json["counters"]
    assert (counters["windows"], counters["bytes"], counters["groups"]) == (0, 0, 0)
