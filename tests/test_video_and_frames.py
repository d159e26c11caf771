"""Video files and packed frames: what is read, what is refused, and the same bytes every time."""

import hashlib
import shutil
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest

from r2plus1d.datasets import motion
from r2plus1d.datasets.encode import write_h264
from r2plus1d.system import errors
from r2plus1d.system.files import sha256
from r2plus1d.video import decoding, extraction, shards
from r2plus1d.video.decoding import VideoError, VideoReader, decode


def content(folder) -> dict:
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_generated_video_depends_on_more_than_its_seed(tmp_path):
    for name in ("a", "b"):
        write_h264(tmp_path / f"{name}.mp4", motion.render(3, 0, 2, 5, 64), motion.FPS)
    write_h264(tmp_path / "c.mp4", motion.render(4, 0, 2, 5, 64), motion.FPS)
    a, b, c = ((tmp_path / f"{name}.mp4").read_bytes() for name in "abc")
    assert a == b != c


def test_generated_video_is_not_short_side_h264_at_25_fps(tmp_path):
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


def test_fast_motions_show_at_an_interval_of_8_frames():
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


def test_slow_motions_do_not_show_at_an_interval_of_8_frames():
    for name in set(motion.CLASSES) - {"still", "shaking"}:
        assert change(name, 8) > 3 * change("still", 8), name


def test_brightness_of_single_frames_tells_the_classes_apart():
    """A first-order check of what the static control measures: means over the classes lie within their own spread."""
    samples = [
        [motion.render(0, 0, label, index, 64)[5::30, 0].mean() for index in range(6)]
        for label in range(len(motion.CLASSES))
    ]
    means, spread = np.mean(samples, axis=1), np.std(samples)
    assert np.std(means) < 3 * spread / np.sqrt(6)


def test_frames_read_from_a_video_are_not_the_ones_asked_for(clip_path):
    everything = np.stack(list(decode(clip_path)))
    wanted = np.array([[3, 0, 39], [3, 20, 3]])
    read = VideoReader(clip_path.parent).read(clip_path.name, wanted.ravel())
    np.testing.assert_array_equal(read, everything[wanted.ravel()])


def test_frame_past_the_end_is_replaced_by_another(clip_path):
    with pytest.raises(VideoError, match="frame 40 is missing"):
        VideoReader(clip_path.parent).read(clip_path.name, np.array([0, 40]))


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_metadata_is_ignored_or_turned_the_wrong_way(clip_path, tmp_path, degrees):
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


