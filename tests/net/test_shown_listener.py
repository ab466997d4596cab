"""The listener in docs/collectors.md receives records."""

import sys
from pathlib import Path

from support.receivers import shown
from support.running import running
from support.sinks import traffic, until

from hogpipe.sinks.tcp.tcp_sink import TcpSettings, TcpSink


async def test_the_listener_of_the_page_prints_each_record(tmp_path: Path) -> None:
    program = shown("Anything that reads lines").replace(
        'socketserver.ThreadingTCPServer(("", 5170), Lines).serve_forever()',
        'server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Lines)\n'
        "print(server.server_address[1], flush=True)\n"
        "server.serve_forever()",
    )
    command = [sys.executable, "-u", "-c", program]
    output = tmp_path / "output"
    with output.open("wb") as file, running(None, *command, stdout=file):
        await until(lambda: output.read_text().endswith("\n"))
        sink = TcpSink(TcpSettings(type="tcp", host="127.0.0.1", port=int(output.read_text())))
        await sink.write([traffic(1), traffic(2)])
        await until(lambda: output.read_text().count("\n") == 3)
        await sink.close()
    assert output.read_text().splitlines()[1:] == ["01JD 1 traffic", "01JD 2 traffic"]
