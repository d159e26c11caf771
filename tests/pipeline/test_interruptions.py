"""Stages that are ended, or whose disk or memory runs out: the same bytes afterwards, and one line with the way out."""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from r2plus1d.config import schema
from r2plus1d.system import files, paths, pool, stage
from r2plus1d.zoo import training
from tests.support.cases import slow
from tests.support.commands import dvc
from tests.support.project import ROOT, Project

ROW = schema.CUSTOM
STAGES = {
    "download": (),
    "probe": (),
    "extract_frames": (ROW,),
    "build_lists": (),
    "train": (ROW,),
    "test": (ROW,),
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
REPRO = ("-m", "dvc", "repro", "train@custom")


@pytest.mark.parametrize(
    ("number", "name"), [case if case[1] == "train" else slow(*case) for case in enumerate(STAGES)]
)
def test_killed_stage_leaves_only_whole_files_and_ends_with_the_same_bytes(number, name, finished, copied):
    sign = SIGNALS[number % 3]
    copied.clear(name, ROW)
    row = next(iter(STAGES[name]), None)
    lock, took = copied.folder / paths.lock(name, row), files.read_json(finished.folder / paths.seconds(name, row))
    lock.unlink(missing_ok=True)
    process = copied.start(f"stages/{name}.py", *STAGES[name])
    while not lock.exists():  # Python and its imports
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.005)
    time.sleep(random.Random(number).uniform(0.2, 0.9) * (took["seconds"] - took["start"]))
    os.killpg(process.pid, sign) if sign == signal.SIGINT else process.send_signal(sign)
    process.communicate()
    assert copied.whole().items() <= finished.results().items()
    copied.must(name, *STAGES[name])
    assert copied.results() == finished.results()


def test_running_stage_is_started_once_and_its_holder_named(copied, monkeypatch):
    monkeypatch.chdir(copied.folder)
    with files.held(paths.lock("train", ROW), "this test"):
        second = copied.run("train", ROW)
        copied.must("build_lists")
    assert second.returncode == 1
    assert second.stderr.startswith(f"error: stage train of custom is busy: process {os.getpid()} on ")
    assert second.stderr.endswith(f"; wait for it, or end it there with: kill {os.getpid()}\n")
    copied.must("build_lists")
    assert copied.results()[f"models/{ROW}/model.safetensors"]


def test_rows_of_one_short_side_are_not_packed_at_the_same_time(copied, finished):
    copied.clear("extract_frames", ROW)
    left = copied.folder / paths.frames("motion", f".{ROW}.part")  # of one that was killed
    left.mkdir()
    row = files.read_json(copied.folder / paths.row_config(ROW, "extract_frames"))
    with files.held(copied.folder / paths.lock(f"extract-motion-{row['short_side']}", None), "another row"):
        refused = copied.run("extract_frames", ROW, R2PLUS1D_AGAIN="1")
    assert f"extracting motion at a short side of {row['short_side']} is busy: process" in refused.stderr
    copied.must("extract_frames", ROW, R2PLUS1D_AGAIN="1")
    assert not left.exists()


