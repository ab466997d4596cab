"""The program that runs in a virtual machine of tests/slow/test_kernels.py, as its first process.

In: nothing. Out: a line on the console for each check, `MARK NAME JSON`, and the last one,
`MARK exit CODE`; then the machine is switched off. CODE is 0 if each check came to its end,
whatever it found: the test on the host compares.

The check of a way of counting is an exchange over loopback between two processes: short connections
that either end closes first, and datagrams, over IPv4 and IPv6; without eBPF connections that are
kept until they are recorded. A packet socket counts what passes, by process, independently of
hogpipe. The program needs hogpipe and the standard library only.
"""

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hogpipe.linux.bpf.obstacles import BpfUnavailableError
from support.verifier import SETS, read_verified

MARK = "hogpipe-guest:"
PATIENCE = 120.0  # an emulated machine is slow
CONNECTIONS = 16  # half of them over IPv6
REQUEST, ANSWER, DATAGRAM = 300, 5000, 200
COUNTS_SYN_ACKS = (6, 12)
"""The first kernel run here whose egress hook sees SYN-ACKs over IPv6 (docs/kernels.md)."""
SYN_ACKS = CONNECTIONS // 2 * 80  # bytes
HOSTS = ("127.0.0.1", "::1")
PORT = 7001
RECORDS, MEASURED = Path("/tmp/records.jsonl"), Path("/tmp/measured.json")
CONFIG = """
[capture]
{capture}
[attribution]
{attribution}
[aggregation]
interval = 0.5
[[sinks]]
type = "jsonl"
path = "/tmp/records.jsonl"
"""
_HOGPIPE = (sys.executable, "-m", "hogpipe")
_MOUNTS = {
    "/proc": "proc",
    "/sys": "sysfs",
    "/dev": "devtmpfs",
    "/tmp": "tmpfs",
    "/sys/fs/cgroup": "cgroup2",
}
# linux/if_packet.h, linux/if_ether.h
_OUTGOING, _ALL, _IPV4 = 4, 3, 0x0800
_SOL_PACKET, _STATISTICS = 263, 6
_TCP = 6


def main() -> int:
    """Run an end of the exchange, or all checks; return the exit code."""
    match sys.argv[1:]:
        case ["serve"]:
            serve()
        case ["talk", kind]:
            talk(kind)
        case _:
            prepare()
            report("kernel", os.uname().release)
            for name, check in CHECKS.items():
                report(name, check())
    return 0


def parse_release(release: str) -> tuple[int, int]:
    """Return the first two numbers of a kernel's release."""
    major, minor = release.partition("-")[0].split(".")[:2]
    return int(major), int(minor)


def report(name: str, found: object) -> None:
    """Print a line for the host."""
    print(MARK, name, json.dumps(found), flush=True)


def prepare() -> None:
    """Mount what a system has, and bring loopback up."""
    for folder, kind in _MOUNTS.items():
        Path(folder).mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", kind, kind, folder], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def switch_off() -> None:
    """Switch the machine off."""
    Path("/proc/sysrq-trigger").write_text("o")
    threading.Event().wait()


