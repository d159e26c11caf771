"""Progress of long work: a bar on a terminal, plain lines elsewhere, each with rate and remaining time."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 20


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
    if sys.stderr.isatty():
        with tqdm(None, what, total, initial=done, leave=False, **style) as bar:
            for item in items:
                yield item
                bar.update(measure(item))
        return
    start = said = time.monotonic()
    first = done
    for item in items:
        yield item
        done += measure(item)
        now = time.monotonic()
        if now - said >= SECONDS_BETWEEN_LINES or (done == total and said > start):
            line = tqdm.format_meter(done, total, now - start, ncols=0, prefix=what, initial=first, **style)
            print(line, file=sys.stderr, flush=True)
            said = now
