"""Files from the network: kept in a cache, resumed after an interruption, verified.

Only https, with certificates verified; plain http for servers on this machine alone.
"""

import hashlib
import re
import shutil
import time
from pathlib import Path
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from r2plus1d.errors import UserError
from r2plus1d.files import held, sha256
from r2plus1d.progress import progress

ATTEMPTS = 6  # in a row that bring nothing
PAUSE = 1.0  # seconds after the first of them; doubled after each
CHUNK = 1 << 20
TIMEOUT = (10, 60)  # seconds to connect, and without a byte
LOCAL = ("localhost", "127.0.0.1", "::1")
PASSING = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


class FetchError(UserError):
    """A file that could not be fetched, or is not the one expected."""


def sha256_prefix(url: str) -> str | None:
    """The hexadecimal digits that end a published file's name, such as `aa94765e` of `..._20200729-aa94765e.pth`.

    A date, such as in `model-20200729.pth`, is none.
    """
    found = re.search(r"-([0-9a-f]{8,64})\.\w+$", urlsplit(url).path)
    date = found and re.fullmatch(r"(19|20)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])", found[1])
    return found[1] if found and not date else None


def fetch(url: str, folder: Path) -> Path:
    """The path of the file in `folder`; it is fetched only where it is not there yet.

    Goes on after the bytes that an interrupted call left. A name without a SHA-256 says nothing about the content: such
    a file has a folder of its own for each address, and is fetched in one call or from its start. Raises FetchError
    where the server cannot be reached or refuses, and where the file's SHA-256 does not begin as its name says.
    """
    name, prefix = Path(urlsplit(url).path).name, sha256_prefix(url)
    if prefix is None:
        folder /= hashlib.sha256(url.encode()).hexdigest()[:16]
    final = folder / name
    if final.is_file() and sha256(final).startswith(prefix or ""):
        return final
    with held(folder / f".{name}.part") as work:
        partial = work / "content"
        if prefix is None:
            partial.unlink(missing_ok=True)
        _receive(url, partial, name)
        found = sha256(partial)
        if not found.startswith(prefix or ""):
            partial.unlink()
            raise FetchError(
                f"{url}: the SHA-256 of what came begins with {found[: len(prefix)]}, not with {prefix} as the name "
                "says; it was thrown away. Try again, or give the path of a good copy"
            )
        partial.replace(final)
        shutil.rmtree(work)
    return final


def _receive(url: str, partial: Path, name: str) -> None:
    """Appends to `partial` until the server has no more, over as many connections as that takes."""
    failures = 0
    with requests.Session() as session:
        session.mount("http://", _OnlyHere())  # also where a server redirects to
        while True:
            before = _size(partial)
            try:
                return _append(session, url, partial, name)
            except requests.exceptions.InvalidSchema as error:
                raise FetchError(f"{url}: only https is fetched from ({error})") from error
            except requests.exceptions.SSLError as error:
                raise FetchError(f"{url}: the server's certificate or encryption is not accepted: {error}") from error
            except PASSING as error:
                failures = 0 if _size(partial) > before else failures + 1
                if failures == ATTEMPTS:
                    raise FetchError(
                        f"{url}: {error}; gave up after {ATTEMPTS} attempts, {_size(partial)} bytes are kept. Run the "
                        "same command again to go on, or fetch the file yourself and give its path"
                    ) from error
                time.sleep(PAUSE * 2**failures)


def _append(session: requests.Session, url: str, partial: Path, name: str) -> None:
    """One connection. Raises one of PASSING where another may go further."""
    kept = _size(partial)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={kept}-"} if kept else {})
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        status = response.status_code
        if status == 416:  # nothing after what is kept: whole, or another file's
            if response.headers.get("Content-Range") == f"bytes */{kept}":
                return
            partial.unlink()
            raise requests.ConnectionError("the file kept from before is longer than the server's")
        if status in (429, *range(500, 600)):
            raise requests.ConnectionError(f"HTTP status {status}")
        if status not in (200, 206):
            raise FetchError(f"{url}: HTTP status {status} {response.reason}")
        if status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {kept}-"):
            partial.unlink(missing_ok=True)
            raise requests.ConnectionError("the server sent another part than was asked for")
        kept = kept if status == 206 else 0
        total = int(response.headers["Content-Length"]) + kept if "Content-Length" in response.headers else None
        with open(partial, "ab" if kept else "wb") as file:
            for chunk in progress(response.iter_content(CHUNK), total, f"fetching {name}", "B", len, kept):
                file.write(chunk)


class _OnlyHere(HTTPAdapter):
    """Plain http, for servers on this machine."""

    def send(self, request, **options):
        if urlsplit(request.url).hostname not in LOCAL:
            raise requests.exceptions.InvalidSchema(request.url)
        return super().send(request, **options)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
