"""Archives of a public dataset -> its videos in a folder: fetched side by side, unpacked in order, removed.

The folder keeps, besides `videos/`, a note of each part that was unpacked (`parts/`: its SHA-256, and bytes and SHA-256
of every member), so that no part is fetched twice, and what a smaller subset left out is found again. What a user has
fetched by other means lies in `given/`, and is used instead. Which videos are taken depends on the annotations, the
limits and the parts' content alone, never on what happened before.
"""

import contextlib
import functools
import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from r2plus1d.config.schema import Limit
from r2plus1d.datasets.archives import ArchiveError, unpack
from r2plus1d.datasets.catalogue import Catalogue, Choice, Part
from r2plus1d.datasets.fetch import FetchError, RefusedError, fetch, fetch_read, recorded_sha256, remote_size
from r2plus1d.datasets.manifest import VIDEO_SUFFIXES, Entry, SetAside
from r2plus1d.system.errors import UserError
from r2plus1d.system.files import read_json, remove_partials, sha256, write_json
from r2plus1d.system.progress import progress

GIVEN = "given"  # the folder of what a user fetched
Result = TypeVar("Result")


class DownloadError(UserError):
    """A dataset that cannot be downloaded; the message names the way out."""


def bring(
    catalogue: Catalogue, limit: Limit, skip: list[str], store: Path, connections: int
) -> tuple[list[Entry], list[SetAside]]:
    """Fills `store`/videos and returns (rows of the manifest by path, rows of what is set aside); see `dispatch.bring`.

    `skip` names parts to go without. Raises DownloadError where the disk is too small, a part has changed or is
    damaged, or no video is found, and FetchError.
    """
    return _Download(catalogue, limit, skip, store, connections).run()


def annotation(url: str, folder: Path, read: Callable[[Path], Result]) -> Result:
    """`read(path)` of a file of annotations, which is fetched into `folder` unless the user has given it."""
    given = folder.parent / GIVEN / PurePosixPath(unquote(urlsplit(url).path)).name
    if given.is_file():
        return read(given)
    try:
        return fetch_read(url, folder, read)
    except FetchError as error:
        raise FetchError(f"{error}; or fetch it by other means, and put it to {given}") from error


class _Stopped(Exception):  # noqa: N818
    """Ends the threads once the main one is done or has failed."""


