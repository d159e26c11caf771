"""Progress of long work: a bar on a terminal, plain lines elsewhere, each with rate and remaining time; and how far it
got, for who interrupts it."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 20
_reached = {"counted": "", "saved": ""}


def progress(
    items: Iterable[Item],
    total: int | None,
    what: str,
    unit: str,
    measure: Callable[[Item], int] = lambda _: 1,
    done: int = 0,
) -> Iterator[Item]:
    """Hands the items on. Each counts as `measure` of it towards `total`, of which `done` was there before."""
    style = {"unit": "B", "unit_scale": True} if unit == "B" else {"unit": f" {unit}"}
    counted = _count(items, total, what, unit, measure, done)
    if sys.stderr.isatty():
        with tqdm(None, what, total, initial=done, leave=False, **style) as bar:
            for item in counted:
                yield item
                bar.update(measure(item))
        return
    start = said = time.monotonic()
    first = done
    for item in counted:
        yield item
        done += measure(item)
        now = time.monotonic()
        if now - said >= SECONDS_BETWEEN_LINES or (done == total and said > start):
            line = tqdm.format_meter(done, total, now - start, ncols=0, prefix=what, initial=first, **style)
            print(line, file=sys.stderr, flush=True)
            said = now


def say(text: str) -> None:
    """A line on the standard output; above a bar, where one is shown."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def reached() -> str:
    """How far the present work got, such as `extracting: 3 of 12 shards`; empty where nothing counts it."""
    return _reached["saved"] or _reached["counted"]


def saved(text: str) -> None:
    """What a later run goes on from, where that is not what `progress` counts; `reached` says it instead."""
    _reached["saved"] = text


def _count(
    items: Iterable[Item], total: int | None, what: str, unit: str, measure: Callable[[Item], int], done: int
) -> Iterator[Item]:
    scale, unit = (1e6, "MB") if unit == "B" else (1, unit)
    whole = "" if total is None else f" of {total / scale:.0f}"
    _reached["counted"] = f"{what}: {done / scale:.0f}{whole} {unit}"
    for item in items:
        yield item
        done += measure(item)
        _reached["counted"] = f"{what}: {done / scale:.0f}{whole} {unit}"
