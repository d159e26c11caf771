"""Unpacking archives that came over the network: .tar.gz, .tar, .zip and .rar, one member after the other.

Only plain files are taken, and each lands where the caller says, never where its own name points: what lies outside,
links and devices are passed over with a reason. Sizes are bounded, since videos and lists of names hardly compress.
"""

import contextlib
import gzip
import hashlib
import io
import re
import stat
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from r2plus1d.system.errors import UserError
from r2plus1d.system.files import replacing

MEMBERS = 1_000_000  # at most in one archive, folders and what is passed over included
MEMBER_BYTES = 2 << 30  # at most in one file
GROWTH, SLACK = 10, 1 << 30  # all files of an archive have at most GROWTH times its bytes, and SLACK
CHUNK = 1 << 20
LONGEST_READ = 16 << 20  # bytes at once; zipfile reads a directory of any announced length
TAR_HEADERS = 64 << 10  # bytes of one member; tarfile too reads them at once
DIGITS = re.compile(rb"\d{1000}")  # in a header: Python 3.11's tarfile takes a second for 16 KB of them, 16 for 64 KB
ALL_TEXTS = 64 << 20  # bytes; the lists of a dataset have some 10 MB
UNIX = 3  # RAR's number of the system that an archive was made on
PLAIN_ZIP = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # of the others zipfile decompresses a piece whole: 1 MB to 1 TB

Sink = Callable[[bytes], object]


class ArchiveError(UserError):
    """An archive that is damaged, or whose content is out of all proportion."""


class ReaderError(UserError):
    """A kind of archive that cannot be read on this machine."""


class DamageError(Exception):
    """What no library says: a member without a name; UnRAR's errors, which exist only where it is installed."""


