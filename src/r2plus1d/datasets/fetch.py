"""Files from the network: kept in a folder, resumed after an interruption, verified.

Only https, with certificates verified; plain http for servers on this machine alone.
"""

import hashlib
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from r2plus1d.system.errors import UserError, one_line, redacted
from r2plus1d.system.files import held, naming, read_json, sha256, write_json, write_text
from r2plus1d.system.progress import progress, say

ATTEMPTS = 6  # in a row that bring nothing
PAUSE = 1.0  # seconds after the first of them; doubled after each
CHUNK = 1 << 16  # what a connection that is reset may lose
TIMEOUT = (10, 60)  # seconds to connect, and without a byte
MOST_BYTES = 1 << 38  # of one file; a server may send without end
NO_ADDRESS = (
    "Failed to resolve",
    "Name or service not known",
    "Temporary failure in name resolution",
)  # of urllib3, libc
LOCAL = ("localhost", "127.0.0.1", "::1")
PASSING = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)

Result = TypeVar("Result")
Arrived = Callable[[int], None]  # is told how many bytes came, those of an earlier call at once; thrown away: below 0


class FetchError(UserError):
    """A file that could not be fetched, or is not the one expected. The message tells no password or signature."""

    def __init__(self, text: str):
        super().__init__(redacted(text))


class RefusedError(FetchError):
    """A file that the server does not have, or does not give."""


def sha256_prefix(url: str) -> str | None:
    """The hexadecimal digits that end a published file's name, such as `aa94765e` of `..._20200729-aa94765e.pth`.

    A date, such as in `model-20200729.pth`, is none.
    """
    found = re.search(r"-([0-9a-f]{8,64})\.\w+$", urlsplit(url).path)
    date = found and re.fullmatch(r"(19|20)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])", found[1])
    return found[1] if found and not date else None


def fetch(url: str, folder: Path, arrived: Arrived | None = None) -> Path:
    """The path of the file in `folder`; it is fetched only where it is not there yet.

    Goes on after the bytes that an interrupted call left, where they surely belong to the same file: a name with a
    SHA-256 is checked at the end, and for other names the server has to give an ETag or a date, which `If-Range` asks
    for again; such a file has a folder of its own for each address, and its SHA-256 is kept with it for later calls.
    Where there is neither, it is fetched in one call or from its start. Waits for another process that fetches the
    same file. `arrived` takes the place of a progress bar; what it raises ends the call, and the bytes are kept. Raises
    FetchError where the server cannot be reached or refuses, and where the file's SHA-256 does not begin as its name
    says.
    """
    name, prefix = Path(urlsplit(url).path).name, sha256_prefix(url)
    if prefix is None:
        folder /= hashlib.sha256(url.encode()).hexdigest()[:16]
    final, work = folder / name, folder / f".{name}.part"
    if _is_whole(final, prefix, arrived):
        return final
    with held(folder / f".{name}.part.lock", str(final), lambda: _wait(PAUSE, arrived)):
        if _is_whole(final, prefix, arrived):  # by the process that this one waited for
            return final
        work.mkdir(exist_ok=True)
        partial = work / "content"
        if prefix is None and "If-Range" not in _version(partial):
            partial.unlink(missing_ok=True)
        if arrived is not None:
            arrived(_size(partial))
        _persist(url, lambda session: _append(session, url, partial, name, arrived), lambda: _size(partial), arrived)
        found = sha256(partial)
        if prefix is not None and not found.startswith(prefix):
            _throw_away(partial, arrived)
            raise FetchError(
                f"{url}: the SHA-256 of what came begins with {found[: len(prefix)]}, not with {prefix} as the name "
                "says; it was thrown away. Try again"
            )
        if prefix is None:
            write_text(_digest_of(final), f"{found}  {name}\n")  # first: a file under its final name has its SHA-256
        partial.replace(final)
        shutil.rmtree(work)
    return final


