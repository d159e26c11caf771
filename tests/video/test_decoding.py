"""Frames from video files: those asked for, upright, and the same whatever else is decoded."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from r2plus1d.video import decoding, reading
from r2plus1d.video.decoding import VideoError, decode
from r2plus1d.video.reading import VideoReader


def test_frames_read_from_a_video_are_the_ones_asked_for(clip_path):
    everything = np.stack(list(decode(clip_path)))
    wanted = np.array([[3, 0, 39], [3, 20, 3]])
    read = VideoReader(clip_path.parent).read(clip_path.name, wanted.ravel())
    np.testing.assert_array_equal(read, everything[wanted.ravel()])


def test_frame_past_the_end_is_an_error(clip_path):
    with pytest.raises(VideoError, match="frame 40 is missing"):
        VideoReader(clip_path.parent).read(clip_path.name, np.array([0, 40]))


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_metadata_turns_the_picture(clip_path, tmp_path, degrees):
    plain = next(decode(clip_path))
    with av.open(str(clip_path)) as source, av.open(str(tmp_path / "turned.mp4"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        if not hasattr(stream, "set_display_matrix") and not hasattr(stream, "side_data"):
            pytest.skip("this PyAV cannot write a display matrix")
    turned = rewrite_rotation(clip_path, tmp_path / "rotated.mp4", degrees)
    image = next(decode(turned))
    # The matrix asks players to turn the stored picture clockwise by `degrees`.
    np.testing.assert_array_equal(image, np.rot90(plain, -degrees // 90))


def rewrite_rotation(source, target, clockwise: int):
    """Sets the display matrix in the track header of an mp4: 9 fixed-point numbers, the first four a rotation."""
    data = bytearray(source.read_bytes())
    place = data.index(b"tkhd") + 4 + 4 + 20 + 16  # version and flags, times and ids, layer to volume
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[clockwise]
    for index, value in enumerate((cos, sin, 0, -sin, cos)):
        at = place + 4 * index
        data[at : at + 4] = int(value * 65536).to_bytes(4, "big", signed=True)
    target.write_bytes(data)
    return target


CODINGS = {
    "plain": ("mp4", "libx264", {}),
    "no pyramid": ("mp4", "libx264", {"bf": "3", "x264-params": "b-pyramid=none:keyint=16"}),
    "strict pyramid": ("mp4", "libx264", {"bf": "5", "x264-params": "b-pyramid=strict:b-adapt=0:keyint=16"}),
    "pyramid": ("mp4", "libx264", {"bf": "7", "x264-params": "b-pyramid=normal:b-adapt=0:keyint=25:ref=6"}),
    "open groups": ("mp4", "libx264", {"bf": "3", "x264-params": "open-gop=1:keyint=12:b-adapt=0"}),
    "intra refresh": ("mp4", "libx264", {"x264-params": "intra-refresh=1:keyint=12"}),
    "keyframes alone": ("mp4", "libx264", {"x264-params": "keyint=1"}),
    "no B frames": ("mov", "libx264", {"bf": "0", "x264-params": "keyint=20"}),
    "interlaced": ("mp4", "libx264", {"flags": "+ildct+ilme", "x264-params": "keyint=20"}),
    "other container": ("matroska", "libx264", {}),
    "other codec": ("mp4", "mpeg4", {"bf": "2"}),
}
DECODED_THROUGH = {"open groups", "intra refresh", "other container", "other codec"}


def moving(path: Path, format: str, codec: str, options: dict, count: int = 60) -> None:
    """Noise that drifts, with a jump at the half, 64 x 48."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 64 + 2 * count, 3), np.uint8)
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(count):
            image = np.ascontiguousarray(noise[:: -1 if number > count // 2 else 1, 2 * number : 2 * number + 64])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("coding", CODINGS)
def test_leaving_out_what_is_not_sampled_keeps_the_pixels(tmp_path, coding):
    moving(tmp_path / "v", *CODINGS[coding])
    everything = np.stack(list(decode(tmp_path / "v")))
    reader, shortened = VideoReader(tmp_path), 0
    for first, step in ((0, 1), (0, 8), (1, 7), (3, 2), (13, 16), (24, 3), (37, 5), (59, 1)):
        indices = np.arange(first, len(everything), step)
        shortened += reading._decode_some(tmp_path / "v", indices, len(everything)) is not None
        for order in (indices, indices[::-1], np.tile(indices, 2)):
            np.testing.assert_array_equal(reader.read("v", order, len(everything)), everything[order])
    assert (shortened == 0) == (coding in DECODED_THROUGH)


def test_frames_are_numbered_by_packets_where_their_number_is_the_video_s(clip_path):
    """The list's number is what extraction counted: where packets are not frames, all must be decoded."""
    assert reading._decode_some(clip_path, np.array([3]), 40) is not None
    assert reading._decode_some(clip_path, np.array([3]), 39) is None
    assert reading._decode_some(clip_path, np.array([3, 40]), 40) is None


def test_file_above_a_size_is_decoded_through(clip_path, monkeypatch):
    monkeypatch.setattr(reading, "MOST_BYTES", clip_path.stat().st_size - 1)
    assert reading._decode_some(clip_path, np.array([3]), 40) is None


def test_groups_without_a_sampled_frame_are_left_out(tmp_path, monkeypatch):
    moving(tmp_path / "v", "mp4", "libx264", {"bf": "3", "x264-params": "keyint=10:min-keyint=10:scenecut=0"})
    decoded = []
    original = reading._decode_group
    monkeypatch.setattr(
        reading, "_decode_group", lambda c, packets, s: decoded.append(len(packets)) or original(c, packets, s)
    )
    VideoReader(tmp_path).read("v", np.array([20, 40]), 60)
    assert decoded == [1, 1]


def timed(path: Path, times: list[int], base: int = 1000, rate: int = 25) -> Path:
    """A video whose frames are shown at those times, in parts of a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, base)
        stream.options = {"x264-params": "bframes=0"}
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number % 250, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def measured(path: Path) -> decoding.Measured:
    *frames, found = decoding.measured(path)
    assert frames == [frames[0]] * found.frames
    return found


def test_frame_rate_is_that_of_the_times_where_the_file_says_another(tmp_path):
    even = measured(timed(tmp_path / "even.mp4", [40 * n for n in range(50)]))
    assert (even.frames, even.height, even.width, even.rate) == (50, 64, 64, 25.0)
    assert list(decoding.measured(tmp_path / "even.mp4"))[:-1] == [50] * 50  # announced before the first one
    slow_end = [33 * n for n in range(300)] + [10_000 + 1000 * n for n in range(60)]
    assert measured(timed(tmp_path / "slow end.mkv", slow_end)).rate == pytest.approx(30.3, abs=0.1)
    jumping = [0] + [3_600_000 + 40 * n for n in range(1, 60)]
    assert measured(timed(tmp_path / "jumping.mkv", jumping)).rate == pytest.approx(25, abs=0.1)
    assert measured(timed(tmp_path / "one.mp4", [0])).rate == 25.0


@pytest.mark.parametrize(("timed", "rate"), [(25.2, 25.0), (27.5, 27.5), (22.5, 22.5)])
def test_announced_frame_rate_counts_where_the_times_are_within_two_percent_of_it(timed, rate):
    assert decoding._rate([number / timed for number in range(250)], 250, 25.0) == rate


@pytest.mark.parametrize(("container", "codec"), [("mkv", "libx264"), ("webm", "libvpx")])
def test_matroska_file_of_which_more_than_a_tenth_is_missing_is_cut_off(container, codec, tmp_path):
    path = tmp_path / f"a.{container}"
    with av.open(str(path), "w") as target:
        stream = target.add_stream(codec, rate=25, width=64, height=48)
        for number in range(40):
            image = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
            target.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        target.mux(stream.encode(None))
    whole = path.read_bytes()
    assert len(list(decode(path))) == 40
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(VideoError, match="cut off: the file ends before its content does"):
        list(decode(path))
    at = whole.index(b"\x18\x53\x80\x67") + 4
    unknown = b"\x01" + b"\xff" * 7  # the length of a recording that was not closed
    path.write_bytes((whole[:at] + unknown + whole[at + 8 :])[: len(whole) // 2])
    assert 10 < len(list(decode(path))) < 30
