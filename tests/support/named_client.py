"""Opens connections to names, by libc: `python named_client.py PORT NAME...`.

It prints a JSON object for each connection: local port, address of the peer, and name.
"""

import json
import os
import socket
import sys


def main(port: int, names: list[str]) -> None:
    for name in names:
        with socket.create_connection((name, port)) as connection:
            connection.sendall(b"x" * 100)
            while connection.recv(1000):
                pass
            local, peer = connection.getsockname(), connection.getpeername()
            found = {"pid": os.getpid(), "port": local[1], "address": peer[0], "name": name}
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
