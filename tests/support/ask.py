"""Python, as far as a caller sees, that is a fork of a process of `warm`: python -IS ask.py ADDRESS WORDS...

What a fork cannot be, such as a Python with options or other variables, becomes a fresh process.
"""

import contextlib
import json
import os
import signal
import socket
import sys

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(address: str, *words: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        try:
            if os.getsid(0) == os.getpid():  # who leads a session is ended with all that it started
                raise ValueError
            channel.connect(address)
            call = json.dumps([words, os.getcwd(), dict(os.environ)]).encode()
            socket.send_fds(channel, [call], [0, 1, 2])
            fork = int(channel.recv(64))
        except (OSError, ValueError):  # nobody forks any more, or this is no call for a fork
            os.execv(sys.executable, [sys.executable, *words])

        def forward(number: int, _: object) -> None:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.kill(fork, number)

        for number in ENDING:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, forward)
        answer = channel.recv(64)
    if not answer:
        forward(signal.SIGKILL, None)
        sys.exit("the process that forks has ended")
    status = os.waitstatus_to_exitcode(int(answer))
    if status < 0:
        if -status in ENDING:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


if __name__ == "__main__":
    main(*sys.argv[1:])
