"""Which frames a clip has."""

import pytest

from r2plus1d.clips import sampling


def test_video_of_no_frames_is_an_error():
    with pytest.raises(ValueError, match="num_frames is 0"):
        sampling.test_indices(0, 8, 8, 10)


def test_short_video_is_repeated_from_its_start():
    assert sampling.test_indices(5, 4, 2, 1).tolist() == [[0, 2, 4, 1]]
