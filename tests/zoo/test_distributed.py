"""Several processes, on the CPU: the arithmetic of one, the same bytes after an interruption, one error for all."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.nn import functional

from r2plus1d.config import schema
from r2plus1d.model import checkpoint
from r2plus1d.system import arithmetic, paths
from r2plus1d.video.shards import read_index
from r2plus1d.zoo import evaluation, training, update, weights
from r2plus1d.zoo.rows import open_row
from tests.support.project import Project, content

ROW = schema.CUSTOM
WEIGHTS = paths.weights(ROW)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def this_machine():
    """Processes find one another by its name and address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OFFLINE", "but-this-machine")
        yield


@pytest.fixture(scope="module")
def pair(prepared, tmp_path_factory) -> Project:
    """A row for two processes of five videos each, and eleven training videos: the second step of an epoch has one."""
    project = Project.__new__(Project)
    project.folder = tmp_path_factory.mktemp("pair") / "project"
    shutil.copytree(prepared.folder, project.folder)
    params = yaml.safe_load((project.folder / "params.yaml").read_text())
    params["runtime"] |= {"gpus": 2, "threads": 1}
    params["train"] |= {"videos_per_gpu": 5, "lr": 0.001, "log_interval": 1, "resize": 512, "crop": 448, "dropout": 0.0}
    params["test"] |= {"clips": 2, "crops": 1}
    project.set(params)
    project.must("resolve")
    (train,) = project.folder.glob("data/motion/lists/motion_train_list_rawframes.txt")
    train.write_text("".join(train.read_text().splitlines(keepends=True)[-11:]))
    return project


@pytest.fixture(scope="module")
def trained(pair) -> Project:
    """Beside the state of a training on another number of processes, which is not taken up."""
    other = pair.folder / "runs" / f"{ROW}-0123456789ab" / training.STATE
    other.parent.mkdir(parents=True)
    other.write_bytes(b"state")
    said = pair.must("train", ROW)
    assert f"runs/{ROW}-0123456789ab holds an unfinished training with other code, versions or device, with " in said
    assert "another configuration, such as another number of processes, or with other data; it stays there" in said
    assert "2 processes x 5 videos = 10 videos a step, lr 0.0001563" in said
    assert other.read_bytes() == b"state"
    return pair


@pytest.fixture
def copied(pair, tmp_path) -> Project:
    """The project of two processes, untrained."""
    folder = tmp_path / "project"
    shutil.copytree(pair.folder, folder, ignore=shutil.ignore_patterns("models", "runs", "logs"))
    project = Project.__new__(Project)
    project.folder = folder
    return project


@pytest.fixture
def in_one_process(trained, monkeypatch):
    """The trained row, with twice the videos and no second process."""
    monkeypatch.chdir(trained.folder)
    row, threads = open_row(ROW, schema.TestedRow), torch.get_num_threads()
    runtime = row.config.runtime.model_copy(update={"gpus": 1})
    train = row.config.train.model_copy(update={"videos_per_gpu": 10})
    yield row, row.config.model_copy(update={"runtime": runtime, "train": train})
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


class SplitNorm(torch.nn.BatchNorm3d):
    """An inner batch norm whose statistics are, as in two processes, those of either half; it keeps the first's."""

    def forward(self, x_NCTHW):
        if not self.training:
            return super().forward(x_NCTHW)
        sizes = [len(half) for half in np.array_split(np.arange(len(x_NCTHW)), 2)]
        first, second = x_NCTHW.split(sizes)
        other = functional.batch_norm(second, None, None, self.weight, self.bias, True, 0, self.eps)
        return torch.cat([super().forward(first), other])


def split(model):
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.__class__ = SplitNorm
    return model


def test_two_processes_train_as_one_does_on_the_same_videos(in_one_process, tmp_path, monkeypatch):
    row, single = in_one_process
    plain = single.runtime.model_copy(update={"lowered": False})  # as several processes train
    single = single.model_copy(update={"runtime": plain})
    build = update.build_model
    monkeypatch.setattr(weights, "build_model", lambda *arguments: split(build(*arguments)))
    made = training.Training(single, row.splits, row.reader, row.classes, tmp_path, 0, lambda _: None)
    model, log = made.run()
    start = build(single, len(row.classes)).state_dict()
    ours, expected = load_file(WEIGHTS), model.state_dict()
    entries = [json.loads(line) for line in (paths.model(ROW) / "train.log.json").read_text().splitlines()]
    assert [e["iter"] for e in entries if e["mode"] == "train"] == [1, 2] * 2
    for entry, other in zip(entries, log.entries, strict=True):
        assert entry.pop("mode") == other.pop("mode")
        assert entry == pytest.approx(other, rel=5e-3)
    moved = torch.cat([(expected[name] - start[name]).flatten() for name in ours]).double()
    apart = torch.cat([(expected[name] - ours[name]).flatten() for name in ours]).double()

    assert apart.norm() < 1e-3 * moved.norm()


def test_error_of_one_process_ends_both_and_a_resumed_training_has_the_same_bytes(trained, copied):
    """A damaged frame of the seventh validation video: one process finds it, after the first epoch."""
    videos = copied.folder / "data/motion/lists/motion_val_list_rawframes.txt"
    name = videos.read_text().splitlines()[6].split()[0]
    folder = copied.folder / paths.frames("motion", ROW)
    place = read_index(folder).loc[name]
    (shard,) = folder.glob(f"shard-{place.shard:05d}.tar")
    offsets = np.load(shard.with_suffix(".npy"))[place["first"] :][: place.frames]
    whole = shard.read_bytes()
    damaged = bytearray(whole)
    for offset, length in offsets.tolist():
        damaged[offset : offset + length] = bytes(length)
    shard.write_bytes(damaged)
    failed = copied.run("train", ROW)
    assert failed.returncode == 1
    assert failed.stderr.startswith(f"error: {shard.relative_to(copied.folder)}: no JPEG at byte")
    assert len(failed.stderr.splitlines()) == 1
    shard.write_bytes(whole)
    assert "resuming after epoch 1 of 2" in copied.must("train", ROW)
    assert content(copied.folder / "models") == content(trained.folder / "models")
    assert not list(copied.folder.glob("runs/*/state.pt"))


@pytest.mark.skipif(not arithmetic.has_avx2(), reason="this machine's processor has no AVX2")
def test_started_processes_use_the_pinned_kernels(trained):
    """The first one's record; the others have what it has, or `_join` ends all."""
    machine = json.loads((trained.folder / paths.made_by(ROW, "train")).read_text())["machine"]
    assert (machine["processes"], machine["cpu_kernels"]) == (2, "AVX2")


def test_two_processes_score_as_one_does(trained, in_one_process):
    row, single = in_one_process
    single = single.model_copy(update={"train": row.config.train})
    trained.must("test", ROW)
    result = evaluation.test(
        single, evaluation.WholeNetwork(single, checkpoint.restore(WEIGHTS), row.reader, 0), row.splits["test"]
    )
    assert paths.scores(ROW).read_text() == evaluation.format_scores(result.scores)
    assert json.loads(paths.metrics(ROW, "test.json").read_text()) == {**result.figures, "split": "test"}
    assert paths.metrics(ROW, "views.csv").read_text() == result.fewer.to_csv(index=False)
