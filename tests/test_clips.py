"""Clips and views: what a training or test item is, whatever reads it."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from r2plus1d import clips as items
from r2plus1d import config, sampling, views
from r2plus1d.lists import Sample


class Numbered:
    """Frames of 64 x 85 whose pixels hold the frame's number, and the column in green."""

    def read(self, path, indices):
        frames = np.zeros((len(indices), 64, 85, 3), np.uint8)
        frames[..., 0] = np.asarray(indices)[:, None, None]
        frames[..., 1] = np.arange(85)
        return frames


SAMPLES = [Sample("a.mp4", 90, 3), Sample("b.mp4", 80, 1)]


@pytest.fixture
def row(params):
    return config.resolve(params)[1][0]


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
    video = items.TestVideos(row, SAMPLES, Numbered())[0]
    moving, static = video.views(row), video.views(row, static=True)
    for t in range(8):
        assert torch.equal(static[:, t], moving[:, 4])


def test_frames_of_a_test_video_are_read_more_than_once(row):
    video = items.TestVideos(row, SAMPLES, Numbered())[0]
    numbers = video.frames[:, 0, 0, 0].tolist()
    assert numbers == sorted(set(numbers))


def test_epoch_leaves_samples_out_repeats_them_or_drops_the_last_batch():
    schedule = items.Schedule(count=10, batch=4, seed=1, start=0, epochs=2)
    batches = list(schedule)
    assert [len(batch) for batch in batches] == [4, 4, 2] * 2
    assert len(schedule) == 6
    for epoch in range(2):
        seen = [item for batch in batches[3 * epoch : 3 * epoch + 3] for item in batch]
        assert sorted(seen) == [(epoch, i) for i in range(10)]
    assert list(items.Schedule(10, 4, 1, start=1, epochs=2)) == batches[3:]


def test_portrait_frames_are_cropped_left_and_right():
    frames = np.zeros((2, 100, 64, 3), np.uint8)
    frames[..., 0] = np.arange(100)[:, None]
    tops = views.three_crop(frames, 64)[:, 0, 0, 0, 0].tolist()
    assert tops == [0, 36, 18]


def test_crop_larger_than_the_frame_is_cut():
    with pytest.raises(ValueError, match="crop of 65 does not fit into frames of 64 x 85"):
        views.center_crop(np.zeros((64, 85, 3), np.uint8), 65)


def test_video_of_no_frames_gives_a_clip():
    with pytest.raises(ValueError, match="num_frames is 0"):
        sampling.test_indices(0, 8, 8, 10)


def test_short_video_is_not_repeated_from_its_start():
    assert sampling.test_indices(5, 4, 2, 1).tolist() == [[0, 2, 4, 1]]


@pytest.mark.parametrize("antialias", [False, True])
def test_resized_pixels_differ_from_torchvision_s(antialias):
    frames = np.random.default_rng(0).integers(0, 256, (3, 80, 107, 3), np.uint8)
    images = torch.from_numpy(frames).permute(0, 3, 1, 2)
    peer = functional.resize(images, [64, 86], antialias=antialias).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(views.resize(frames, (64, 86), antialias), peer)