@pytest.mark.parametrize(
    ("environment", "held"),
    [
        ({}, True),
        ({"RANK": "0", "TORCHELASTIC_RUN_ID": "1"}, True),
        ({"RANK": "1", "TORCHELASTIC_RUN_ID": "1"}, False),
        ({"RANK": "0", "TORCHELASTIC_RUN_ID": "1", stage.ALONE: "7"}, False),
        ({stage.TORCHRUN: "--nnodes=2"}, False),
        ({"RANK": "0", "TORCHELASTIC_RUN_ID": "1", stage.TORCHRUN: "--nnodes=2"}, True),
    ],
)
def test_machines_that_work_together_share_one_lock(environment, held, tmp_path, monkeypatch):
    """Of all processes that torchrun started, here and elsewhere, one holds the lock, or the one before them did."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "TORCHELASTIC_RUN_ID", stage.ALONE, stage.TORCHRUN, "DVC_STAGE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with stage._alone("stages/train.py", ROW):
        if held:
            with pytest.raises(files.BusyError), files.held(paths.lock("train", ROW), "it"):
                pass
        else:
            assert not paths.lock("train", ROW).exists()
    os.environ.pop(stage.ALONE, None)


@pytest.fixture
def tracked(copied) -> Project:
    """The finished project as DVC knows it, but for its training."""
    dvc(copied, "init", "--quiet", "--no-scm")
    before = "resolve", "scan", "download", "probe", f"extract_frames@{ROW}", "build_lists"
    dvc(copied, "commit", "--quiet", "--force", *before)
    copied.clear("train", ROW)
    return copied


def path() -> dict[str, str]:
    return {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}


def after_an_epoch(project: Project, epochs: int = 1) -> subprocess.Popen:
    """`dvc repro` of a training, when the states of so many epochs more are there; stopped: what is left takes a blink.
    With two, the training has noted that the first is saved."""

    def states() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in project.folder.glob(f"runs/*/{training.STATE}")}

    known = states()
    process = project.start(*REPRO, **path())
    while epochs:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.005)
        if (now := states()) != known:
            known, epochs = now, epochs - 1
    os.killpg(process.pid, signal.SIGSTOP)
    return process


@pytest.mark.slow
def test_dvc_shows_what_an_interruption_kept_and_resumes_after_its_orphan(tracked, finished):
    process = after_an_epoch(tracked, epochs=2)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    os.killpg(process.pid, signal.SIGCONT)
    said, _ = process.communicate(timeout=60)
    assert f"interrupted (the training of {ROW} is saved after epoch " in said
    assert f" of 4, in runs/{ROW}-" in said
    assert "what is finished is kept, run the same command again to go on" in said
    assert "Traceback" not in said
    process = after_an_epoch(tracked)
    process.kill()  # DVC alone: its child has no reader for its result
    time.sleep(0.6)  # longer than the child waits before it looks for DVC again
    os.killpg(process.pid, signal.SIGCONT)
    said, _ = process.communicate(timeout=60)  # ends with the child, which holds the other end of the pipe
    assert "resuming after epoch" in said
    with files.held(tracked.folder / paths.lock("train", ROW), "nobody"):
        refused = tracked.start(*REPRO, **path()).communicate(timeout=60)[0]
    assert f"stage train of {ROW} is busy: process {os.getpid()} on " in refused
    assert "Traceback" not in refused
    tracked.start(*REPRO, **path()).communicate(timeout=120)  # goes on, or starts over if the orphan came to its end
    assert tracked.results() == finished.results()


@pytest.mark.slow
def test_interrupted_row_with_one_frame_goes_on_to_the_same_bytes(copied):
    """Its state is one of its own, which the row's training beside it does not take for its own."""
    made = copied.folder / paths.metrics(ROW, "one_frame.csv")
    copied.must("one_frame", ROW)
    before = made.read_bytes()
    made.unlink()
    process = copied.start("stages/one_frame.py", ROW)
    while not list(copied.folder.glob(f"runs/one_frame-{ROW}-*/{training.STATE}")):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not made.exists()
    assert "resuming after epoch" in copied.must("one_frame", ROW)
    assert made.read_bytes() == before
    assert not list(copied.folder.glob(f"runs/one_frame-*/{training.STATE}"))


@pytest.fixture
def with_readers(copied):
    """A training with reader processes, after its second epoch, in a session of its own."""
    params = yaml.safe_load((copied.folder / "params.yaml").read_text())
    params["machine"]["workers"] = 2
    copied.set(params)
    copied.clear("train", ROW)
    process = copied.start("stages/train.py", ROW)
    states: set[int] = set()
    while len(states) < 2:  # a file appears before the training notes that it is saved: the second shows that it did
        states |= {path.stat().st_ino for path in copied.folder.glob(f"runs/*/{training.STATE}")}
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.005)
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.5)  # its readers have nothing more to do
    return copied, process


def test_readers_of_a_killed_training_give_up_its_lock(with_readers):
    project, process = with_readers
    process.kill()
    process.wait()
    deadline, free = time.monotonic() + 3, False
    while not free and time.monotonic() < deadline:
        with contextlib.suppress(files.BusyError), files.held(project.folder / paths.lock("train", ROW), "nobody"):
            free = True
    assert free


@pytest.mark.parametrize("first", ["SIGINT", "SIGTERM"])
def test_signal_to_a_process_that_ends_already_changes_nothing(first):
    """As DVC sends one to a stage after Ctrl-C."""
    code = "import atexit, os, signal\nfrom r2plus1d.system.stage import run\n"
    code += "atexit.register(lambda: [os.kill(os.getpid(), sign) for sign in (signal.SIGTERM, signal.SIGINT)])\n"
    code += f"run(lambda: os.kill(os.getpid(), signal.{first}))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    how = {"SIGINT": "interrupted", "SIGTERM": "terminated"}[first]
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{how}; what is finished is kept, run the same command again to go on\n"


@pytest.mark.slow
def test_training_ended_with_its_readers_says_what_it_saved(with_readers):
    """As systemd, Slurm and timeout end all of a group."""
    _, process = with_readers
    os.killpg(process.pid, signal.SIGTERM)
    os.killpg(process.pid, signal.SIGCONT)
    said, _ = process.communicate(timeout=60)
    assert f"terminated (the training of {ROW} is saved after epoch" in said
    assert "Traceback" not in said


READING = """
import os, signal, sys, time
from pathlib import Path
import torch
from r2plus1d.clips.loader import loader
from r2plus1d.system import stage

class Clips:
    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 0:
            return torch.zeros(1), 0
        frame = sys._getframe()
        while "done_event" not in frame.f_locals:  # of torch's reader process, which asks it for each batch
            frame = frame.f_back
        frame.f_locals["done_event"]._cond.acquire()
        (Path(sys.argv[1]) / str(os.getpid())).touch()
        while sys.argv[2] == "SIGTERM" or not Path(sys.argv[1], "computing").exists():
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)

def main():
    batches = iter(loader(Clips(), torch.device("cpu"), 1, batch_size=1))
    next(batches)
    Path(sys.argv[1], "computing").touch()
    time.sleep(600)

stage.run(main)
"""


