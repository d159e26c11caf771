"""The benchmark: which steps' memory it measures, which videos' time, and how it tells them."""

import types

import pytest
import torch

from r2plus1d.config.schema import CUSTOM, BenchmarkedRow
from r2plus1d.system import device
from r2plus1d.zoo import benchmark
from r2plus1d.zoo.rows import Row, open_row
from r2plus1d.zoo.update import build_model

CPU = torch.device("cpu")


@pytest.fixture
def row(prepared, monkeypatch) -> Row[BenchmarkedRow]:
    monkeypatch.chdir(prepared.folder)
    return open_row(CUSTOM, BenchmarkedRow)


@pytest.fixture
def network(row):
    return build_model(row.config, len(row.classes)).eval()


def test_memory_is_that_of_steps_in_training(row, network, monkeypatch):
    """The network comes from its file ready to be tested."""
    steps = []

    def updates(trained, *_):
        def update(parts, _):
            ((clips, _),) = parts
            steps.append((len(clips), {module.training for module in trained.modules()}))

        return update

    monkeypatch.setattr(benchmark, "updates", updates)
    benchmark.training_memory(row.config, network, row.splits["train"], row.reader, CPU)
    expected = (row.config.train.videos_per_gpu, {True})
    assert steps == [expected] * row.config.benchmark.train_steps
    assert not network.training


def test_rate_is_that_of_the_videos_after_the_warm_up(row, network, monkeypatch):
    """One that takes 100 seconds, then those of one and of three."""
    took, now = iter([100.0, 1.0, 3.0]), 0.0

    def logits(*_):
        nonlocal now
        now += next(took)

    monkeypatch.setattr(benchmark, "logits", logits)
    monkeypatch.setattr(benchmark, "time", types.SimpleNamespace(perf_counter=lambda: now))
    assert benchmark.inference_rate(row.config, network, row.splits["val"], row.reader, CPU) == (0.5, 2)


def test_frames_that_a_video_is_measured_by_are_those_of_all_its_clips(row, network, monkeypatch):
    monkeypatch.setattr(benchmark, "training_memory", lambda *_: 900)
    monkeypatch.setattr(benchmark, "inference_rate", lambda *_: (12.3456, 7))
    figures, measured_on = benchmark.benchmark(row.config, network, row.splits, row.reader)
    assert (figures["videos_per_second"], figures["memory_mib"], measured_on["videos"]) == (12.35, 900, 7)
    clip, test = row.config.clip, row.config.test
    assert test.clips > 1
    assert measured_on["frames"] == f"{clip.frames * test.clips}x{test.crops}"


@pytest.mark.parametrize(("platform", "peak"), [("linux", 921_600), ("darwin", 943_718_400)])
def test_memory_is_told_in_mib_whatever_the_system_counts_in(monkeypatch, platform, peak):
    monkeypatch.setattr(device.sys, "platform", platform)
    monkeypatch.setattr(device.resource, "getrusage", lambda _: types.SimpleNamespace(ru_maxrss=peak))
    assert device.peak_memory_mib(CPU) == 900
