"""Which frames a clip has."""

import pytest
import torch
from torchvision.datasets.video_utils import VideoClips

from r2plus1d.clips import sampling


def test_video_of_no_frames_is_an_error():
    with pytest.raises(ValueError, match="num_frames is 0"):
        sampling.test_indices(0, 8, 8, 10)


def test_short_video_is_repeated_from_its_start():
    assert sampling.test_indices(5, 4, 2, 1).tolist() == [[0, 2, 4, 1]]


@pytest.mark.parametrize("rate", [10, 12.5, 14.985, 15, 23.976024, 25, 29.97003, 30, 50, 59.94006, 60])
@pytest.mark.parametrize("count", [31, 90, 300, 1001])
def test_frames_and_clips_at_a_frame_rate_are_torchvision_s(count, rate):
    """Its own classes, of torchvision.datasets, choose clips of 16 frames at 15 a second, one frame apart."""
    resampled = VideoClips._resample_video_idx(int(count * 15 / rate), rate, 15)
    theirs = torch.arange(count)[resampled]  # of a step that is a whole number, a slice
    numbers = sampling.at_rate(count, rate, 15)
    assert numbers[: len(theirs)].tolist() == theirs.tolist()[: len(numbers)]
    clips = len(numbers) - 16 + 1
    if clips >= 5:
        starts = torch.linspace(0, clips - 1, steps=5).floor().to(torch.int64)  # as its UniformClipSampler
        chosen = sampling.test_indices(len(numbers), 16, 1, 5, "ends")
        assert chosen[:, 0].tolist() == starts.tolist()
        assert chosen[-1, -1] == len(numbers) - 1


@pytest.mark.parametrize(("count", "expected"), [(31, 18), (30, 18), (29, 17), (1, 1)])
def test_part_of_a_frame_at_a_frame_rate_is_none(count, expected):
    """At 15 a second, of 25: 18.6 are 18, but there is always one."""
    assert len(sampling.at_rate(count, 25, 15)) == expected


def test_frame_of_a_rate_above_the_video_s_is_the_last_one_shown_by_then():
    assert sampling.at_rate(4, 10, 25).tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert sampling.at_rate(3, 30, 1).tolist() == [0]


@pytest.mark.parametrize(("count", "rate", "wanted"), [(0, 30, 15), (9, 0, 15), (9, 30, 0)])
def test_video_without_frames_or_rate_has_no_frames_at_a_rate(count, rate, wanted):
    with pytest.raises(ValueError, match="cannot be shown at"):
        sampling.at_rate(count, rate, wanted)