def _is_whole(final: Path, prefix: str | None, arrived: Arrived | None) -> bool:
    whole = final.is_file() and sha256(final).startswith(prefix or recorded_sha256(final) or "")
    if whole and arrived is not None:
        arrived(_size(final))
    return whole


def fetch_read(url: str, folder: Path, read: Callable[[Path], Result]) -> Result:
    """`read(path)` of the file. Where that raises a UserError the file is not kept: it may be a page of errors, and the
    next call fetches it again."""
    path = fetch(url, folder)
    try:
        return read(path)
    except UserError:
        path.unlink(missing_ok=True)
        raise


def recorded_sha256(path: Path) -> str | None:
    """What `fetch` noted when `path` was whole; None for files that carry their SHA-256 in the name."""
    note = _digest_of(path)
    return note.read_text(encoding="utf-8").split()[0] if note.is_file() else None


def remote_size(url: str) -> int | None:
    """Bytes of the file at `url`, without fetching it; None where the server does not say. Raises FetchError."""

    def ask(session: requests.Session) -> int | None:
        headers = {"Accept-Encoding": "identity"}
        with session.head(url, headers=headers, allow_redirects=True, timeout=TIMEOUT) as response:
            if response.status_code in (405, 501):
                return None
            _check(response, url)
            return _length(response)

    return _persist(url, ask, lambda: 0, None)


def _persist(
    url: str, attempt: Callable[[requests.Session], Result], reached: Callable[[], int], arrived: Arrived | None
) -> Result:
    """The first result of `attempt`, over as many connections as that takes; `reached` says how far one got."""
    failures, furthest = 0, reached()
    with requests.Session() as session:
        session.mount("http://", _OnlyHere(url))  # also where a server redirects to
        while True:
            try:
                return attempt(session)
            except requests.exceptions.InvalidSchema as error:
                if "SOCKS" in str(error):
                    raise FetchError(
                        f"{url}: a SOCKS proxy is set (ALL_PROXY or HTTPS_PROXY), which needs a package: pip install "
                        "'requests[socks]'; or set an http:// proxy"
                    ) from error
                raise FetchError(f"{url}: only https is fetched from ({error})") from error
            except PASSING as error:  # also an SSLError: a connection cut in the handshake may work the next time
                if isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
                    raise FetchError(f"{url}: the server's certificate is not accepted: {error}") from error
                failures, furthest = 0 if reached() > furthest else failures + 1, max(furthest, reached())
                if failures == ATTEMPTS:
                    raise FetchError(
                        f"{url}: {_reason(error)}; gave up after {ATTEMPTS} attempts, {reached()} bytes are kept. Run "
                        "the same command again to go on"
                    ) from error
                if arrived is None and failures == 1:
                    say(f"{_server(url)}: {_reason(error)}; it is tried {ATTEMPTS - 1} times more")
                _wait(PAUSE * 2**failures, arrived)
            except (requests.RequestException, ValueError) as error:  # endless redirects, addresses that are none
                raise FetchError(f"{url}: {one_line(error)}") from error


def _server(url: str) -> str:
    """Its name and port, without a user's name and password."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _reason(error: requests.RequestException) -> str:
    """What is below the names of the libraries' classes: that a name has no address, or what the system said."""
    inner = error.args[0] if error.args else error
    reason = getattr(inner, "reason", None) or inner
    if isinstance(error, requests.exceptions.ProxyError):
        text = str(getattr(reason, "original_error", reason))
        through = "not reached through the proxy that is set (HTTPS_PROXY, HTTP_PROXY or ALL_PROXY)"
        return f"{through}: {one_line(text.partition('): ')[2] or text)}"
    text = str(reason)
    if any(words in text for words in NO_ADDRESS):
        return "the server's name has no address (is there a network?)"
    return one_line(text.partition("): ")[2] or text)


