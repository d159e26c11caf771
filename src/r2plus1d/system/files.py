"""Writing so that a file under its final name is always whole, and locks so that one process alone is at work."""

import contextlib
import datetime
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from r2plus1d.system.errors import UserError

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of file systems without locks, such as some over a network


class BusyError(UserError):
    """Another process is at work on the same outputs."""


@contextlib.contextmanager
def replacing(path: Path, rivals: bool = False) -> Iterator[Path]:
    """A name in the folder of `path` to write to; takes the place of `path` when the block ends without an error.

    The name is always the same, so that the next writer clears what a killed one left. With `rivals`, writers of `path`
    at the same time, on this machine or another with the same folder, have a name each; `remove_partials` clears those.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tag = secrets.token_hex(4) if rivals else hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]
    partial = path.with_name(f".{path.name[:40]}.{tag}.part")  # a name has 255 bytes at most
    try:
        with naming(path):
            yield partial
            with open(partial, "rb") as written:
                os.fsync(written.fileno())  # or a power cut may leave an empty file under the final name
            os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Gives an error of the disk, such as a full one, the file's name: for a write, Python leaves it out."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
            error.filename = str(path)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """None where there is no such file, or one torn by a machine that stopped."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def must_read_json(path: Path) -> Any:
    """Raises UserError, with the way out, for a file that is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or 'no JSON'}; run `dvc repro`") from error


def remove_partials(folder: Path) -> None:
    """Clears what writers that were killed in a `replacing` block left below `folder`."""
    for partial in folder.rglob(".*.part"):
        partial.unlink(missing_ok=True)


def replace_folder(work: Path, final: Path) -> None:
    """Moves a finished folder to its final name, in place of what was there."""
    if final.is_symlink() or final.is_file():
        final.unlink()
    elif final.exists():
        shutil.rmtree(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    os.replace(work, final)


@contextlib.contextmanager
def held(lock: Path, what: str, wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Locks the file `lock` until the block ends; the lock dies with the process, the file stays.

    Where another process holds it, calls `wait` until it does no longer. Without one it raises BusyError, with the
    process, since when, and on which machine.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "a+", encoding="utf-8") as file:
        told = False
        while not _locked(file, lock, what):
            if wait is None:
                raise BusyError(f"{what} is busy: {_holder(lock)}")
            if not told:
                print(f"{what} is busy: {_holder(lock, way_out=False)}; waiting", file=sys.stderr, flush=True)
            told = True
            wait()
        since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        with naming(lock):
            file.truncate(0)
            json.dump({"process": os.getpid(), "machine": socket.gethostname(), "since": since}, file)
            file.flush()
        yield


def _locked(file: IO, lock: Path, what: str) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        print(f"{lock}: no locks on this file system; see to it that nobody else runs {what}", file=sys.stderr)
    return True


def _holder(lock: Path, way_out: bool = True) -> str:
    if (noted := read_json(lock)) is None:
        return f"another process has just started{'; try again' if way_out else ''}"
    number = noted["process"]
    place = f"process {number} on {noted['machine']} since {noted['since']}"
    return f"{place}; wait for it, or end it there with: kill {number}" if way_out else place


def sha256(path: Path) -> str:
    """Of the file's content, in hexadecimal digits."""
    with open(path, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def digest(files: Iterable[Path], *texts: str) -> str:
    """A short name for the content of several files and for the texts, in order."""
    whole = hashlib.sha256()
    for file in files:
        whole.update(hashlib.sha256(file.read_bytes()).digest())
    for text in texts:
        whole.update(hashlib.sha256(text.encode()).digest())
    return whole.hexdigest()[:12]
