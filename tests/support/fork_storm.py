"""Forks as fast as it can: each child sends one datagram and exits. Prints the number a second.

The argument is the number of children.
"""

import os
import signal
import socket
import sys
import time

PORT = 7540
PAYLOAD = bytes(100)


def main(children: int) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # several may run
        receiver.bind(("127.0.0.1", PORT))
        print("ready", flush=True)
        sys.stdin.readline()
        began = time.monotonic()
        for _ in range(children):
            if os.fork() == 0:
                sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                sender.sendto(PAYLOAD, ("127.0.0.1", PORT))
                os._exit(0)
        print(round(children / (time.monotonic() - began)), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