def _append(session: requests.Session, url: str, partial: Path, name: str, arrived: Arrived | None) -> None:
    """One connection: adds to `partial` until the server has no more. Raises one of PASSING where another may help."""
    kept, version = _size(partial), _version(partial)
    if "If-Range" in version and kept == version["bytes"]:
        return  # whole: the last call ended before it could say so
    headers = {"Accept-Encoding": "identity"}
    if kept:
        headers |= {"Range": f"bytes={kept}-"} | {key: version[key] for key in ("If-Range",) if key in version}
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == 416:  # nothing after what is kept: whole, or another file's
            if "If-Range" not in version and response.headers.get("Content-Range") == f"bytes */{kept}":
                return
            _throw_away(partial, arrived)
            raise requests.ConnectionError("the file kept from before does not fit the server's")
        _check(response, url)
        if response.status_code == 206:
            _check_rest(response, partial, kept, version, arrived)
        elif kept:
            _throw_away(partial, arrived)  # another file since, or a server that cannot send a rest
            kept = 0
        if not kept:
            length = _length(response)
            tied = {} if length is None else _tie(response)
            write_json(_note(partial), tied | {"bytes": length})
        total = None if (length := _length(response)) is None else length + kept
        response.raw.headers.discard("Content-Encoding")  # the bytes as they are stored: lengths and ranges count those
        chunks = response.iter_content(CHUNK)
        with naming(partial), open(partial, "ab") as file:
            for chunk in progress(chunks, total, f"fetching {name}", "B", len, kept) if arrived is None else chunks:
                kept += len(chunk)
                if kept > MOST_BYTES:
                    raise RefusedError(f"{url}: more than {MOST_BYTES} bytes; nothing more of it is fetched")
                file.write(chunk)
                if arrived is not None:
                    arrived(len(chunk))


def _check(response: requests.Response, url: str) -> None:
    status = response.status_code
    if status in (429, *range(500, 600)):
        raise requests.ConnectionError(f"HTTP status {status}")
    if status not in (200, 206):
        raise RefusedError(f"{url}: HTTP status {status} {response.reason}")


def _check_rest(response: requests.Response, partial: Path, kept: int, version: dict, arrived: Arrived | None) -> None:
    """That what comes is the rest of what is kept, also from a server that knows no If-Range."""
    place = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", response.headers.get("Content-Range", ""))
    tie = version.get("If-Range")
    same = tie is None or _tie(response).get("If-Range", tie) == tie
    if place and version.get("bytes") is not None and place[2] != "*":
        same = same and int(place[2]) == version["bytes"]
    if not (place and int(place[1]) == kept and same):
        _throw_away(partial, arrived)
        raise requests.ConnectionError("the server sent another part than was asked for")


def _tie(response: requests.Response) -> dict:
    """The header that asks for a rest only of the very same file."""
    tag = response.headers.get("ETag", "W/")
    tie = response.headers.get("Last-Modified") if tag.startswith("W/") else tag  # a weak one says nothing about bytes
    return {} if tie is None else {"If-Range": tie}


def _length(response: requests.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def _throw_away(partial: Path, arrived: Arrived | None) -> None:
    if arrived is not None:
        arrived(-_size(partial))
    partial.unlink(missing_ok=True)
    _note(partial).unlink(missing_ok=True)


def _wait(seconds: float, arrived: Arrived | None) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if arrived is not None:
            arrived(0)  # may end the call
        time.sleep(min(left, 1))


class _OnlyHere(HTTPAdapter):
    """Plain http, for servers on this machine; no other server leads there."""

    def __init__(self, url: str):
        super().__init__()
        self._allowed = LOCAL if urlsplit(url).scheme == "http" else ()

    def send(self, request, *args, **options):
        if urlsplit(request.url).hostname not in self._allowed:
            raise requests.exceptions.InvalidSchema(request.url)
        return super().send(request, *args, **options)


def _digest_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _note(partial: Path) -> Path:
    return partial.with_name("version.json")


def _version(partial: Path) -> dict:
    """Which file of the server `partial` is a beginning of; empty where that is not known."""
    return read_json(_note(partial)) or {} if partial.is_file() else {}


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
