"""Writing so that a file under its final name is always whole, and holding a folder so that one process works in it."""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from r2plus1d.errors import UserError


class BusyError(UserError):
    """Another process is at work on the same outputs."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; takes the place of `path` when the block ends without an error.

    No other writer of `path` has that name, on this machine or another with the same folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """None where there is no such file, or one torn by a machine that stopped."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


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
def held(folder: Path) -> Iterator[Path]:
    """Creates a work folder and locks it until the block ends; the lock dies with the process, its empty file stays.

    Raises BusyError where another process, such as the orphaned child of a killed run, holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock_path = folder.with_name(folder.name + ".lock")
    with open(lock_path, "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise BusyError(
                f"{folder} is in use by process {holder}; wait for it, or end it with: kill {holder.split()[0]}"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield folder


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
