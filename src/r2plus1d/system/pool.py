"""Processes that share work, on this machine or on a cluster: one order of results, whatever their number and place."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from r2plus1d.system import arithmetic
from r2plus1d.system.errors import READER_LOST, UserError, one_line
from r2plus1d.system.machine import cores

Task = TypeVar("Task")
Result = TypeVar("Result")

TASKS_AT_ONCE = 8192  # of a pool; more go in groups, since each one costs memory and a message
TASKS_IN_A_MESSAGE = 1000  # to a cluster; Dask warns of messages over 10 MB


class ClusterError(UserError):
    """A cluster that cannot be reached or gave up; the message names its address and the way out."""


class WorkerError(UserError):
    """A worker process that was ended from outside."""

    def __init__(self) -> None:
        super().__init__(READER_LOST)


def spread(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int | None, scheduler: str | None = None
) -> Iterator[Result]:
    """function(task) for each task, in order, over `workers` processes (None: one per core; 0: in this one).

    With the address of a Dask scheduler, such as tcp://host:8786, over that cluster instead. What a lost worker had not
    finished, another does: a task may run twice, even at the same time. Raises ClusterError.
    """
    if scheduler is not None:
        yield from _over_cluster(function, tasks, scheduler)
        return
    count = min(cores() if workers is None else workers, len(tasks))
    if count <= 1:
        yield from map(function, tasks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, initializer=end_with, initargs=(os.getpid(),)) as executor:
        try:
            with deaf_children():
                results = executor.map(function, tasks, chunksize=-(-len(tasks) // TASKS_AT_ONCE))
            yield from results
        except BrokenProcessPool as error:
            raise WorkerError from error
        except BaseException as error:
            executor.shutdown(wait=False, cancel_futures=True)
            if not isinstance(error, Exception):  # interrupted: without waiting for what they are at
                for worker in multiprocessing.active_children():
                    worker.terminate()
            raise


@contextlib.contextmanager
def deaf_children(*more: signal.Signals) -> Iterator[None]:
    """Processes started in this block do not hear Ctrl-C, which a terminal sends to all of them: the one that started
    them does, and ends them, where each would print a traceback. Nor do they hear `more`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *more})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with(parent: int, end: Callable[[], None] = lambda: os._exit(1)) -> None:
    """From now on, calls `end` once this process has lost its parent, without which it would go on unseen."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        end()

    threading.Thread(target=watch, daemon=True).start()


def _over_cluster(function: Callable[[Task], Result], tasks: Sequence[Task], address: str) -> Iterator[Result]:
    try:
        import distributed  # noqa: PLC0415 (takes a second, and is not always installed)
        from distributed.comm import CommClosedError  # noqa: PLC0415
    except ImportError as error:
        raise ClusterError(
            f"scheduler {address}: Dask is not installed ({error}); run: pip install '.[dask]'"
        ) from error
    try:
        client = distributed.Client(address, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"scheduler {address}: {error}; start `dask scheduler` there, or set machine.scheduler to "
            "its address or to null"
        ) from error
    with client:
        try:  # without the package, the workers would die one by one and the client wait for others
            client.run_on_scheduler(exec, f"import {__name__}")
            client.run(exec, f"import {__name__}")
        except ImportError as error:
            raise ClusterError(
                f"scheduler {address}: {error}; start the scheduler and the workers in this project's environment"
            ) from error
        client.register_worker_callbacks(arithmetic.set_variables)  # those that join later too
        print(f"{address}: {len(client.nthreads()) or 'waiting for'} workers", file=sys.stderr, flush=True)
        try:
            # Not `pure`: the result of an earlier call with the same arguments would be taken for this one's.
            executor = client.get_executor(pure=False)
            parts = [tasks[i : i + TASKS_IN_A_MESSAGE] for i in range(0, len(tasks), TASKS_IN_A_MESSAGE)]
            for results in [executor.map(function, part) for part in parts]:
                yield from results
        except (distributed.KilledWorker, CancelledError, CommClosedError) as error:
            raise ClusterError(
                f"scheduler {address}: {one_line(error)}; what was finished is kept, run again to go on"
            ) from error
