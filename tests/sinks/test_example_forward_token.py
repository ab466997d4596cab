"""A token that the server rejects during a run costs the sink `forward` no records."""

import pytest
from example_forward import ForwardSettings, ForwardSink
from support.line_server import LineServer

from hogpipe import DeliveryError, SinkType
from hogpipe.testing import RecordMaker, make_sink


class TokenServer(LineServer):
    """Accepts clients with its token only."""

    token = b"new"

    def answer(self, line: bytes) -> bytes:
        if line.startswith(b"{"):
            super().answer(line)
            return b"ok\n"
        return b"ok\n" if line == self.token else b"no\n"


async def test_a_window_is_delivered_once_the_token_is_accepted_again() -> None:
    async with TokenServer() as server:
        server.token = b"old"
        keys = {"port": server.port, "host": "127.0.0.1", "token": "old"}
        sink = make_sink(SinkType("forward", ForwardSettings, ForwardSink), keys)
        await sink.open()
        server.token = b"new"
        async with server.outage():
            pass
        window = RecordMaker().window()
        for _try in range(2):
            with pytest.raises(DeliveryError) as caught:
                await sink.write(window)
            assert caught.value.undelivered == window
        server.token = b"old"
        await sink.write(window)
        await sink.close()
        assert [one["sequence"] for one in await server.arrived()] == list(range(1, 9))
