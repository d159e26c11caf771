"""Servers of this machine for itself."""

import contextlib
import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def started(server: http.server.HTTPServer) -> Iterator[None]:
    """It serves meanwhile, and ends at once: it looks every hundredth of a second whether it is to."""
    with server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield
        server.shutdown()


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of the folder."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    with started(server):
        yield f"http://127.0.0.1:{server.server_port}"
