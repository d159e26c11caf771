"""How OpenMP's threads wait for each other: spinning, which is fastest alone, or asleep, where others want the cores.

A thread that spins holds its core, so beside other busy processes the thread that it waits for does not get one: two
threads on two cores then train at a tenth of their speed and less. libgomp, which torch brings, spins only a little
where it has more threads than cores. So a watcher looks at the processors every second, and while other processes want
them, keeps some more threads, asleep. It changes no result: who waits how is not seen by the arithmetic.
"""

import contextlib
import ctypes
import os
import threading
import time
from pathlib import Path

PERIOD = 1.0  # seconds
WANTED, FREE = 0.25, 0.1  # cores that others compute on, beyond those that this process leaves them


def watch(threads: int) -> None:
    """Starts the watcher, once a process, for work by so many threads; nothing where there is no libgomp, or where
    nothing tells what others compute."""
    if _watchers:
        _watchers[0].threads = threads
        return
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if (library := _libgomp()) is not None:
            _watchers.append(_Watcher(library, threads))
            threading.Thread(target=_watchers[0].stay, name="waiting", daemon=True).start()


class _Watcher:
    def __init__(self, library: ctypes.CDLL, threads: int):
        self.library, self.threads, self.cores = library, threads, len(os.sched_getaffinity(0))
        self.crowd: _Crowd | None = None
        self.seconds = _seconds()

    def stay(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # where nothing tells any more
            while True:
                time.sleep(PERIOD)
                self.look()
        if self.crowd is not None:
            self.crowd.leave()

    def look(self) -> None:
        now = _seconds()
        everything, own, passed = (new - old for new, old in zip(now, self.seconds, strict=True))
        self.seconds, others = now, (everything - own) / passed - max(0, self.cores - self.threads)
        if self.crowd is None and others > WANTED and _room(self.cores + 1):
            self.crowd = _Crowd(self.library, self.cores + 1)
        elif self.crowd is not None and others < FREE:
            self.crowd.leave()
            self.crowd = None


_watchers: list[_Watcher] = []


def _room(count: int) -> bool:
    """Whether so many threads more can be started: where not, libgomp ends the process."""
    over, started = threading.Event(), []
    try:
        for _ in range(count):
            started.append(threading.Thread(target=over.wait, daemon=True))
            started[-1].start()
    except RuntimeError:
        return False
    finally:
        over.set()
    return True


class _Crowd:
    """More threads of libgomp than there are cores, all of which sleep."""

    def __init__(self, library: ctypes.CDLL, count: int):
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._hold, args=(library, count), name="crowd", daemon=True)
        self.thread.start()

    def _hold(self, library: ctypes.CDLL, count: int) -> None:
        # libgomp keeps the threads of a parallel region for the next one, until the thread that began it ends.
        nothing = ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p)
        library.GOMP_parallel(nothing, None, count, 0)
        self.over.wait()

    def leave(self) -> None:
        self.over.set()
        self.thread.join()


def _libgomp() -> ctypes.CDLL | None:
    """That of torch, which is loaded; None where there is none, or another OpenMP."""
    with contextlib.suppress(OSError, AttributeError), open("/proc/self/maps", encoding="utf-8") as maps:
        loaded = [line.rstrip("\n").split(maxsplit=5)[-1] for line in maps if "libgomp" in line]
        own = [path for path in loaded if "torch/lib/libgomp" in path] or loaded
        library = ctypes.CDLL(own[0] if own else "none")
        library.GOMP_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        library.GOMP_parallel.restype = None
        return library
    return None


def _seconds() -> tuple[float, float, float]:
    """Computed so far on the cores that this process may use: by all processes, and by it and those that it started;
    and the time."""
    tick, cores = os.sysconf("SC_CLK_TCK"), {f"cpu{number}" for number in os.sched_getaffinity(0)}
    with open("/proc/stat", encoding="ascii") as file:
        lines = [line.split() for line in file]
    # user, nice, system, idle, iowait, irq, softirq
    everything = sum(sum(map(int, [*line[1:4], *line[6:8]])) for line in lines if line and line[0] in cores)
    own, todo = 0, [os.getpid()]
    while todo:
        process = Path("/proc", str(todo.pop()))
        with contextlib.suppress(OSError):  # one that has ended
            fields = (process / "stat").read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()
            own += sum(map(int, fields[11:15]))
            for task in (process / "task").iterdir():
                todo += map(int, (task / "children").read_text(encoding="ascii").split())
    return everything / tick, own / tick, time.monotonic()