def family_of(host: str) -> socket.AddressFamily:
    """Return the family of an address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def serve() -> None:
    """Answer requests and datagrams until the input ends."""
    for host in HOSTS:
        listener = socket.create_server((host, PORT), family=family_of(host))
        datagrams = socket.socket(family_of(host), socket.SOCK_DGRAM)
        datagrams.bind((host, PORT))
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        threading.Thread(target=echo, args=(datagrams,), daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()


def accept(listener: socket.socket) -> None:
    """Answer each connection in a thread of its own."""
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def answer(connection: socket.socket) -> None:
    """Answer requests until the client closes, or one whose first byte asks to close first."""
    with connection:
        while request := connection.recv(REQUEST, socket.MSG_WAITALL):
            connection.sendall(b"a" * ANSWER)
            if request.startswith(b"s"):
                break


def echo(datagrams: socket.socket) -> None:
    """Return each datagram to its sender."""
    while True:
        content, sender = datagrams.recvfrom(DATAGRAM)
        datagrams.sendto(content, sender)


def talk(kind: str) -> None:
    """Make the exchange: `short` connections, or `kept` ones that end after the input."""
    if kind == "kept":
        with ends(HOSTS):
            print("kept", flush=True)
            sys.stdin.read()
        return
    for number in range(CONNECTIONS):
        with socket.create_connection((HOSTS[number % 2], PORT)) as one:
            server_first = number // 2 % 2
            ask(one, b"s" if server_first else b"c")
            if server_first:
                one.recv(1)
    for host in HOSTS:
        with socket.socket(family_of(host), socket.SOCK_DGRAM) as unconnected:
            for _ in range(3):
                unconnected.sendto(b"d" * DATAGRAM, (host, PORT))
                unconnected.recvfrom(DATAGRAM)


@contextmanager
def ends(hosts: tuple[str, ...]) -> Iterator[None]:
    """Open a connection and a connected datagram socket for each host, and use each once."""
    opened = []
    for host in hosts:
        datagrams = socket.socket(family_of(host), socket.SOCK_DGRAM)
        datagrams.connect((host, PORT))
        opened += [socket.create_connection((host, PORT)), datagrams]
    for one in opened:
        ask(one, b"c")
    yield
    for one in opened:
        one.close()


def ask(one: socket.socket, first: bytes) -> None:
    """Send a request or a datagram, and read the answer."""
    if one.type == socket.SOCK_STREAM:
        one.sendall(first.ljust(REQUEST, b"r"))
        one.recv(ANSWER, socket.MSG_WAITALL)
    else:
        one.send(b"d" * DATAGRAM)
        one.recv(DATAGRAM)


class Witness:
    """Counts the packets on loopback by the ports of both ends, in a thread."""

    def __init__(self) -> None:
        self.sums: Counter[str] = Counter()
        self.packets = 0
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL))
        self._socket.bind(("lo", _ALL))
        self._socket.settimeout(0.2)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._count)
        self._thread.start()

    def stop(self) -> int:
        """Stop, and return how many packets the socket has dropped."""
        self._stopped.set()
        self._thread.join()
        with self._socket:
            statistics = self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 8)
        return int(struct.unpack("II", statistics)[1])

    def _count(self) -> None:
        while True:
            try:
                packet, (_, protocol, direction, *_) = self._socket.recvfrom(128)
            except TimeoutError:
                if self._stopped.is_set():
                    return
                continue
            if direction != _OUTGOING:
                self._add(packet, protocol)

    def _add(self, packet: bytes, protocol: int) -> None:
        if protocol == _IPV4:
            size, header, transport = int.from_bytes(packet[2:4]), (packet[0] & 15) * 4, packet[9]
        else:
            size, header, transport = 40 + int.from_bytes(packet[4:6]), 40, packet[6]
        if transport not in {_TCP, socket.IPPROTO_UDP}:
            self.sums["other"] += size
            return
        source, target = struct.unpack_from("!HH", packet, header)
        self.packets += 1
        for port, moved in ((source, "transmit"), (target, "receive")):
            self.sums[f"{'server' if port == PORT else 'client'} {moved}"] += size


def check_doctor() -> Any:
    """Return the lines of `hogpipe doctor`."""
    done = subprocess.run([*_HOGPIPE, "doctor", "--json"], stdout=subprocess.PIPE, check=False)
    return {"code": done.returncode, "lines": json.loads(done.stdout)}


def check_verifier() -> Any:
    """Return the instructions that the verifier processed, or why programs are not loaded."""
    try:
        return {name: read_verified(attach) for name, attach in SETS.items()}
    except BpfUnavailableError as error:
        return {"obstacle": error.obstacle, "text": str(error)}


def check_way(capture: str, attribution: str, kind: str) -> Callable[[], Any]:
    """Return the check of a way of counting."""
    return lambda: count_exchange(CONFIG.format(capture=capture, attribution=attribution), kind)


def count_exchange(config: str, kind: str) -> Any:
    """Return what hogpipe and the packet socket counted of an exchange, and how hogpipe ended."""
    RECORDS.unlink(missing_ok=True)
    Path("/tmp/config.toml").write_text(config)
    run = subprocess.Popen(
        [*_HOGPIPE, "run", "/tmp/config.toml"], stderr=subprocess.PIPE, text=True
    )
    assert run.stderr is not None
    lines = []
    for line in run.stderr:
        lines.append(line.strip())
        if "owners come from" in line:
            break
    else:
        return {"code": run.wait(), "lines": lines}
    witness = Witness()
    names = exchange(kind, witness)
    missing = SYN_ACKS if 'source = "ebpf"' in config and not counts_syn_acks() else 0
    wait_until(lambda: sum_moved().total() + missing == witness.sums.total())
    dropped = witness.stop()
    run.send_signal(2)
    lines += [line.strip() for line in run.stderr]
    return {
        "code": run.wait(),
        "lines": lines,
        "truth": witness.sums,
        "packets": witness.packets,
        "dropped": dropped,
        "moved": sum_moved(names),
        "qualities": sum_qualities(),
    }


def check_payload() -> Any:
    """Return the payload that `hogpipe exec` counts of a client, and what that passes on."""
    server = start("serve")
    command = [*_HOGPIPE, "exec", "--source", "ebpf", "--json", "-o", str(MEASURED)]
    done = subprocess.run(
        [*command, sys.executable, __file__, "talk", "short"],
        stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert server.stdin is not None
    server.stdin.close()
    assert server.wait() == 0
    datagrams = len(HOSTS) * 3 * DATAGRAM
    found: dict[str, Any] = {"code": done.returncode, "lines": done.stderr.splitlines()}
    if done.returncode == 0:
        totals = json.loads(MEASURED.read_text())["totals"]
        found["moved"] = {name: totals[f"{name}_payload_bytes"] for name in ("transmit", "receive")}
    transmit, receive = (CONNECTIONS * size + datagrams for size in (REQUEST, ANSWER))
    return found | {"truth": {"transmit": transmit, "receive": receive}}


def counts_syn_acks() -> bool:
    """Return whether the kernel's egress hook sees SYN-ACKs over IPv6."""
    return parse_release(os.uname().release) >= COUNTS_SYN_ACKS