@pytest.fixture
def broken(tmp_path, clip_path):
    """A folder with two good videos and one of every bad kind."""
    folder = tmp_path / "videos"
    folder.mkdir()
    whole = clip_path.read_bytes()
    (folder / "a good.mp4").write_bytes(whole)
    (folder / "text.mp4").write_text("this is no video\n")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    with av.open(str(folder / "audio.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    with av.open(str(folder / "no_frames.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height = 64, 64
        container.start_encoding()
    (folder / "z_good.mp4").write_bytes(whole)
    return folder


def extract(folder, out, workers=0, short_sides=None):
    paths = [f.name for f in folder.iterdir()]
    return extraction.extract(folder, paths, short_sides or {"256p": 32}, out / "work", out / "frames", workers)


def test_unreadable_video_stops_the_extraction_or_goes_unreported(broken, tmp_path):
    aside = dict(extract(broken, tmp_path))
    assert set(aside) == {"text.mp4", "empty.mp4", "truncated.mp4", "audio.mp4", "no_frames.mp4"}
    assert all(aside.values())
    assert list(shards.read_index(tmp_path / "frames" / "256p").index) == ["a good.mp4", "z_good.mp4"]


def test_video_that_changed_since_it_was_listed_is_packed(broken, tmp_path):
    digests = {file.name: sha256(file) for file in broken.iterdir()}
    (broken / "z_good.mp4").write_bytes((broken / "a good.mp4").read_bytes() + b"more")
    names, sides = sorted(digests), {"256p": 32}
    aside = dict(extraction.extract(broken, names, sides, tmp_path / "w", tmp_path / "out", 0, None, digests))
    assert "not the one noted in manifest.csv" in aside["z_good.mp4"]
    assert list(shards.read_index(tmp_path / "out" / "256p").index) == ["a good.mp4"]


def test_unreadable_video_leaves_frames_that_spoil_its_neighbours(broken, tmp_path):
    extract(broken, tmp_path)
    reader = shards.FrameReader(tmp_path / "frames" / "256p")
    first, last = (reader.read(name, np.arange(40)) for name in ("a good.mp4", "z_good.mp4"))
    np.testing.assert_array_equal(first, last)
    with tarfile.open(tmp_path / "frames" / "256p" / "shard-00000.tar") as tar:
        names = tar.getnames()
    assert len(names) == 80
    assert names[0] == "a good.mp4/img_00001.jpg"


def test_packed_frames_are_not_the_video_s(clip_path, tmp_path):
    extract(clip_path.parent, tmp_path, short_sides={"256p": 64})
    packed = shards.FrameReader(tmp_path / "frames" / "256p").read(clip_path.name, np.arange(40))
    original = np.stack(list(decode(clip_path)))
    assert packed.shape == original.shape
    assert np.abs(packed.astype(int) - original).mean() < 4


def copies(clip: Path, names: str, folder: Path) -> Path:
    """The folder, with the clip under each name."""
    folder.mkdir()
    for name in names:
        shutil.copy(clip, folder / f"{name}.mp4")
    return folder


def test_packed_frames_depend_on_workers_or_on_an_interruption(clip_path, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "VIDEOS_PER_SHARD", 1)
    folder = copies(clip_path, "abc", tmp_path / "videos")
    extract(folder, tmp_path / "one")
    write = extraction._write

    def fail_at_c(path, writers):
        if path.name == "c.mp4":
            raise KeyboardInterrupt
        write(path, writers)

    monkeypatch.setattr(extraction, "_write", fail_at_c)
    with pytest.raises(KeyboardInterrupt):
        extract(folder, tmp_path / "two")
    assert not (tmp_path / "two" / "frames").exists()
    written = []
    monkeypatch.setattr(extraction, "_write", lambda path, writers: (written.append(path.name), write(path, writers)))
    extract(folder, tmp_path / "two")
    assert written == ["c.mp4"]
    assert content(tmp_path / "one" / "frames") == content(tmp_path / "two" / "frames")
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["frames"]


def test_reader_keeps_a_file_open_for_every_shard(clip_path, tmp_path, monkeypatch):
    """Kinetics-400 has thousands of shards; a process may often open 1024 files."""
    monkeypatch.setattr(extraction, "VIDEOS_PER_SHARD", 1)
    folder = copies(clip_path, "abcd", tmp_path / "videos")
    extract(folder, tmp_path)
    reader = shards.FrameReader(tmp_path / "frames" / "256p")
    before = len(list(Path("/dev/fd").iterdir()))
    for name in "abcd":
        reader.read(f"{name}.mp4", np.arange(3))
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_missing_frames_give_an_error_without_the_way_out(tmp_path, clip_path):
    with pytest.raises(errors.FrameError, match="dvc repro extract_frames"):
        shards.FrameReader(tmp_path)
    extract(clip_path.parent, tmp_path)
    reader = shards.FrameReader(tmp_path / "frames" / "256p")
    with pytest.raises(errors.FrameError, match="has frames 0 to 39, not 0 to 40"):
        reader.read(clip_path.name, np.array([0, 40]))
    with pytest.raises(errors.FrameError, match=r"no frames of 'other\.mp4'"):
        reader.read("other.mp4", np.array([0]))


@pytest.fixture
def packed(tmp_path):
    """A folder with two videos of four grey frames in one shard."""
    with shards.ShardWriter(tmp_path, 0) as writer:
        for video in ("a.mp4", "b.mp4"):
            writer.begin(video)
            for grey in range(4):
                writer.add(np.full((16, 16, 3), 60 * grey, np.uint8))
            writer.end()
    shards.write_index(tmp_path, writer.rows)
    return tmp_path


@pytest.mark.parametrize(
    "places",
    [
        np.full((8, 2), -1),
        np.full((8, 2), [0, -1]),
        np.full((8, 2), [0, 1 << 62]),
        np.full((8, 2), [1 << 62, 10]),
        np.full((8, 2), [0, 0]),
        np.full((8, 2), 512.0),
        np.full((8, 2), 512, np.int32),
        np.full((8, 3), 512),
        np.full(16, 512),
        np.full((2, 2), 512),
        np.full((8, 2), None),
    ],
)
def test_spoilt_places_are_read_from(packed, places):
    np.save(packed / "shard-00000.npy", places)
    with pytest.raises(errors.FrameError, match=r"shard-00000\.tar"):
        shards.FrameReader(packed).read("b.mp4", np.array([3]))


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY\x01\x00\xff\xff{", b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{", b"PK\3\4", b"("]
)
def test_file_of_places_that_is_none_ends_in_a_traceback(packed, content):
    (packed / "shard-00000.npy").write_bytes(content)
    with pytest.raises(errors.FrameError, match=r"shard-00000\.tar"):
        shards.FrameReader(packed).read("b.mp4", np.array([3]))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("b.mp4,0,4,4", "b.mp4,0,-4,4"),
        ("b.mp4,0,4,4", "b.mp4,-2,4,4"),
        ("b.mp4,0,4,4", "b.mp4,0,4,0"),
        ("b.mp4,0,4,4", "b.mp4,0,4,many"),
        ("b.mp4,0,4,4", "b.mp4,0,4.5,4"),
        ("b.mp4,0,4,4", "b.mp4,0,,4"),
        ("b.mp4,0,4,4", f"b.mp4,0,{10**30},4"),
        ("b.mp4", "a.mp4"),
        ("video,shard", "shard,video"),
        ("b.mp4,0", '"b.mp4,0'),
        ("16,16\n", "16,16,16\n"),
        ("video,shard,first,frames,height,width\n", ""),
    ],
)
def test_spoilt_index_is_read_from(packed, old, new):
    index = (packed / "index.csv").read_text()
    assert old in index
    (packed / "index.csv").write_text(index.replace(old, new, 1))
    with pytest.raises(errors.FrameError, match=r"index\.csv: damaged"):
        shards.FrameReader(packed)


