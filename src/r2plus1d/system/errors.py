"""The errors that a user can mend: stages print them as one line, with the way out."""

import errno
import re

WAYS_OUT = {
    errno.ENOSPC: "free some disk space",
    errno.EDQUOT: "free some of your disk quota",
    errno.EROFS: "make the folder writable",
    errno.EACCES: "give this user access",
    errno.EPERM: "give this user access",
    errno.EIO: "the disk or the network to it fails",
    errno.ESTALE: "the disk or the network to it fails",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "this system has as many files open as it may: close some programs",
    errno.ENOMEM: "free some memory",
}

MACHINE = WAYS_OUT.keys() - {errno.EACCES, errno.EPERM, errno.EROFS}  # faults that no file has of itself

READER_LOST = (
    "a worker process was killed, most likely by the system because memory ran out (dmesg may say so), or in a "
    "container /dev/shm (docker run --shm-size=2g gives it more); what is finished is kept: lower "
    "machine.workers in params.yaml and run the same command again"
)


class UserError(Exception):
    """Something outside the code is wrong; the message names it and the way out."""


def one_line(error: BaseException | str, most: int = 500) -> str:
    """What an error says, on one line of at most so many characters; its type where it says nothing."""
    text = getattr(error, "strerror", None) or str(error)
    return printable(" ".join(text.split())[:most]) or type(error).__name__


def printable(text: str) -> str:
    """Text of lines that a terminal shows and does not obey: of outside data any character may come."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


SECRETS = re.compile(r"(?<=//)[^/\s?#]+@|(?<=[?&#])([^=&\s]+)=[^&\s'\")]+")


def redacted(text: str) -> str:
    """Without what addresses in it keep for themselves: a user with a password, and the values of a query, where
    signatures stand."""
    return SECRETS.sub(lambda match: f"{match[1]}=..." if match[1] else "", text)


def explained(error: BaseException) -> str | None:
    """The line that names an error outside the code and the way out; None for others, which are the code's own."""
    text = str(error)
    if isinstance(error, UserError):
        return text
    if isinstance(error, OSError):
        way_out = WAYS_OUT.get(error.errno or 0)
        file = error.filename2 or error.filename
        place = f"{file}: {error.strerror}" if file and error.strerror else text
        return f"{place}; {way_out}, then run the same command again: what is finished is kept" if way_out else text
    # Of a DataLoader, as soon as a reader process is gone, whatever the main process is at.
    if isinstance(error, RuntimeError) and ("DataLoader worker (pid" in text or "shared memory" in text):
        return READER_LOST
    # Of torch: a RuntimeError on the CPU, OutOfMemoryError on CUDA. Named by their text, since torch loads slowly.
    out_of_memory = isinstance(error, RuntimeError) and ("allocate" in text or "out of memory" in text)
    if isinstance(error, MemoryError) or out_of_memory:
        first_line = f" ({text.strip().splitlines()[0][:200]})" if text.strip() else ""
        return (
            f"memory ran out{first_line}; in params.yaml lower train.videos_per_gpu for a training or benchmark, "
            "test.clips or test.crops for a test, or machine.workers; what is finished is kept"
        )
    return None


class ConfigError(UserError, ValueError):
    """A value in params.yaml that cannot be used; the message names the key, the value and the way out."""


class FrameError(UserError):
    """Frames, packed or loose, that are missing or do not fit their index."""
