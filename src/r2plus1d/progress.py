"""Progress of long work: a bar on a terminal, plain lines elsewhere, each with rate and remaining time."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 20


def progress(items: Iterable[Item], total: int, what: str, unit: str) -> Iterator[Item]:
    if sys.stderr.isatty():
        yield from tqdm(items, what, total, unit=f" {unit}", leave=False)
        return
    start = said = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - said >= SECONDS_BETWEEN_LINES or (done == total and said > start):
            line = tqdm.format_meter(done, total, now - start, ncols=0, prefix=what, unit=f" {unit}")
            print(line, file=sys.stderr, flush=True)
            said = now
