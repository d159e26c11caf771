"""The generated videos: the same every time, and which motions show at which interval."""

import av
import numpy as np

from r2plus1d.config.schema import MotionSource
from r2plus1d.datasets import motion
from r2plus1d.datasets.encode import write_h264


def test_generated_video_depends_on_its_seed_alone(tmp_path):
    for name in ("a", "b"):
        write_h264(tmp_path / f"{name}.mp4", motion.render(3, 0, 2, 5, 64), motion.FPS)
    write_h264(tmp_path / "c.mp4", motion.render(4, 0, 2, 5, 64), motion.FPS)
    a, b, c = ((tmp_path / f"{name}.mp4").read_bytes() for name in "abc")
    assert a == b != c


def test_seed_of_the_test_videos_changes_no_other_and_that_of_the_others_no_test_video(tmp_path, monkeypatch):
    monkeypatch.setattr(motion, "CLASSES", motion.CLASSES[::4])
    source = MotionSource(
        kind="motion", train_videos=1, val_videos=1, test_videos=1, seed=0, test_seed=1, short_side=16
    )

    def made(**seeds: int) -> dict[str, set]:
        entries = motion.generate(source.model_copy(update=seeds), tmp_path / str(seeds), 0)
        return {split: {e.sha256 for e in entries if e.split == split} for split in ("train", "val", "test")}

    before, other, other_test = made(), made(seed=5), made(test_seed=5)
    assert all(len(videos) == len(motion.CLASSES) for videos in before.values())
    assert not set.intersection(*before.values())
    assert {split for split in before if other[split] == before[split]} == {"test"}
    assert {split for split in before if other_test[split] == before[split]} == {"train", "val"}


def test_generated_video_is_h264_at_25_fps_of_its_short_side(tmp_path):
    write_h264(tmp_path / "v.mp4", motion.render(0, 0, 0, 0, 96), motion.FPS)
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.height, stream.width) == ("h264", 96, 128)
        assert (stream.average_rate, stream.frames >= 80) == (25, True)


def change(name: str, interval: int) -> float:
    """Mean absolute difference of the brightness between frames so far apart, over a few videos."""
    label = motion.CLASSES.index(name)
    videos = [motion.render(0, 0, label, index, 64)[:, 0].astype(float) for index in range(2)]
    return float(np.mean([np.abs(v[interval:] - v[:-interval]).mean() for v in videos]))


def test_fast_motions_hide_at_an_interval_of_8_frames():
    """There `shaking` changes as little as the camera's sway makes it; at an interval of 2 or 4 it plainly moves."""
    for interval in (2, 4):
        assert change("shaking", interval) > 4 * change("shaking", 8)
        assert change("shaking", interval) > 4 * change("still", interval)
    field = motion._Field(np.random.default_rng(0), 96)
    for name in ("shaking", "fluttering"):
        path, _ = field.shape(np.random.default_rng(1), name)
        calm, _ = field.shape(np.random.default_rng(1), {"shaking": "still", "fluttering": "falling"}[name])
        offset = (path - calm)[::8]
        np.testing.assert_allclose(offset, np.broadcast_to(offset[0], offset.shape), atol=1e-9)


def test_slow_motions_show_at_an_interval_of_8_frames():
    for name in set(motion.CLASSES) - {"still", "shaking"}:
        assert change(name, 8) > 3 * change("still", 8), name


def test_brightness_of_single_frames_is_alike_in_all_classes():
    """A first-order check of what one frame says: means over the classes lie within their own spread."""
    samples = [
        [motion.render(0, 0, label, index, 64)[5::30, 0].mean() for index in range(6)]
        for label in range(len(motion.CLASSES))
    ]
    means, spread = np.mean(samples, axis=1), np.std(samples)
    assert np.std(means) < 3 * spread / np.sqrt(6)
