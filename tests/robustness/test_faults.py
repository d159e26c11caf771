"""Disks, folders, files, memory and processes that fail: one line with the way out, and the same bytes afterwards."""

import errno
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from r2plus1d.clips.items import Clips
from r2plus1d.clips.loader import loader
from r2plus1d.config import schema
from r2plus1d.system import paths, pool
from r2plus1d.system.errors import READER_LOST, UserError, explained
from r2plus1d.system.files import replacing
from r2plus1d.zoo import training, update
from tests.support import warm
from tests.support.cases import slow
from tests.support.project import Project, smaller_params

ROW = schema.CUSTOM

# A mount that nobody else sees; as a plain user too, where the system lets users have namespaces of their own.
MOUNTING = ["unshare", "--user", "--map-root-user", "--mount"]
FULL = """
mount -t tmpfs -o size=64m none "$1" && cp -a "$2/." "$1" && cd "$1" || exit 99
head -c "$(($(df --output=avail -B1 . | tail -1) - $3))" /dev/zero > filler
shift 3
"$@"; echo "ended with $?"
find . -name '*.part' -not -path './runs/*'
rm filler
"$@" && find . -type f -path './[cdmr]*' -not -path './runs/*' -exec sha256sum {} +
"""
READ_ONLY = """
cd "$1" && mount --bind "$2" "$2" && mount -o remount,bind,ro "$2" || exit 99
shift 2
exec "$@"
"""


@pytest.fixture(scope="module")
def mounting() -> list[str]:
    if subprocess.run([*MOUNTING, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets the user mount nothing")
    return MOUNTING


def mounted(mounting, project: Project, script: str, *arguments) -> subprocess.CompletedProcess:
    environment = {"PYTHONPATH": str(project.folder / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*mounting, "bash", "-c", script, "bash", *map(str, arguments)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("stage", "row", "free", "file"),
    [
        ("download", (), 100_000, "runs/download"),
        slow("extract_frames", (ROW,), 200_000, "runs/extract"),
        slow("train", (ROW,), 16_384, "runs/custom-"),
        slow("test", (ROW,), 8192, "metrics/rows/custom/"),
    ],
)
def test_full_disk_ends_in_one_line_and_keeps_what_is_there(
    stage,
    row,
    free,
    file,
    finished,
    copied,
    mounting,
    tmp_path,
):
    copied.clear(stage, ROW)
    place = tmp_path / "disk"
    place.mkdir()
    command = [sys.executable, f"stages/{stage}.py", *row]
    done = mounted(mounting, copied, FULL, place, copied.folder, free, *command)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert file in done.stderr
    assert "No space left on device; free some disk space, then run the same command again" in done.stderr
    assert "ended with 1" in done.stdout
    assert ".part" not in done.stdout
    sums = {name[2:]: digest for digest, _, name in (line.partition("  ") for line in done.stdout.splitlines()) if name}
    assert {name: sums.get(name) for name in finished.results()} == finished.results()


@pytest.mark.parametrize(("stage", "row", "folder"), [("build_lists", (), "data"), ("train", (ROW,), "runs")])
def test_read_only_folder_ends_in_one_line(stage, row, folder, copied, mounting):
    command = [sys.executable, f"stages/{stage}.py", *row]
    done = mounted(mounting, copied, READ_ONLY, copied.folder, folder, *command)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {folder}/")
    assert done.stderr.endswith(
        "Read-only file system; make the folder writable, then run the same command again: what is finished is kept\n"
    )


@pytest.mark.parametrize(
    ("stage", "row", "file", "workers"),
    [
        ("resolve", (), "params.yaml", 0),
        ("train", (ROW,), "data/motion/frames/custom/shard-00000.tar", 1),
        ("test", (ROW,), "models/custom/model.safetensors", 0),
    ],
)
def test_unreadable_file_ends_in_one_line(stage, row, file, workers, copied):
    """A link to itself: nobody can read it, root neither. The frames are read by a process of their own."""
    if workers:
        params = smaller_params()
        params["machine"]["workers"] = workers
        copied.set(params)
    (copied.folder / file).unlink()
    (copied.folder / file).symlink_to((copied.folder / file).name)
    failed = copied.run(stage, *row)
    assert failed.returncode == 1
    assert failed.stderr.startswith(f"error: {file}")
    assert len(failed.stderr.splitlines()) == 1, failed.stderr


@pytest.mark.parametrize(("stage", "table"), [("download", "set_aside"), ("probe", "looks")])
def test_work_is_kept_until_its_tables_are_written(stage, table, copied, finished):
    """Of Kinetics it takes hours."""
    copied.clear(stage, ROW)
    place = copied.folder / "data" / "motion" / f"{table}.csv"
    place.mkdir()  # which no file can replace
    failed = copied.run(stage)
    assert failed.returncode == 1
    assert list((copied.folder / "runs").glob(f"{stage}-motion-*"))
    place.rmdir()
    copied.must(stage)
    assert copied.results() == finished.results()
    assert not list((copied.folder / "runs").glob(f"{stage}-motion-*"))


class Killing(Clips):
    """A dataset whose reader processes end by a signal: SIGBUS where there is no shared memory left."""

    def __init__(self, sign: signal.Signals):
        self.sign = sign

    def __len__(self) -> int:
        return 4

    def __getitem__(self, _: int) -> None:
        os.kill(os.getpid(), self.sign)


def test_killed_worker_is_named_with_the_way_out():
    words = "a worker process was killed, most likely by the system because memory ran out"
    with pytest.raises(pool.WorkerError, match=words) as error:
        list(pool.spread(signal.raise_signal, [signal.SIGKILL] * 2, 2))
    assert "lower machine.workers" in str(error.value)


class Dying(Killing):
    """Its second item ends its reader, while the first one is at work."""

    def __getitem__(self, index: int) -> None:
        if index:
            time.sleep(0.5)
            os.kill(os.getpid(), self.sign)


def test_reader_that_ends_while_the_model_computes_is_explained():
    batches = iter(loader(Dying(signal.SIGKILL), torch.device("cpu"), 1, batch_size=1, collate_fn=list))
    next(batches)
    with pytest.raises(RuntimeError) as error:
        time.sleep(20)
    assert explained(error.value) == READER_LOST


class Failing(Killing):
    """Its readers may open no more files."""

    def __getitem__(self, _: int) -> None:
        raise OSError(errno.EMFILE, "Too many open files", "a: 'b'.mp4")


@pytest.mark.parametrize("workers", [0, 1])
def test_fault_of_the_system_is_explained_whoever_reads(workers):
    with pytest.raises(OSError, match="Too many") as error:
        list(loader(Failing(signal.SIGKILL), torch.device("cpu"), workers, batch_size=1))
    assert explained(error.value) == (
        "a: 'b'.mp4: Too many open files; raise the limit of open files (ulimit -n), then run the same command again: "
        "what is finished is kept"
    )


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGBUS])
def test_ended_reader_process_is_named_with_the_way_out(sign):
    with pytest.raises(pool.WorkerError, match="/dev/shm") as error:
        list(loader(Killing(sign), torch.device("cpu"), 1, batch_size=1))
    assert "lower machine.workers" in str(error.value)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation"),
    ],
)
def test_lack_of_memory_is_told_in_one_line_with_the_way_out(error):
    assert explained(error).startswith("memory ran out")
    assert "lower train.videos_per_gpu" in explained(error)
    assert "\n" not in explained(error)