@pytest.mark.parametrize(("sign", "said"), [("SIGTERM", "terminated; what is finished is kept"), ("SIGKILL", "memory")])
def test_readers_that_die_with_a_lock_do_not_keep_the_process(sign, said, tmp_path):
    """Ended with its group, or by the system that lacks memory, a reader may be at any instruction."""
    (tmp_path / "start.py").write_text(READING)
    (tmp_path / "work").mkdir()
    environment = os.environ | {"PYTHONPATH": str(Path(pool.__file__).parents[2])}
    command = [sys.executable, str(tmp_path / "start.py"), str(tmp_path / "work"), sign]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        while len(list((tmp_path / "work").iterdir())) < 2:
            time.sleep(0.01)
        if sign == "SIGTERM":
            os.killpg(process.pid, signal.SIGTERM)
        lines = process.communicate(timeout=30)[1].splitlines()
    finally:
        process.kill()
    assert len(lines) == 1
    assert said in lines[0]


@pytest.fixture(scope="module")
def begun(finished, tmp_path_factory) -> Project:
    """The finished project, but for its training, which was killed after an epoch; tests only copy it."""
    begun = Project.at(tmp_path_factory.mktemp("begun") / "project")
    shutil.copytree(finished.folder, begun.folder)
    begun.clear("train", ROW)
    process = begun.start("stages/train.py", ROW)
    while not list(begun.folder.glob(f"runs/*/{training.STATE}")):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.005)
    process.kill()
    process.communicate()
    return begun


@pytest.fixture
def changed(begun, tmp_path):
    """The begun project with some text more in the module of a training's updates, and what a training then says."""
    project = Project.at(tmp_path / "project")
    shutil.copytree(begun.folder, project.folder)

    def change(text: str) -> str:
        with open(project.folder / "src/r2plus1d/zoo/update.py", "a", encoding="utf-8") as module:
            module.write(text)
        return project.must("train", ROW)

    return project, change


def test_training_is_resumed_after_a_comment_was_added(changed, finished):
    project, change = changed
    said = change("\n\n# Nothing to add.\n")
    assert "resuming after epoch" in said
    assert "unfinished training" not in said
    assert project.results() == finished.results()
    assert not list(project.folder.glob(f"runs/*/{training.STATE}"))


def test_training_is_not_resumed_by_other_code(changed, finished):
    project, change = changed
    (state,) = project.folder.glob(f"runs/*/{training.STATE}")
    kept = state.read_bytes()
    said = change("\nSPARE = 1\n")
    place = state.parent.relative_to(project.folder)
    assert f"{place} holds an unfinished training with other code, versions or device" in said
    assert "it stays there, and this one starts from the beginning" in said
    assert "resuming" not in said
    assert "Epoch(val) [2]" in said  # of four, with a validation after two
    assert re.search(r"^Epoch \[2\].* loss: ", said, re.M), "what the training was at by then"
    assert state.read_bytes() == kept
    ours, whole, record = project.results(), finished.results(), str(paths.made_by(ROW, "train"))
    assert {name for name in whole.keys() | ours.keys() if ours.get(name) != whole.get(name)} == {record}


def is_alive(number: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


POOL = """
import os, signal, sys, time
from pathlib import Path
from r2plus1d.system import pool

def wait(folder_and_seconds):
    folder, seconds = folder_and_seconds
    (folder / str(os.getpid())).touch()
    time.sleep(seconds)

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    list(pool.spread(wait, [(Path(sys.argv[1]), 600), (Path(sys.argv[1]), 0)], 2))
"""


@pytest.mark.parametrize(
    ("sign", "all_processes"), [(signal.SIGKILL, False), (signal.SIGTERM, False), (signal.SIGINT, True)]
)
def test_ended_work_takes_its_worker_processes_with_it(sign, all_processes, tmp_path):
    """One worker is at its task and one waits for the next."""
    (tmp_path / "work").mkdir()
    (tmp_path / "start.py").write_text(POOL)
    environment = os.environ | {"PYTHONPATH": str(Path(pool.__file__).parents[2])}
    command = [sys.executable, str(tmp_path / "start.py"), str(tmp_path / "work")]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while len(list((tmp_path / "work").iterdir())) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.2)  # the second one is done
    workers = [int(file.name) for file in (tmp_path / "work").iterdir()]
    os.killpg(process.pid, sign) if all_processes else process.send_signal(sign)
    _, said = process.communicate(timeout=20)
    assert said.count("Traceback") == (1 if all_processes else 0)  # the script's own; none of a worker
    deadline = time.monotonic() + 10
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, workers))