class _Download:
    def __init__(self, catalogue: Catalogue, limit: Limit, skip: list[str], store: Path, connections: int):
        self.catalogue, self.store, self.connections = catalogue, store, connections
        self.videos, self.incoming = store / "videos", store / "incoming"
        self.choice = Choice(catalogue, limit)
        if unknown := set(skip) - {part.title for part in catalogue.parts}:
            raise DownloadError(
                f"source.skip: there is no part {min(unknown)!r}; they are named such as {catalogue.parts[-1].title!r}"
            )
        concerned = [part for part in catalogue.parts if self.choice.concerns(part)]
        self.parts = [part for part in concerned if part.title not in skip]
        self.records = {part.url: self._read(part) for part in self.parts}
        self.aside = [row for row in catalogue.aside if row.split in limit.splits]
        skipped = [part.title for part in concerned if part.title in skip]
        self.aside += [SetAside(title, "", "skipped, as params.yaml says") for title in skipped]
        self.rows: dict[str, Entry] = {}
        self.lacking: dict[str, bool] = {}
        self.arrivals, self.counting = 0, threading.Lock()  # bytes since they were last asked for
        self.stop = threading.Event()

    def run(self) -> tuple[list[Entry], list[SetAside]]:
        self.videos.mkdir(parents=True, exist_ok=True)
        remove_partials(self.videos)
        total = self._check_space()
        with ThreadPoolExecutor(self.connections) as pool:
            try:
                for _ in progress(self._work(pool), total, "fetching", "B", measure=int):
                    pass
            finally:
                self.stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
        shutil.rmtree(self.incoming, ignore_errors=True)
        if not self.rows:
            raise DownloadError(f"{self.store}: none of the annotated videos is in the {len(self.parts)} parts")
        missing = self.choice.missing()
        self.aside += [SetAside(v.path, v.split, "annotated, but not in the archives") for v in missing]
        self._set_leaks_aside()
        return [self.rows[path] for path in sorted(self.rows)], sorted(self.aside)

    def _work(self, pool: ThreadPoolExecutor) -> Iterator[int]:
        """Yields the bytes that arrive; parts are unpacked in between, in their order."""
        ahead: dict[str, Future[Path]] = {}
        for number, part in enumerate(self.parts):
            if self.choice.complete(part):
                continue
            if not self._stored(part) and self._given(part).is_file():
                self._unpack(part, self._given(part))
            elif not self._stored(part):
                window = chain([part], filter(self._needed, self.parts[number + 1 :]))
                for other in islice(window, self.connections + 1):  # one more: none waits for the unpacking
                    if other.url not in ahead:
                        ahead[other.url] = pool.submit(fetch, other.url, self._folder(other), self._arrived)
                while not ahead[part.url].done():
                    wait([ahead[part.url]], timeout=0.5)
                    yield self._new_bytes()
                with _way_out(part, self._given(part)):
                    archive = ahead.pop(part.url).result()
                self._unpack(part, archive)
            self._take(part)
            yield self._new_bytes()

    def _arrived(self, count: int) -> None:
        if self.stop.is_set():
            raise _Stopped
        with self.counting:
            self.arrivals += count

    def _new_bytes(self) -> int:
        with self.counting:
            count, self.arrivals = self.arrivals, 0
        return count

    def _stored(self, part: Part) -> bool:
        """Whether all that is wanted of the part is there: as noted, and with the bytes noted."""
        record = self.records[part.url]
        return record is not None and all(self._there(part, name, *entry) for name, entry in record["members"].items())

    def _there(self, part: Part, name: str, size: int, digest: str) -> bool:
        video = self.choice.claim(part, name)
        path = self.videos / video.path if video else None
        return path is None or (digest != "" and path.is_file() and path.stat().st_size == size)

    def _needed(self, part: Part) -> bool:
        """Whether to fetch the part before its turn: only what will be needed whatever comes before it."""
        if self.choice.complete(part) or self._given(part).is_file():
            return False
        if (record := self.records[part.url]) is None:
            return True
        if part.url not in self.lacking:
            found = (self.choice.find(part, name) for name in record["members"])
            lacks = (v and self.choice.wants(v) and not (self.videos / v.path).is_file() for v in found)
            self.lacking[part.url] = self.choice.most is None and any(lacks)
        return self.lacking[part.url]

    def _unpack(self, part: Part, archive: Path) -> None:
        digest, before = recorded_sha256(archive) or sha256(archive), self.records[part.url]
        if before and before["sha256"] != digest:
            shutil.rmtree(self._folder(part), ignore_errors=True)
            raise DownloadError(
                f"{part.url} is another file than before: SHA-256 {digest}, not {before['sha256']}. To take the new "
                f"one, remove {self._note(part)}"
            )
        size = archive.stat().st_size
        try:
            with _way_out(part, self._given(part)):
                place = functools.partial(self._place, part)
                inner = self._folder(part) / "inner"
                members, odd = _unpack_nested(archive, place, inner) if part.nested else unpack(archive, place)
        except DownloadError:
            shutil.rmtree(self._folder(part), ignore_errors=True)
            raise
        kept = before["members"] if before else {}
        members = {name: entry if entry[1] else tuple(kept.get(name, entry)) for name, entry in members.items()}
        record = {"url": part.url, "bytes": size, "sha256": digest, "members": members, "odd": odd}
        self.records[part.url] = record
        write_json(self._note(part), record)
        shutil.rmtree(self._folder(part), ignore_errors=True)

    def _place(self, part: Part, name: str) -> Path | None:
        video = self.choice.claim(part, name)
        return self.videos / video.path if video else None

    def _take(self, part: Part) -> None:
        record = self.records[part.url]
        assert record is not None  # it is unpacked
        for name, (size, digest) in record["members"].items():
            if video := self.choice.claim(part, name):
                self.rows[video.path] = Entry(video.path, video.label, video.split, 0, size, digest)
            elif PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES and not self.choice.find(part, name):
                self.aside.append(SetAside(f"{part.title}/{name}", "", "in the archives, but not annotated"))
            elif other := self.choice.other(part, name):
                self.aside.append(SetAside(f"{part.title}/{name}", "", f"another file was taken as {other}"))
        self.aside += [SetAside(f"{part.title}/{name}", "", reason) for name, reason in record["odd"]]

    def _set_leaks_aside(self) -> None:
        """A training video that is also in val would spoil the result."""
        tested = {row.sha256: path for path, row in self.rows.items() if row.split == "val"}
        for path, row in list(self.rows.items()):
            if row.split == "train" and row.sha256 in tested:
                del self.rows[path]
                self.aside.append(SetAside(path, "train", f"same content as {tested[row.sha256]}"))

    def _check_space(self) -> int:
        """Says what will be fetched and what it takes; returns the bytes to fetch, at most."""
        fetched = [part for part in self.parts if self._needed(part)]
        with ThreadPoolExecutor(self.connections) as pool:
            answers = pool.map(self._size_of, fetched)
            sizes = [size or 0 for size in progress(answers, len(fetched), "asking for sizes", "parts")]
        each = [size * (2 if part.nested else 1) for part, size in zip(fetched, sizes, strict=True)]  # and those within
        if not sizes:
            return 0
        total, share = sum(sizes), self.choice.share()
        parts, kept = sum(sorted(each)[-self.connections - 1 :]), share * total
        free = shutil.disk_usage(self.store).free + sum(
            f.stat().st_size for f in self.incoming.rglob("*") if f.is_file()
        )
        print(
            f"{len(fetched)} parts, {'at most ' if share < 1 else ''}{total / 1e9:.1f} GB, over {self.connections} "
            f"connections, to {self.store}; there: about {kept / 1e9:.1f} GB of videos, and up to {parts / 1e9:.1f} GB "
            f"of parts at a time; {free / 1e9:.1f} GB are free. Packed frames come on top, in the project.",
            flush=True,
        )
        if share < 1:
            print("Parts are fetched whole, as none says what it holds, until every wanted video is there.")
        if kept + parts > free:
            raise DownloadError(
                f"{self.store}: {(kept + parts) / 1e9:.1f} GB are needed, and {free / 1e9:.1f} GB are free; set "
                "datasets.<name>.path to a folder on a larger disk, or limit"
            )
        return total

    def _folder(self, part: Part) -> Path:
        """Where the part is fetched to: its own, to be removed with all that is in it."""
        return self.incoming / hashlib.sha256(part.url.encode()).hexdigest()[:16]

    def _given(self, part: Part) -> Path:
        """Where the user may have put the part."""
        return self.store / GIVEN / part.title

    def _size_of(self, part: Part) -> int | None:
        with _way_out(part, self._given(part)):
            return remote_size(part.url)

    def _note(self, part: Part) -> Path:
        return self.store / "parts" / f"{'-'.join(part.splits)}-{part.name}.json"

    def _read(self, part: Part) -> dict | None:
        return read_json(self._note(part))


