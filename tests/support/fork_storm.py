"""Forks as fast as it can: each child sends one datagram and exits. Prints the number a second.

The argument is the number of children. When the number is printed, all of them have exited: the
last ones send later than they are forked.
"""

import os
import signal
import socket
import sys
import time
from contextlib import suppress

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
        seconds = time.monotonic() - began
        with suppress(ChildProcessError):  # how wait(2) ends where the kernel reaps
            os.wait()
        print(round(children / seconds), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
