"""Frames packed from videos: what is set aside, what can be read back, and the same bytes every time."""

import shutil
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest

from r2plus1d.system import errors
from r2plus1d.system.files import sha256
from r2plus1d.video import extraction, shards
from r2plus1d.video.decoding import decode
from tests.support.project import content


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


def test_unreadable_video_is_set_aside_and_reported(broken, tmp_path):
    aside = dict(extract(broken, tmp_path))
    assert set(aside) == {"text.mp4", "empty.mp4", "truncated.mp4", "audio.mp4", "no_frames.mp4"}
    assert all(aside.values())
    assert list(shards.read_index(tmp_path / "frames" / "256p").index) == ["a good.mp4", "z_good.mp4"]


def test_video_that_changed_since_it_was_listed_is_set_aside(broken, tmp_path):
    digests = {file.name: sha256(file) for file in broken.iterdir()}
    (broken / "z_good.mp4").write_bytes((broken / "a good.mp4").read_bytes() + b"more")
    names, sides = sorted(digests), {"256p": 32}
    aside = dict(extraction.extract(broken, names, sides, tmp_path / "w", tmp_path / "out", 0, None, digests))
    assert "not the one noted in manifest.csv" in aside["z_good.mp4"]
    assert list(shards.read_index(tmp_path / "out" / "256p").index) == ["a good.mp4"]


def test_unreadable_video_leaves_its_neighbours_their_frames(broken, tmp_path):
    extract(broken, tmp_path)
    reader = shards.FrameReader(tmp_path / "frames" / "256p")
    first, last = (reader.read(name, np.arange(40)) for name in ("a good.mp4", "z_good.mp4"))
    np.testing.assert_array_equal(first, last)
    with tarfile.open(tmp_path / "frames" / "256p" / "shard-00000.tar") as tar:
        names = tar.getnames()
    assert len(names) == 80
    assert names[0] == "a good.mp4/img_00001.jpg"


def test_packed_frames_are_the_video_s(clip_path, tmp_path):
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


def test_packed_frames_are_the_same_after_an_interruption(clip_path, tmp_path, monkeypatch):
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


def test_reader_keeps_no_file_open(clip_path, tmp_path, monkeypatch):
    """Kinetics-400 has thousands of shards; a process may often open 1024 files."""
    monkeypatch.setattr(extraction, "VIDEOS_PER_SHARD", 1)
    folder = copies(clip_path, "abcd", tmp_path / "videos")
    extract(folder, tmp_path)
    reader = shards.FrameReader(tmp_path / "frames" / "256p")
    before = len(list(Path("/dev/fd").iterdir()))
    for name in "abcd":
        reader.read(f"{name}.mp4", np.arange(3))
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_missing_frames_give_an_error_with_the_way_out(tmp_path, clip_path):
    with pytest.raises(errors.FrameError, match="dvc repro extract_frames"):
        shards.FrameReader(tmp_path)
    extract(clip_path.parent, tmp_path)
    reader = shards.FrameReader(tmp_path / "frames" / "256p")
    with pytest.raises(errors.FrameError, match="has frames 0 to 39, not 0 to 40"):
        reader.read(clip_path.name, np.array([0, 40]))
    with pytest.raises(errors.FrameError, match=r"no frames of 'other\.mp4'"):
        reader.read("other.mp4", np.array([0]))