DAMAGE = (
    DamageError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    gzip.BadGzipFile,
    NotImplementedError,
    RuntimeError,  # zipfile: a member that turns out to be encrypted
    ValueError,  # names and numbers that cannot be; zipfile and tarfile stumble over them in many ways
    OverflowError,
    LookupError,
    TypeError,
    AttributeError,
    struct.error,
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
    taken; and (name, reason) of the members passed over. Of several members with one name the first counts. Raises
    ArchiveError; what was written until then is whole.
    """
    found: dict[str, tuple[int, str]] = {}
    odd = []
    left = SLACK + GROWTH * archive.stat().st_size  # what is passed over counts too: getting past it takes unpacking it
    for member in members(archive):
        if not 0 <= member.size <= min(MEMBER_BYTES, left):
            raise ArchiveError(f"{archive}: {member.name!r} has {member.size} bytes; nothing more of it is unpacked")
        left -= member.size
        if member.odd:
            odd.append((member.name if member.name.isprintable() else ascii(member.name), member.odd))
            continue
        target = None if member.name in found else place(member.name)
        found.setdefault(member.name, (member.size, ""))
        if target is not None:
            found[member.name] = member.size, _write(member, target, archive)
    return found, odd


def read_texts(archive: Path) -> dict[str, str]:
    """The content of all plain files by name. Raises ArchiveError, also where they have more than ALL_TEXTS bytes."""
    texts, left = {}, ALL_TEXTS
    for member in members(archive):
        left -= max(member.size, 0)
        if left < 0:
            raise ArchiveError(f"{archive}: lists of more than {ALL_TEXTS} bytes")
        if member.odd is None and member.name not in texts:
            content = io.BytesIO()
            _copy(member, content.write, archive)
            texts[member.name] = content.getvalue().decode("utf-8", "replace")
    return texts


def members(archive: Path) -> Iterator[Member]:
    """All members but folders and what macOS adds (`._name`), in order.

    Raises ArchiveError where it is damaged or has more than MEMBERS.
    """
    with open(archive, "rb") as file:
        start = file.read(4)
    kind = {b"Rar!": _rar, b"PK\3\4": _zip}.get(start, _tar)
    with _damage_named(archive):
        for count, member in enumerate(kind(archive), 1):
            if count > MEMBERS:
                raise ArchiveError(f"{archive}: more than {MEMBERS} members; nothing more of it is unpacked")
            if member is not None and not member.name:
                raise DamageError("a member without a name")
            if member is not None and not PurePosixPath(member.name).name.startswith("._"):
                yield member


@contextlib.contextmanager
def _damage_named(archive: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise ArchiveError(f"{archive}: damaged, or no archive ({error})") from error


def _write(member: Member, target: Path, archive: Path) -> str:
    digest = hashlib.sha256()
    with replacing(target) as partial, open(partial, "wb") as file:

        def write(chunk: bytes) -> None:
            file.write(chunk)
            digest.update(chunk)

        _copy(member, write, archive)
    return digest.hexdigest()


def _copy(member: Member, sink: Sink, archive: Path) -> None:
    """Hands over as many bytes as announced. Raises ArchiveError where there are more or fewer."""
    size = 0

    def bounded(chunk: bytes) -> None:
        nonlocal size
        size += len(chunk)
        if size <= member.size:
            sink(chunk)

    with _damage_named(archive):
        member.copy(bounded)
    if size != member.size:
        raise ArchiveError(f"{archive}: {member.name!r} has {size} bytes instead of {member.size}")


def _tar(archive: Path) -> Iterator[Member | None]:
    with open(archive, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"  # some servers unpack what they send, whatever its name
    opened = gzip.open if packed else open
    with (
        opened(archive, "rb") as plain,
        tarfile.open(fileobj=(reads := _ShortReads(plain, TAR_HEADERS)), mode="r:") as tar,
    ):
        while True:
            reads.left = TAR_HEADERS  # set before they are read: the headers of each member are bounded in sum
            info = tar.next()
            if info is None:
                break
            reads.left = sys.maxsize
            if info.size < 0:
                raise tarfile.ReadError(f"a member of {info.size} bytes")  # would lead back, to the same one again
            # tarfile would keep every member in memory, and every header meant for all members; typeshed says neither
            tar.members.clear()  # type: ignore[attr-defined]
            tar.pax_headers.clear()  # type: ignore[attr-defined]
            odd = _outside(info.name) or (None if info.isfile() and not info.issparse() else "not a plain file")
            copy = lambda sink, info=info: _pump(tar.extractfile(info), sink)  # noqa: E731
            yield None if info.isdir() else Member(info.name, info.size, odd, copy)
        if reads.last.strip(b"\0"):  # tarfile takes a header that it cannot read for the end
            raise tarfile.ReadError("a damaged header")
        if len(plain.read(LONGEST_READ)) == LONGEST_READ:  # to the end, since only there gzip compares its checksum
            raise tarfile.ReadError("more after its end")


def _zip(archive: Path) -> Iterator[Member | None]:
    with open(archive, "rb") as file, zipfile.ZipFile(_ShortReads(file)) as content:
        for info in content.infolist():
            odd = _outside(info.filename) or _odd_zip(info)
            copy = lambda sink, info=info: _pump(content.open(info), sink)  # noqa: E731
            yield None if info.is_dir() else Member(info.filename, info.file_size, odd, copy)


def _odd_zip(info: zipfile.ZipInfo) -> str | None:
    if info.flag_bits & 1:
        return "encrypted"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):  # 0: made on another system than Unix
        return "not a plain file"
    return None if info.compress_type in PLAIN_ZIP else "packed by another method than deflate"


def _rar(archive: Path) -> Iterator[Member | None]:
    try:
        from unrar.cffi import unrarlib  # noqa: PLC0415  (there is no wheel for every machine)
    except ImportError as error:
        raise ReaderError(
            f"{archive}: reading .rar needs UnRAR; install it with: pip install '.[rar]' (or unrar2-cffi, which "
            "takes a C++ compiler where there is no wheel)"
        ) from error
    try:
        content = unrarlib.RarArchive.open_for_processing(archive)
    except unrarlib.BadRarFile as error:
        raise DamageError(error) from error
    with content:
        for header in content.iterate_headers():
            copied: list[bool] = []

            def copy(sink: Sink, header=header, copied=copied) -> None:
                guarded = _Guarded(sink)
                copied.append(True)
                try:
                    header.test(guarded)  # decompresses and checks, but writes nothing itself
                except unrarlib.BadRarFile as error:
                    raise DamageError(error) from error
                guarded.end()

            name = header.FileNameW.replace("\\", "/")
            link = header.headerDataEx.RedirType or (
                header.HostOS == UNIX and stat.S_ISLNK(header.headerDataEx.FileAttr)
            )
            odd = _outside(name) or ("not a plain file" if link else None)
            folder = header.Flags & unrarlib.FLAGS_RHDF_DIRECTORY
            yield None if folder else Member(name, header.UnpSize + (header.UnpSizeHigh << 32), odd, copy)
            if not copied:
                header.skip()


def _pump(content: IO[bytes] | None, sink: Sink) -> None:
    assert content is not None  # as tarfile gives for what is no plain file
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
        self._sink = sink
        self._error: BaseException | None = None

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
    """A file that refuses to be read in pieces so long, or of so much in all (`left`), that a header could fill the
    memory."""

    def __init__(self, file: io.BufferedIOBase, left: int = sys.maxsize):
        self._file, self.last, self.left = file, b"", left

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET and not 0 <= offset < 1 << 62:
            raise tarfile.ReadError(f"content at byte {offset}")  # the system's own error would tell of a broken disk
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        whole = size == -1  # as zipfile asks for the end of the file
        size = LONGEST_READ if whole else size
        if not 0 <= size <= min(LONGEST_READ, self.left):
            raise tarfile.ReadError(f"a header of {size} bytes")
        self.left -= size
        self.last = self._file.read(size)
        if self.left < TAR_HEADERS and DIGITS.search(self.last):
            raise tarfile.ReadError("a header of digits")
        if whole and len(self.last) == LONGEST_READ:
            raise tarfile.ReadError("more than a header at its end")
        return self.last
