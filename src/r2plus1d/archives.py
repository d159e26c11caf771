"""Unpacking archives that came over the network: .tar.gz, .tar, .zip and .rar, one member after the other.

Only plain files are taken, and each lands where the caller says, never where its own name points: what lies outside,
links and devices are passed over with a reason. Sizes are bounded, since videos and lists of names hardly compress.
"""

import contextlib
import gzip
import hashlib
import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from r2plus1d.errors import UserError
from r2plus1d.files import replacing

MEMBERS = 1_000_000  # at most in one archive
MEMBER_BYTES = 2 << 30  # at most in one file
GROWTH, SLACK = 10, 1 << 30  # all files of an archive have at most GROWTH times its bytes, and SLACK
CHUNK = 1 << 20
LONGEST_READ = 16 << 20  # bytes; tarfile reads a header of any announced length at once

Sink = Callable[[bytes], object]


class ArchiveError(UserError):
    """An archive that is damaged, or whose content is out of all proportion."""


class ReaderError(UserError):
    """A kind of archive that cannot be read on this machine."""


class DamageError(Exception):
    """UnRAR's errors, which exist only where it is installed."""


DAMAGE = (
    DamageError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    gzip.BadGzipFile,
    NotImplementedError,
)


@dataclass(frozen=True)
class Member:
    name: str
    size: int  # in bytes, as announced
    odd: str | None  # why it is no plain file below the archive's root
    copy: Callable[[Sink], object]  # hands the content over, piece by piece; before the next member is asked for


def unpack(
    archive: Path, place: Callable[[str], Path | None]
) -> tuple[dict[str, tuple[int, str]], list[tuple[str, str]]]:
    """Writes the members for which `place(name)` is a path.

    Returns (bytes, SHA-256) of all plain files by name, in the archive's order, with an empty SHA-256 for those not
    taken; and (name, reason) of the members passed over. Raises ArchiveError; what was written until then is whole.
    """
    found: dict[str, tuple[int, str]] = {}
    odd = []
    most = SLACK + GROWTH * archive.stat().st_size
    written = 0
    for count, member in enumerate(members(archive), 1):
        if count > MEMBERS:
            raise ArchiveError(f"{archive}: more than {MEMBERS} members; nothing more of it is unpacked")
        if member.odd:
            odd.append((member.name if member.name.isprintable() else ascii(member.name), member.odd))
            continue
        if not 0 <= member.size <= min(MEMBER_BYTES, most - written):
            raise ArchiveError(f"{archive}: {member.name!r} has {member.size} bytes; nothing more of it is unpacked")
        target = None if member.name in found else place(member.name)
        found.setdefault(member.name, (member.size, ""))
        if target is not None:
            found[member.name] = member.size, _write(member, target, archive)
            written += member.size
    return found, odd


def read_texts(archive: Path) -> dict[str, str]:
    """The content of all plain files by name. Raises ArchiveError."""
    texts = {}
    for member in members(archive):
        if member.odd is None and member.size < LONGEST_READ:
            content = io.BytesIO()
            with _damage_named(archive):
                member.copy(content.write)
            texts[member.name] = content.getvalue().decode("utf-8", "replace")
    return texts


def members(archive: Path) -> Iterator[Member]:
    """All members but folders and what macOS adds (`._name`), in order. Raises ArchiveError where it is damaged."""
    with open(archive, "rb") as file:
        start = file.read(4)
    kind = {b"Rar!": _rar, b"PK\3\4": _zip}.get(start, _tar)
    with _damage_named(archive):
        for member in kind(archive):
            if not PurePosixPath(member.name).name.startswith("._"):
                yield member


