"""Packed frames: what is written, and what is refused."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from r2plus1d.system import errors
from r2plus1d.video import shards


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
def test_spoilt_places_are_refused(packed, places):
    np.save(packed / "shard-00000.npy", places)
    with pytest.raises(errors.FrameError, match=r"shard-00000\.tar"):
        shards.FrameReader(packed).read("b.mp4", np.array([3]))


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY\x01\x00\xff\xff{", b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{", b"PK\3\4", b"("]
)
def test_file_of_places_that_is_none_is_refused(packed, content):
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
def test_spoilt_index_is_refused(packed, old, new):
    index = (packed / "index.csv").read_text()
    assert old in index
    (packed / "index.csv").write_text(index.replace(old, new, 1))
    with pytest.raises(errors.FrameError, match=r"index\.csv: damaged"):
        shards.FrameReader(packed)


def test_frames_are_packed_at_quality_95_with_halved_chroma():
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    ours = Image.open(io.BytesIO(shards.encode(noise)))
    Image.fromarray(noise).save(other := io.BytesIO(), "jpeg", quality=95, subsampling="4:2:0")
    assert ours.quantization == Image.open(other).quantization
    assert JpegImagePlugin.get_sampling(ours) == JpegImagePlugin.get_sampling(Image.open(other))


@pytest.mark.parametrize(
    "video", ["a.mp4", "y" * 86, "y" * 87, "d" * 80 + "/" + "n" * 70, "n" * 200, "\u00fc/q.jpg/img_00001.jpg"]
)
def test_packed_frames_lie_in_the_tar_under_tarfile_s_own_header(tmp_path, video):
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
