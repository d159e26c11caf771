"""Reader processes: how many, and one order of results whatever their number."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Task, Result = TypeVar("Task"), TypeVar("Result")


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int | None) -> Iterator[Result]:
    """function(task) for each task, in order, over `workers` processes (None: one per core; 0: in this one)."""
    count = min(cores() if workers is None else workers, len(tasks))
    if count <= 1:
        yield from map(function, tasks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context) as executor:
        try:
            yield from executor.map(function, tasks)
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