def test_lack_of_memory_of_the_cpu_is_explained():
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert "memory ran out" in explained(error.value)


def test_defect_of_the_code_is_told_from_the_user_s():
    assert explained(RuntimeError("shapes do not fit")) is None
    assert explained(KeyError("x")) is None
    assert explained(UserError("params.yaml: x")) == "params.yaml: x"


def test_file_is_on_the_disk_before_it_gets_its_final_name(tmp_path, monkeypatch):
    """A power cut may leave a file empty that is renamed before its content is on the disk."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append((os.fstat(number).st_ino, (tmp_path / "a").exists())))
    with replacing(tmp_path / "a") as partial:
        partial.write_bytes(b"content")
    assert synced == [((tmp_path / "a").stat().st_ino, False)]


class Spoiling(nn.Module):
    """Finite loss, gradients that are not: those of a square root at 0."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return x[:, :2, 0, 0, 0] + self.weight.sqrt()


def test_gradient_that_is_not_finite_leaves_the_weights_as_they_are():
    model = Spoiling()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    done = update.step(model, optimizer, torch.ones(1, 3, 1, 1, 1), torch.tensor([0]), 40.0)
    assert np.isfinite(done["loss"])
    assert not np.isfinite(done["grad_norm"])
    assert model.weight.tolist() == [0, 0]
    assert not optimizer.state


SPOIL = """
import sys
from r2plus1d.zoo import update
gradients, calls = update.gradients, []
def spoiled(model, x, labels, *rest):
    calls.append(1)
    if len(calls) == 4:
        x = x * float("{x}")
    result = gradients(model, x, labels, *rest)
    if len(calls) == {last}:
        next(model.parameters()).data[:] = float("inf")
    return result
update.gradients = spoiled
sys.argv = ["stages/train.py", "custom"]
exec(compile(open(sys.argv[0]).read(), sys.argv[0], "exec"))
"""


@pytest.mark.parametrize(
    ("x", "last", "words"),
    [
        ("nan", 0, "custom: loss is nan at epoch 2, iteration 1; the state after epoch 1 is kept, but the same"),
        ("1", 6, "custom: weights are not finite after epoch 2; the state after epoch 1 is kept, but the same"),
    ],
)
def test_value_that_is_not_finite_ends_the_training_and_keeps_the_last_good_state(x, last, words, copied, finished):
    """Three steps an epoch: a loss in the first one of the second epoch, or weights after its last."""
    copied.clear("train", ROW)
    environment = {**os.environ, "PYTHONPATH": str(copied.folder / "src")}
    failed = warm.run(["-c", SPOIL.format(x=x, last=last)], copied.folder, environment, timeout=240)
    assert failed.returncode == 1
    assert failed.stderr.startswith(f"error: {words}")
    assert "lower train.lr or train.max_grad_norm in params.yaml, which starts a new one" in failed.stderr
    assert not (copied.folder / paths.weights(ROW)).exists()
    (kept,) = copied.folder.glob(f"runs/{ROW}-*/{training.STATE}")
    state = torch.load(kept, weights_only=True)
    assert state["epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in state["model"].values())
    assert "resuming after epoch 1 of 4" in copied.must("train", ROW)
    assert copied.results() == finished.results()


@pytest.mark.slow
def test_damaged_state_is_named_and_the_training_starts_over_to_the_same_bytes(copied, finished):
    copied.clear("train", ROW)
    process = copied.start("stages/train.py", ROW)
    for line in process.stdout:
        if line.startswith("Epoch(val) [2]"):
            break
    while not list(copied.folder.glob(f"runs/*/{training.STATE}")):
        assert process.poll() is None
    process.kill()
    process.communicate()
    (path,) = copied.folder.glob(f"runs/*/{training.STATE}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    said = copied.must("train", ROW)
    assert f"{path.relative_to(copied.folder)} is damaged" in said
    assert "the training starts from the beginning" in said
    assert copied.results() == finished.results()