@contextlib.contextmanager
def _damage_named(archive: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise ArchiveError(f"{archive}: damaged, or no archive ({error})") from error


def _write(member: Member, target: Path, archive: Path) -> str:
    digest, size = hashlib.sha256(), 0
    with replacing(target) as partial, open(partial, "wb") as file:

        def write(chunk: bytes) -> None:
            nonlocal size
            size += len(chunk)
            if size <= member.size:
                file.write(chunk)
                digest.update(chunk)

        with _damage_named(archive):
            member.copy(write)
        if size != member.size:
            raise ArchiveError(f"{archive}: {member.name!r} has {size} bytes instead of {member.size}")
    return digest.hexdigest()


def _tar(archive: Path) -> Iterator[Member]:
    with open(archive, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"  # some servers unpack what they send, whatever its name
    opened = gzip.open if packed else open
    with opened(archive, "rb") as plain, tarfile.open(fileobj=(reads := _ShortReads(plain)), mode="r:") as tar:
        for info in tar:
            tar.members.clear()  # tarfile would keep every member in memory
            if not info.isdir():
                odd = _outside(info.name) or (None if info.isfile() and not info.issparse() else "not a plain file")
                yield Member(info.name, info.size, odd, lambda sink, info=info: _pump(tar.extractfile(info), sink))
        if reads.last.strip(b"\0"):  # tarfile takes a header that it cannot read for the end
            raise tarfile.ReadError("a damaged header")
        if len(plain.read(LONGEST_READ)) == LONGEST_READ:  # to the end, since only there gzip compares its checksum
            raise tarfile.ReadError("more after its end")


def _zip(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as content:
        for info in content.infolist():
            if not info.is_dir():
                odd = _outside(info.filename) or ("encrypted" if info.flag_bits & 1 else None)
                yield Member(
                    info.filename, info.file_size, odd, lambda sink, info=info: _pump(content.open(info), sink)
                )


def _rar(archive: Path) -> Iterator[Member]:
    try:
        from unrar.cffi import unrarlib  # noqa: PLC0415  (there is no wheel for every machine)
    except ImportError as error:
        raise ReaderError(
            f"{archive}: reading .rar needs UnRAR; install it with: pip install unrar2-cffi (on this kind of machine "
            "that takes a C++ compiler)"
        ) from error
    try:
        content = unrarlib.RarArchive.open_for_processing(archive)
    except unrarlib.BadRarFile as error:
        raise DamageError(error) from error
    with content:
        for header in content.iterate_headers():
            copied = []

            def copy(sink: Sink, header=header, copied=copied) -> None:
                guarded = _Guarded(sink)
                copied.append(True)
                try:
                    header.test(guarded)  # decompresses and checks, but writes nothing itself
                except unrarlib.BadRarFile as error:
                    raise DamageError(error) from error
                guarded.end()

            if not header.Flags & unrarlib.FLAGS_RHDF_DIRECTORY:
                name = header.FileNameW.replace("\\", "/")
                yield Member(name, header.UnpSize + (header.headerDataEx.UnpSizeHigh << 32), _outside(name), copy)
            if not copied:
                header.skip()


def _pump(content: io.BufferedIOBase, sink: Sink) -> None:
    with content:
        while chunk := content.read(CHUNK):
            sink(chunk)


def _outside(name: str) -> str | None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        return "its path leads out of the archive"
    return None if name.isprintable() else "control characters in its name"


class _Guarded:
    """A sink called from C, which would lose its errors."""

    def __init__(self, sink: Sink):
        self._sink, self._error = sink, None

    def __call__(self, chunk: bytes) -> None:
        try:
            if self._error is None:
                self._sink(chunk)
        except BaseException as error:  # an interruption too
            self._error = error

    def end(self) -> None:
        if self._error is not None:
            raise self._error


class _ShortReads(io.RawIOBase):
    """A file that refuses to be read in pieces so long that a header could fill the memory."""

    def __init__(self, file: io.BufferedIOBase):
        self._file, self.seek, self.tell, self.last = file, file.seek, file.tell, b""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LONGEST_READ:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self.last = self._file.read(size)
        return self.last
