"""Clips and views: what a training or test item is, whatever reads it."""

import dataclasses

import numpy as np
import pytest
import torch

from r2plus1d.clips import items, loader, sampling
from r2plus1d.config import resolve
from r2plus1d.datasets.annotations import Sample


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
    return resolve.resolve(params).rows[0]


@pytest.mark.parametrize(("frames", "interval", "rate"), [(4, 3, "all"), (1, 64, "all"), (4, 2, 12.5)])
def test_videos_that_a_clip_repeats_are_those_whose_clip_begins_once_more(row, frames, interval, rate):
    clip = row.clip.model_copy(update={"frames": frames, "frame_interval": interval, "frame_rate": rate})
    config = row.model_copy(update={"clip": clip})
    counts = []
    for length in range(1, 30):
        sample = Sample("a.mp4", length, 0, rate=25.0)
        indices = items._test_indices(clip, sample, 3)
        counts.append(items.repeated(config, [sample]))
        assert counts[-1] == int((np.diff(indices) <= 0).any())
    assert items.repeated(config, [Sample("a.mp4", n, 0, rate=25.0) for n in range(1, 30)]) == sum(counts)
    assert counts[-1] == 0
    assert counts[0] == (frames > 1)


def test_training_clip_depends_on_seed_epoch_and_index_alone(row):
    clips = items.TrainClips(row, SAMPLES, Numbered())
    first, label = clips[(2, 0)]
    clips[(0, 1)], clips[(5, 0)]
    again, _ = items.TrainClips(row, SAMPLES, Numbered())[(2, 0)]
    assert (first.shape, first.dtype, label) == ((8, 56, 56, 3), torch.uint8, 3)
    assert torch.equal(first, again)
    assert not torch.equal(first, clips[(3, 0)][0])


@pytest.mark.parametrize(
    ("seed", "item", "same"), [(0, (0, 0), True), (1, (0, 0), False), (0, (1, 0), False), (0, (0, 1), False)]
)
def test_every_seed_epoch_and_index_draws_a_clip_of_its_own(row, seed, item, same):
    """Of twice the same video."""
    twice = [SAMPLES[0], SAMPLES[0]]
    clip, _ = items.TrainClips(row.model_copy(update={"seed": 0}), twice, Numbered())[0, 0]
    other, _ = items.TrainClips(row.model_copy(update={"seed": seed}), twice, Numbered())[item]
    assert torch.equal(clip, other) == same


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_training_clip_is_cropped_and_flipped_as_the_row_says(row, flip):
    """A square of as many pixels as the frame does not fit into it, so it is the middle one, or its mirror image."""
    train = {"resize": 64, "crop": 64, "crop_area": [1.0, 1.0], "crop_ratio": [1.0, 1.0], "flip": flip}
    clips = items.TrainClips(row.model_copy(update={"train": row.train.model_copy(update=train)}), SAMPLES, Numbered())
    columns = list(range(10, 74))
    for epoch in range(5):
        clip, _ = clips[epoch, 0]
        assert clip[0, 0, :, 1].tolist() == (columns[::-1] if flip else columns)


def test_training_clip_steps_by_the_frame_interval(row):
    clip, _ = items.TrainClips(row, SAMPLES, Numbered())[(0, 0)]
    assert np.diff(clip[:, 0, 0, 0].numpy().astype(int)).tolist() == [8] * 7


def test_clips_at_a_frame_rate_are_of_the_frames_shown_at_those_times(row):
    """15 frames a second of a video of 30: every second one."""
    clip = row.clip.model_copy(update={"frame_rate": 15.0, "frame_interval": 2})
    row = row.model_copy(update={"clip": clip, "test": row.test.model_copy(update={"clips": 3, "spread": "ends"})})
    samples = [dataclasses.replace(SAMPLES[0], rate=30.0)]
    training, _ = items.TrainClips(row, samples, Numbered())[(0, 0)]
    assert np.diff(training[:, 0, 0, 0].numpy().astype(int)).tolist() == [4] * 7
    middle, _ = items.ValClips(row, samples, Numbered())[0]
    assert middle[:, 0, 0, 0].tolist() == (2 * sampling.test_indices(45, 8, 2, 1)[0]).tolist()
    video = items.TestVideos(row, samples, Numbered())[0]
    first, _, last = video.views(row)[:3, :, 0, 0, 0].tolist()
    assert first == list(range(0, 32, 4))
    assert last[-1] == 86  # clips of 16 frames at 15 a second, of which the last is not taken
    with pytest.raises(ValueError, match=r"cannot be shown at 15\.0 a second"):
        items.ValClips(row, SAMPLES, Numbered())[0]


