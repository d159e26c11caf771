"""Clips and views: what a training or test item is, whatever reads it."""

import os
import sys

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from r2plus1d.clips import items, loader, sampling
from r2plus1d.config import resolve
from r2plus1d.datasets.annotations import Sample
from r2plus1d.video import views


class Numbered:
    """Frames of 64 x 85 whose pixels hold the frame's number, and the column in green."""

    def read(self, path, indices, count):
        frames = np.zeros((len(indices), 64, 85, 3), np.uint8)
        frames[..., 0] = np.asarray(indices)[:, None, None]
        frames[..., 1] = np.arange(85)
        return frames


SAMPLES = [Sample("a.mp4", 90, 3), Sample("b.mp4", 80, 1)]


@pytest.fixture
def row(params):
    return resolve.resolve(params)[1][0]


def test_training_clip_depends_on_more_than_seed_epoch_and_index(row):
    clips = items.TrainClips(row, SAMPLES, Numbered())
    first, label = clips[(2, 0)]
    clips[(0, 1)], clips[(5, 0)]
    again, _ = items.TrainClips(row, SAMPLES, Numbered())[(2, 0)]
    assert (first.shape, first.dtype, label) == ((8, 56, 56, 3), torch.uint8, 3)
    assert torch.equal(first, again)
    assert not torch.equal(first, clips[(3, 0)][0])


def test_training_clip_does_not_step_by_the_frame_interval(row):
    clip, _ = items.TrainClips(row, SAMPLES, Numbered())[(0, 0)]
    assert np.diff(clip[:, 0, 0, 0].numpy().astype(int)).tolist() == [8] * 7


def test_validation_clip_is_not_the_middle_one_cropped_at_the_centre(row):
    clip, label = items.ValClips(row, SAMPLES, Numbered())[0]
    assert (clip.shape, label) == ((8, 56, 56, 3), 3)
    assert clip[:, 0, 0, 0].tolist() == sampling.test_indices(90, 8, 8, 1)[0].tolist()
    assert clip[0, 0, :, 1].tolist() == list(range(14, 70))


def test_test_views_stand_in_another_order_than_crop_times_clips_plus_clip(row):
    video = items.TestVideos(row, SAMPLES, Numbered())[0]
    stack = video.views(row)
    assert stack.shape == (30, 8, 64, 64, 3)
    expected = sampling.test_indices(90, 8, 8, 10)
    for crop, left in enumerate((0, 20, 10)):
        for clip in range(10):
            view = stack[crop * 10 + clip]
            assert view[:, 0, 0, 0].tolist() == expected[clip].tolist()
            assert view[0, 0, 0, 1] == left


def test_static_control_moves_or_shows_another_frame_than_the_middle_one(row):
    (moving, label), (static, same) = (items.ValClips(row, SAMPLES, Numbered(), still)[0] for still in (False, True))
    assert label == same
    for t in range(8):
        assert torch.equal(static[t], moving[4])


def test_frames_of_a_test_video_are_read_more_than_once(row):
    video = items.TestVideos(row, SAMPLES, Numbered())[0]
    numbers = video.frames[:, 0, 0, 0].tolist()
    assert numbers == sorted(set(numbers))


def test_epoch_leaves_samples_out_repeats_them_or_drops_the_last_batch():
    schedule = loader.Schedule(count=10, batch=4, seed=1, start=0, epochs=2)
    batches = list(schedule)
    assert [len(batch) for batch in batches] == [4, 4, 2] * 2
    assert len(schedule) == 6
    for epoch in range(2):
        seen = [item for batch in batches[3 * epoch : 3 * epoch + 3] for item in batch]
        assert sorted(seen) == [(epoch, i) for i in range(10)]
    assert list(loader.Schedule(10, 4, 1, start=1, epochs=2)) == batches[3:]


def test_portrait_frames_are_cropped_left_and_right():
    frames = np.zeros((2, 100, 64, 3), np.uint8)
    frames[..., 0] = np.arange(100)[:, None]
    tops = views.three_crop(frames, 64)[:, 0, 0, 0, 0].tolist()
    assert tops == [0, 36, 18]


