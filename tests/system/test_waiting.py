"""OpenMP's threads asleep where other processes want the cores, and spinning where not."""

import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch

from r2plus1d.system import waiting

assert torch  # brings libgomp

LIBRARY = waiting._libgomp()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="torch brings no libgomp here")


CROWD = """
import os, time, torch
from r2plus1d.system import waiting

def threads(): return len(os.listdir("/proc/self/task"))

def reached(count):
    end = time.monotonic() + 30
    while threads() != count and time.monotonic() < end: time.sleep(0.02)
    return threads() == count

torch.set_num_threads(2)
first = torch.randn(300, 300) @ torch.randn(300, 300)  # torch's own threads are there
before, count = threads(), len(os.sched_getaffinity(0)) + 1
crowd = waiting._Crowd(waiting._libgomp(), count)
more = reached(before + count)
finite = (first @ first).isfinite().all().item()
crowd.leave()
print(more, finite, reached(before))
"""


def test_crowd_is_more_threads_than_cores_and_leaves_none_behind():
    """Counted in a process of its own, where nothing else starts threads."""
    done = subprocess.run([sys.executable, "-c", CROWD], capture_output=True, text=True, check=False)
    assert done.stdout == "True True True\n", done.stderr


def test_no_crowd_comes_where_the_system_gives_no_more_threads(monkeypatch):
    """libgomp would end the process."""
    assert waiting._room(3)

    def refused(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert not waiting._room(3)


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


@pytest.mark.parametrize("place", ["_libgomp", "_seconds"])
def test_machine_without_libgomp_or_figures_is_left_alone(monkeypatch, place):
    def refused():
        raise OSError("not here")

    monkeypatch.setattr(waiting, "_watchers", [])
    monkeypatch.setattr(waiting, place, refused)
    waiting.watch(2)
    assert waiting._watchers == []


def test_watcher_that_gets_no_more_figures_takes_its_crowd_along(monkeypatch):
    left = []
    watcher = waiting._Watcher(LIBRARY, 2)
    watcher.crowd = SimpleNamespace(leave=lambda: left.append("left"))
    monkeypatch.setattr(waiting, "PERIOD", 0)
    monkeypatch.setattr(watcher, "look", lambda: os.stat("/no/such/file"))
    watcher.stay()
    assert left == ["left"]