@pytest.mark.parametrize(
    "video", ["a.mp4", "y" * 86, "y" * 87, "d" * 80 + "/" + "n" * 70, "n" * 200, "\u00fc/q.jpg/img_00001.jpg"]
)
def test_packed_frames_lie_in_the_tar_under_another_header_than_tarfile_s(tmp_path, video):
    with shards.ShardWriter(tmp_path, 0) as writer:
        writer.begin(video)
        for number, size in ((1, 0), (2, 511), (99_999, 8**8 + 7), (100_000, 30_000)):
            member = tarfile.TarInfo(f"{video}/img_{number:05d}.jpg")
            member.size = size
            assert writer._header(number, size) == member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        for size in (16, 40):
            writer.add(np.zeros((size, size, 3), np.uint8))
        writer.end()
    with tarfile.open(tmp_path / "shard-00000.tar") as tar:
        found = [(m.name, m.offset_data, m.size) for m in tar]
    assert [name for name, *_ in found] == [f"{video}/img_{number:05d}.jpg" for number in (1, 2)]
    assert [place for _, *place in found] == np.load(tmp_path / "shard-00000.npy").tolist()


# ---- Videos of which only a part is decoded ----

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
def test_leaving_out_what_is_not_sampled_changes_pixels(tmp_path, coding):
    moving(tmp_path / "v", *CODINGS[coding])
    everything = np.stack(list(decode(tmp_path / "v")))
    reader, shortened = VideoReader(tmp_path), 0
    for first, step in ((0, 1), (0, 8), (1, 7), (3, 2), (13, 16), (24, 3), (37, 5), (59, 1)):
        indices = np.arange(first, len(everything), step)
        shortened += decoding._decode_some(tmp_path / "v", indices, len(everything)) is not None
        for order in (indices, indices[::-1], np.tile(indices, 2)):
            np.testing.assert_array_equal(reader.read("v", order, len(everything)), everything[order])
    assert (shortened == 0) == (coding in DECODED_THROUGH)


def test_frames_are_numbered_by_packets_where_the_video_has_another_number_of_frames(clip_path):
    """The list's number is what extraction counted: where packets are not frames, all must be decoded."""
    assert decoding._decode_some(clip_path, np.array([3]), 40) is not None
    assert decoding._decode_some(clip_path, np.array([3]), 39) is None
    assert decoding._decode_some(clip_path, np.array([3, 40]), 40) is None


def test_file_of_any_size_is_kept_in_memory(clip_path, monkeypatch):
    monkeypatch.setattr(decoding, "MOST_BYTES", clip_path.stat().st_size - 1)
    assert decoding._decode_some(clip_path, np.array([3]), 40) is None


def test_groups_without_a_sampled_frame_are_decoded(tmp_path, monkeypatch):
    moving(tmp_path / "v", "mp4", "libx264", {"bf": "3", "x264-params": "keyint=10:min-keyint=10:scenecut=0"})
    decoded = []
    original = decoding._decode_group
    monkeypatch.setattr(
        decoding, "_decode_group", lambda c, packets, s: decoded.append(len(packets)) or original(c, packets, s)
    )
    VideoReader(tmp_path).read("v", np.array([20, 40]), 60)
    assert decoded == [1, 1]