def test_validation_clip_is_the_middle_one_cropped_at_the_centre(row):
    clip, label = items.ValClips(row, SAMPLES, Numbered())[0]
    assert (clip.shape, label) == ((8, 56, 56, 3), 3)
    assert clip[:, 0, 0, 0].tolist() == sampling.test_indices(90, 8, 8, 1)[0].tolist()
    assert clip[0, 0, :, 1].tolist() == list(range(14, 70))


def test_views_of_a_test_video_stand_at_crop_times_clips_plus_clip(row):
    row = row.model_copy(update={"test": row.test.model_copy(update={"resize": 64, "crop": 64})})  # no pixel is mixed
    video = items.TestVideos(row, SAMPLES, Numbered())[0]
    stack = video.views(row)
    assert stack.shape == (30, 8, 64, 64, 3)
    expected = sampling.test_indices(90, 8, 8, 10)
    for crop, left in enumerate((0, 20, 10)):
        for clip in range(10):
            view = stack[crop * 10 + clip]
            assert view[:, 0, 0, 0].tolist() == expected[clip].tolist()
            assert view[0, 0, 0, 1] == left


def test_test_video_is_of_the_height_and_width_that_the_row_gives(row):
    test = row.test.model_copy(update={"resize": [40, 60], "crop": 32, "crops": 1})
    video = items.TestVideos(row.model_copy(update={"test": test}), SAMPLES, Numbered())[0]
    assert video.frames.shape[1:3] == (40, 60)


def test_static_control_repeats_the_middle_frame(row):
    (moving, label), (static, same) = (items.ValClips(row, SAMPLES, Numbered(), still)[0] for still in (False, True))
    assert label == same
    for t in range(8):
        assert torch.equal(static[t], moving[4])


def test_frames_of_a_test_video_are_read_once_each_in_order(row):
    video = items.TestVideos(row, SAMPLES, Numbered())[0]
    numbers = video.frames[:, 0, 0, 0].tolist()
    assert numbers == sorted(set(numbers))


def test_frames_of_a_test_video_are_pinned_for_the_gpu(row, monkeypatch):
    """A DataLoader pins what has a method of that name, and of other objects nothing."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    video = items.TestVideos(row, SAMPLES, Numbered())[0]
    pinned = video.pin_memory()
    assert torch.equal(pinned.frames, video.frames + 1)
    assert (pinned.indices is video.indices, pinned.label) == (True, video.label)


def test_test_video_stays_the_same_on_the_way_to_the_device(row):
    video = items.TestVideos(row, SAMPLES, Numbered())[0]
    assert torch.equal(video.to(torch.device("cpu")).views(row), video.views(row))
    assert video.to(torch.device("meta")).crops(row).device.type == "meta"


@pytest.mark.parametrize(
    ("dataset", "item", "options"),
    [(items.TrainClips, (0, 0), {}), (items.ValClips, 0, {}), (items.TestVideos, 0, {"collate_fn": loader.single})],
)
def test_clips_reach_the_model_outside_shared_memory(dataset, item, options, row):
    """Of shared memory a container has 64 MB."""
    read = dataset(row, SAMPLES, Numbered())
    (batch,) = loader.loader(read, torch.device("cpu"), 1, batch_sampler=[[item]], **options)
    tensor = batch.frames if options else batch[0]
    assert tensor.dtype == torch.uint8
    assert not tensor.is_shared()
