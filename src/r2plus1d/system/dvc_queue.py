"""DVC's queue of experiments, by DVC's own commands: each experiment runs in a folder of its own, and ends as a commit.

DVC's workers run beside this process and take whatever is queued, in its order, so also what the user queued.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from r2plus1d.system import dvc_command
from r2plus1d.system.errors import UserError
from r2plus1d.system.git import git

ACTIVE = ("Queued", "Running")
REF = re.compile(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/(.+)")
LOOK, ASK = 2, 60  # seconds: how often git is asked for news, and DVC where git has none
TRIES = 3  # of `dvc queue status`, which fails on a file that a worker is writing
GONE = 180  # seconds without an answer of DVC's workers, which are slow to answer on a busy machine


class QueueError(UserError):
    """DVC refuses, or its workers are gone."""


def experiments() -> dict[str, str]:
    """The commit by the name of each experiment that ended well, whatever commit it started from."""
    return dict(commits())


def commits() -> list[tuple[str, str]]:
    """(name, commit) of all experiments; several may have one name, where they started from other commits.

    An experiment is the git reference refs/exps/<2 digits of the commit it began at>/<the other 38>/<name>; source:
    dvc.repo.experiments.refs, which takes a second to import.
    """
    lines = git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps").splitlines()
    pairs = (line.split(" ", 1) for line in lines)
    return [(match[1], commit) for commit, ref in pairs if (match := REF.fullmatch(ref))]


def states() -> tuple[dict[str, str], int]:
    """(state by experiment's name: Queued, Running, Success or Failed; how many workers answer)"""
    for _ in range(TRIES - 1):
        with contextlib.suppress(QueueError):
            return _status()
        time.sleep(LOOK)
    return _status()


def _status() -> tuple[dict[str, str], int]:
    return parse(_dvc(["queue", "status"], COLUMNS="500"))


def parse(said: str) -> tuple[dict[str, str], int]:
    """The same of what `dvc queue status` says. Of several experiments with one name the active one counts."""
    found: dict[str, str] = {}
    for line in said.splitlines():
        cells = re.split(r"\s{2,}", line.strip())
        if len(cells) == 4 and re.fullmatch("[0-9a-f]{7,}", cells[0]) and found.get(cells[1]) not in ACTIVE:
            found[cells[1]] = cells[3]
    workers = re.search(r"(\d+) active, (\d+) idle", said)
    return found, int(workers[1]) + int(workers[2]) if workers else 0


def put(name: str, settings: Sequence[str], targets: Sequence[str], copied: Iterable[str] = ()) -> None:
    """Queues an experiment on the project's folder as it stands, in place of an earlier one of that name.

    `settings` are KEY=VALUE of params.yaml; `copied` are files that git does not track and the experiment reads. A
    target that fails does not keep the others from running. Raises QueueError.
    """
    if name in states()[0]:
        _dvc(["queue", "remove", name])
    if name in experiments():
        _dvc(["exp", "remove", name])
    words = [word for value in settings for word in ("--set-param", value)]
    words += [word for path in copied for word in ("--copy-paths", path)]
    _dvc(["exp", "run", "--queue", "--keep-going", "--name", name, *words, *targets])


def run(labels: Mapping[str, str], jobs: int, news: Callable[[], object]) -> list[str]:
    """Lets the queue run until none of these experiments is left in it; the names of those that failed.

    `labels` are the experiments' names, each with what to call it. Calls `news` when one ended well. Raises QueueError
    where DVC's workers are gone. The package that runs is that of the experiment's own folder, whatever is edited here.
    """
    _dvc(["queue", "start", "--jobs", str(jobs)], PYTHONPATH="src")
    told: dict[str, str] = {}
    began: dict[str, float] = {}
    answered = time.monotonic()
    while True:
        mark = _mark()
        known, workers = states()
        now = {name: known.get(name, "Failed") for name in labels}
        for name in (name for name in labels if told.get(name) != now[name]):
            told[name] = now[name]
            if now[name] == "Success":
                minutes = (time.monotonic() - began.get(name, answered)) / 60
                say(f"{labels[name]}: done{f' after {minutes:.1f} min' if name in began else ''}")
                news()
            elif now[name] != "Queued":
                began[name] = time.monotonic()
                say(f"{labels[name]}: {now[name].lower()}")
        if not any(state in ACTIVE for state in now.values()):
            return [name for name, state in now.items() if state != "Success"]
        answered = time.monotonic() if workers else answered
        if time.monotonic() - answered > GONE:
            raise QueueError("DVC's workers are gone, see .dvc/tmp/exps/celery/*.out; the same command goes on")
        _wait(mark)


def _mark() -> str:
    """Another one after an experiment began, ended or failed."""
    return git("for-each-ref", "refs/exps")


def _wait(mark: str) -> None:
    end = time.monotonic() + ASK
    while time.monotonic() < end and _mark() == mark:
        time.sleep(LOOK)


def drop(names: Iterable[str]) -> None:
    """Takes experiments out of the queue, and ends those that run; a training in them is lost, but for the stages that
    it finished, which DVC's cache has."""
    names = set(names)
    for _ in range(3):  # a worker may have taken the next one meanwhile
        active = {name: state for name, state in states()[0].items() if name in names and state in ACTIVE}
        if not active:
            return
        for state, command in (("Queued", "remove"), ("Running", "kill")):  # those that wait first
            if chosen := [name for name in active if active[name] == state]:
                dvc_command.answer(["queue", command, *chosen], Path.cwd(), os.environ)
        time.sleep(LOOK)


def clear_lost(names: Iterable[str]) -> None:
    """Of these experiments, those that DVC takes for running though no worker is left, as after a restart of the
    machine: DVC then calls them failed."""
    for _ in range(3):
        known, workers = states()
        lost = [name for name in names if known.get(name) == "Running"]
        if workers or not lost:
            return
    _dvc(["queue", "kill", *lost])


def _dvc(arguments: list[str], **environment: str) -> str:
    code, said = dvc_command.answer(arguments, Path.cwd(), os.environ | environment)
    if code:
        raise QueueError(f"dvc {' '.join(arguments[:2])} failed: {' '.join(said.split())[-500:]}")
    return said


def say(text: str) -> None:
    print(text, flush=True)