@contextlib.contextmanager
def _way_out(part: Part, given: Path) -> Iterator[None]:
    try:
        yield
    except (ArchiveError, RefusedError) as error:
        again = "Put a whole one there" if given.is_file() else f"Run again to fetch it once more, or put it to {given}"
        raise DownloadError(
            f"{error}. {again}; to go on without it, add {part.title!r} to datasets.<name>.source.skip"
        ) from error
    except FetchError as error:
        raise FetchError(f"{error}; or fetch it by other means, and put it to {given}") from error


def _unpack_nested(archive: Path, place: Callable[[str], Path | None], inner: Path) -> tuple[dict, list]:
    """As `unpack`, for an archive of .rar archives, which go to `inner` one after the other; a member's name begins
    with the inner archive's."""
    outer, odd = unpack(archive, lambda name: inner / PurePosixPath(name).name if name.endswith(".rar") else None)
    found: dict[str, tuple[int, str]] = {}
    for name in sorted(PurePosixPath(name).name for name, (_, digest) in outer.items() if digest):

        def below(member: str, name: str = name) -> Path | None:
            return place(f"{name}/{member}")

        members, others = unpack(inner / name, below)
        found |= {f"{name}/{member}": entry for member, entry in members.items()}
        odd += [(f"{name}/{member}", reason) for member, reason in others]
        (inner / name).unlink()
    return found, odd
