"""On the PYTHONPATH, this ends a Python process that looks up a name or connects to anything but a Unix socket.

OFFLINE=but-this-machine lets it connect to this machine. Ends it, rather than raises: an error could be swallowed.
"""

import os
import sys

HERE = ("127.0.0.1", "::1", "localhost", "", None, os.uname().nodename)
LOCAL = HERE if os.environ.get("OFFLINE") == "but-this-machine" else ()
HOST = {  # event: its argument that names the other side
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
    "socket.gethostbyaddr": 0,
    "socket.getnameinfo": 0,
}


def watch(event: str, arguments: tuple) -> None:
    if event in HOST:
        place = arguments[HOST[event]]
        if isinstance(place, str | bytes) and not event.startswith("socket.get"):
            return  # the path of a Unix socket
        host = place[0] if isinstance(place, tuple) else place
        if place is not None and host not in LOCAL:
            os.write(2, f"network: {event} {place!r} by {' '.join(sys.argv)}\n".encode())
            os._exit(86)


sys.addaudithook(watch)