def exchange(kind: str, witness: Witness) -> dict[int, str]:
    """Run both ends of an exchange; return their names by pid."""
    server = start("serve")
    client = start("talk", kind)
    if kind == "kept":
        wait_until(lambda: sum_moved().total() == witness.sums.total())
    for one in (client, server):
        assert one.stdin is not None
        one.stdin.close()
        assert one.wait() == 0
    return {server.pid: "server", client.pid: "client"}


def start(*words: str) -> "subprocess.Popen[str]":
    """Start an end; wait for its line, if it prints one before it exits."""
    command = [sys.executable, __file__, *words]
    one = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert one.stdout is not None
    one.stdout.readline()
    return one


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; what is found afterwards says whether it did."""
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


def read_traffic() -> list[dict[str, Any]]:
    """Return the traffic records so far."""
    whole, _, _ = RECORDS.read_text().rpartition("\n") if RECORDS.exists() else ("", "", "")
    records = map(json.loads, whole.splitlines())
    return [one for one in records if one["type"] == "traffic"]


def sum_moved(names: dict[int, str] | None = None) -> Counter[str]:
    """Return the bytes of the records by process and direction."""
    sums: Counter[str] = Counter()
    for one in read_traffic():
        name = (names or {}).get(one.get("process", {}).get("pid"), "other")
        for direction, tally in one["network"]["io"].items():
            sums[f"{name} {direction}"] += tally["bytes"]
    return +sums


def sum_qualities() -> Counter[str]:
    """Return the bytes of the records by quality."""
    sums: Counter[str] = Counter()
    for one in read_traffic():
        sums.update(one["attribution"])
    return sums


CHECKS: dict[str, Callable[[], Any]] = {
    "doctor": check_doctor,
    "verifier": check_verifier,
    "ledger": check_way('interfaces = ["lo"]', 'ledger = "on"', "short"),
    "ebpf": check_way('source = "ebpf"', "", "short"),
    "payload": check_payload,
    "procfs": check_way('interfaces = ["lo"]', 'ledger = "off"\nhold = 60', "kept"),
}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(main())
    code = 1
    try:
        code = main()
    except BaseException:  # noqa: BLE001 - the host shows it
        traceback.print_exc()
    with suppress(OSError):
        print(MARK, "exit", code, flush=True)
    switch_off()