def test_test_video_reaches_a_gpu_from_memory_that_is_not_pinned(row, monkeypatch):
    """A DataLoader pins what has a method of that name, and of other objects nothing."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    video = items.TestVideos(row, SAMPLES, Numbered())[0]
    pinned = video.pin_memory()
    assert torch.equal(pinned.frames, video.frames + 1)
    assert (pinned.indices is video.indices, pinned.label) == (True, video.label)


def test_test_video_changes_on_the_way_to_the_device(row):
    video = items.TestVideos(row, SAMPLES, Numbered())[0]
    assert torch.equal(video.to(torch.device("cpu")).views(row), video.views(row))
    assert video.to(torch.device("meta")).crops(row).device.type == "meta"


def test_crop_larger_than_the_frame_is_cut():
    with pytest.raises(ValueError, match="crop of 65 does not fit into frames of 64 x 85"):
        views.center_crop(np.zeros((64, 85, 3), np.uint8), 65)


def test_video_of_no_frames_gives_a_clip():
    with pytest.raises(ValueError, match="num_frames is 0"):
        sampling.test_indices(0, 8, 8, 10)


def test_short_video_is_not_repeated_from_its_start():
    assert sampling.test_indices(5, 4, 2, 1).tolist() == [[0, 2, 4, 1]]


def test_shrunk_pixels_differ_from_torchvision_s():
    image = np.random.default_rng(0).integers(0, 256, (80, 107, 3), np.uint8)
    peer = functional.resize(torch.from_numpy(image).permute(2, 0, 1), [64, 86], antialias=True)
    np.testing.assert_array_equal(views.shrink(image, (64, 86)), peer.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("size", [(64, 86), (224, 224), (80, 31), (17, 200), (1, 1)])
def test_resized_pixels_depend_on_the_processor_or_the_version_of_opencv(size):
    """The published arithmetic, written out: 11-bit weights, sums along the rows, then down the columns."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 90, 107, 3), np.uint8)[..., 5:85, 7:, :]

    def weights(old: int, new: int) -> tuple[np.ndarray, ...]:
        place = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
        first = np.floor(place)
        indices = [index.astype(int).clip(0, old - 1) for index in (first, first + 1)]
        return *indices, *(np.rint(share * 2048).astype(int) for share in (1 - (place - first), place - first))

    top, bottom, a, b = weights(80, size[0])
    left, right, c, d = weights(100, size[1])
    rows = frames[..., left, :] * c[:, None] + frames[..., right, :] * d[:, None]
    a, b = a[:, None, None], b[:, None, None]
    pixels = ((a * (rows[..., top, :, :] >> 4) >> 16) + (b * (rows[..., bottom, :, :] >> 4) >> 16) + 2) >> 2
    np.testing.assert_array_equal(views.resize(frames, size), pixels)


class Priority(items.Clips):
    """Of the process that reads."""

    def __init__(self):
        pass

    def __len__(self):
        return 1

    def __getitem__(self, _):
        return os.nice(0)


@pytest.mark.parametrize("workers", [None, 0, 1])
def test_readers_take_the_cores_from_the_model_on_the_cpu(workers):
    (found,) = loader.loader(Priority(), torch.device("cpu"), workers, batch_size=1, collate_fn=loader.single)
    none = workers == 0 or (workers is None and sys.platform != "linux")
    assert found == os.nice(0) + (0 if none else loader.MODESTY)


@pytest.mark.parametrize(
    ("dataset", "item", "options"),
    [(items.TrainClips, (0, 0), {}), (items.ValClips, 0, {}), (items.TestVideos, 0, {"collate_fn": loader.single})],
)
def test_clips_take_room_that_a_container_does_not_have(dataset, item, options, row):
    """Of shared memory it has 64 MB."""
    read = dataset(row, SAMPLES, Numbered())
    (batch,) = loader.loader(read, torch.device("cpu"), 1, batch_sampler=[[item]], **options)
    tensor = batch.frames if options else batch[0]
    assert tensor.dtype == torch.uint8
    assert not tensor.is_shared()
