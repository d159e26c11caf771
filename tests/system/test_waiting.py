"""OpenMP's threads asleep where other processes want the cores, and spinning where not."""

import ctypes
import os
import subprocess
import sys
import time

import pytest
import torch

from r2plus1d.system import waiting

LIBRARY = waiting._libgomp()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="torch brings no libgomp here")


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def reached(condition, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


def test_crowd_is_more_threads_than_cores_and_leaves_no_thread_behind():
    before, count = threads(), len(os.sched_getaffinity(0)) + 1
    crowd = waiting._Crowd(LIBRARY, count)
    assert reached(lambda: threads() == before + count)
    product = torch.randn(300, 300) @ torch.randn(300, 300)
    assert product.isfinite().all(), "torch computes beside it"
    crowd.leave()
    assert reached(lambda: threads() == before)


def test_cores_are_given_up_while_others_want_them_and_taken_back_after(monkeypatch):
    """By figures of a machine of two cores and a process with two threads."""
    seconds, crowds = [0.0, 0.0, 0.0], []

    class Crowd:
        def __init__(self, library, count):
            crowds.append(count)

        def leave(self):
            crowds.append("left")

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(waiting, "_seconds", lambda: tuple(seconds))
    monkeypatch.setattr(waiting, "_Crowd", Crowd)
    watcher = waiting._Watcher(LIBRARY, 2)
    steps = (0.05, []), (1.0, [3]), (0.15, [3]), (0.0, [3, "left"]), (0.15, [3, "left"]), (0.5, [3, "left", 3])
    for others, expected in steps:
        seconds = [value + more for value, more in zip(seconds, (others + 2, 2, 1), strict=True)]
        watcher.look()
        assert crowds == expected


def test_time_of_the_processes_that_this_one_started_is_its_own():
    before = waiting._seconds()
    code = "import time; end = time.process_time() + 1.2\nwhile time.process_time() < end: pass"
    subprocess.run(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"], check=True
    )
    everything, own, passed = (new - old for new, old in zip(waiting._seconds(), before, strict=True))
    assert own >= 1.1
    assert everything >= own - 0.2, "counted on the cores of this process"
    assert passed >= 1.1


def test_machine_without_libgomp_is_left_alone(monkeypatch):
    def refused(path):
        raise OSError(path)

    monkeypatch.setattr(ctypes, "CDLL", refused)
    before = threads()
    waiting.watch.cache_clear()
    waiting.watch(2)
    assert threads() == before
    waiting.watch.cache_clear()
