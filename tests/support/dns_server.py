"""A DNS server that answers from a table, over UDP and TCP: `python -m support.dns_server ADDRESS`.

Names are below example.test:
    aN, aN.x.y      the address 10.53.1.N, and fd53::N
    cname-aN        an alias of aN, over one more
    big-aN          aN, but over UDP only that the answer is too long (TC)
    none            no address
The name of the address 10.53.1.N is rN.reverse.test; fd53::N and 10.53.0.N have none.
It prints a line once it listens, and serves until it is ended.
"""

import re
import socket
import struct
import sys
import threading

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

_HOST = re.compile(r"^(cname-|big-)?a(\d+)[.]")
_POINTER = re.compile(r"^(\d+)[.]1[.]53[.]10[.]in-addr[.]arpa[.]$")
TTL = 0


def answer(query: bytes, *, over_tcp: bool) -> bytes:
    """Return the answer to a query."""
    asked = dns.message.from_wire(query)
    reply = dns.message.make_response(asked, recursion_available=True)
    question = asked.question[0]
    pointer = _POINTER.match(question.name.to_text())
    if pointer is not None and question.rdtype == dns.rdatatype.PTR:
        name = f"r{pointer[1]}.reverse.test."
        reply.answer.append(dns.rrset.from_text(question.name, TTL, "IN", "PTR", name))
        return reply.to_wire()
    found = _HOST.match(question.name.to_text())
    if found is None:
        reply.set_rcode(dns.rcode.NXDOMAIN)
        return reply.to_wire()
    kind, number = found[1], int(found[2])
    if kind == "big-" and not over_tcp:
        reply.flags |= dns.flags.TC
        return reply.to_wire()
    owner = question.name
    if kind == "cname-":
        for target in ("middle.example.test.", f"a{number}.cdn.test."):
            reply.answer.append(dns.rrset.from_text(owner, TTL, "IN", "CNAME", target))
            owner = reply.answer[-1][0].target
    addresses = {"A": f"10.53.1.{number}", "AAAA": f"fd53::{number}"}
    address = addresses.get(dns.rdatatype.to_text(question.rdtype))
    if address is not None:
        kind = dns.rdatatype.to_text(question.rdtype)
        reply.answer.append(dns.rrset.from_text(owner, TTL, "IN", kind, address))
    return reply.to_wire()


def serve_datagrams(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as server:
        server.bind((address, 53))
        print("listening", file=sys.stderr, flush=True)
        while True:
            query, client = server.recvfrom(4096)
            server.sendto(answer(query, over_tcp=False), client)


def serve_connections(server: socket.socket) -> None:
    while True:
        connection, _ = server.accept()
        with connection, connection.makefile("rwb") as stream:
            while len(size := stream.read(2)) == 2:
                reply = answer(stream.read(*struct.unpack("!H", size)), over_tcp=True)
                # In two segments: the length, and the message.
                connection.sendall(struct.pack("!H", len(reply)))
                connection.sendall(reply)


def main(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.create_server((address, 53), family=family)
    threading.Thread(target=serve_connections, args=(server,), daemon=True).start()
    serve_datagrams(address)


if __name__ == "__main__":
    main(sys.argv[1])
