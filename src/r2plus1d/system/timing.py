"""Where a stage's seconds went: a record for `profile` that the pipeline does not read.

It lies in `logs/`, which neither DVC nor git sees, since times never repeat.
"""

import collections
import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from r2plus1d.system import paths
from r2plus1d.system.files import write_json
from r2plus1d.system.machine import cores, processor

Item = TypeVar("Item")
_imported = time.time()
_spent: dict[str, float] = collections.defaultdict(int)
_worked = True


def reading(items: Iterable[Item]) -> Iterator[Item]:
    """Hands the items on; the wait for each counts as reading."""
    iterator = iter(items)
    while True:
        began = time.perf_counter()
        try:
            item = next(iterator)
        except StopIteration:
            return
        finally:
            _spent["reading"] += time.perf_counter() - began
        yield item


def did_no_work() -> None:
    """The stage of this process has taken its result over: the record stays that of the run which made it."""
    global _worked  # noqa: PLW0603
    _worked = False


@contextlib.contextmanager
def recorded(stage: str, row: str | None) -> Iterator[None]:
    """Records the seconds from this process's start to the end of the block, unless that ends with an error or
    `did_no_work`.

    `start` of them went by before the block (Python and its imports), `reading` in waiting for clips.
    """
    began, entered = _process_began(), time.time()
    yield
    if not _worked:
        return
    record = {"stage": stage, "row": row, "began": began, "seconds": time.time() - began, "start": entered - began}
    record |= {"reading": _spent["reading"], "processor": processor(), "cores": cores()}
    with contextlib.suppress(OSError):  # no reason for a finished stage to fail
        write_json(paths.seconds(stage, row), record)


def _process_began() -> float:
    """Unix time; where the system does not tell, that of this module's import."""
    try:
        ticks = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        up = float(Path("/proc/uptime").read_text().split()[0])
        return time.time() - up + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return _imported
