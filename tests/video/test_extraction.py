"""Videos looked at, and frames packed from them: what is set aside, what can be read back, the same bytes each time."""

import functools
import shutil
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from r2plus1d.clips import items
from r2plus1d.config import schema
from r2plus1d.config.files import read_row
from r2plus1d.datasets import motion
from r2plus1d.datasets.encode import write_h264
from r2plus1d.system import errors, paths
from r2plus1d.system.files import sha256
from r2plus1d.video import extraction, groups, probe, sandbox, shards
from r2plus1d.video.decoding import VideoError, decode
from r2plus1d.video.groups import Listed, Machines
from r2plus1d.video.reading import VideoReader
from r2plus1d.zoo.rows import of_config, open_row
from tests.support.project import VIDEO_ROW, content

SAME_SIDE = "r2plus1d_r34_8x8x1_180e_kinetics400_rgb_320p"  # as `custom`
ROWS = (
    schema.CUSTOM,
    SAME_SIDE,
    VIDEO_ROW,
    *(f"r2plus1d_r34_{name}" for name in ("8x8x1_180e_kinetics400_rgb_256p", "32x2x1_180e_kinetics400_rgb")),
)


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


def look(folder, out, workers=0):
    found = probe.probe(folder, [Listed(f.name) for f in folder.iterdir()], out / "looking", Machines(workers))
    groups.forget(out / "looking")  # as the stage does when the tables are written
    return found


def extract(folder, out, workers=0, short_side=32) -> dict[str, str]:
    """Packs what can be read; the reasons of the videos that cannot."""
    readable, _, unreadable = look(folder, out, workers)
    listed, counts = [Listed(f.name) for f in folder.iterdir()], {row.path: row.frames for row in readable}
    extraction.extract(folder, listed, counts, short_side, out / "work", out / "frames", Machines(workers))
    return dict(unreadable)


@pytest.mark.parametrize("workers", [0, 2])
def test_frames_and_size_that_are_found_are_those_of_the_video_decoded_whole(broken, tmp_path, workers):
    write_h264(broken / "small.mp4", motion.render(0, 0, 2, 0, 48)[:7], motion.FPS)
    readable, *_ = look(broken, tmp_path, workers)
    decoded = {name: list(decode(broken / name)) for name in ("a good.mp4", "small.mp4", "z_good.mp4")}
    assert [row[:4] for row in readable] == [(name, len(f), *f[0].shape[:2]) for name, f in decoded.items()]
    assert readable[0][1:4] == (40, 64, 86)
    assert readable[1][1:] == (7, 48, 64, motion.FPS)


def test_unreadable_video_is_set_aside_and_reported(broken, tmp_path):
    aside = extract(broken, tmp_path)
    assert set(aside) == {"text.mp4", "empty.mp4", "truncated.mp4", "audio.mp4", "no_frames.mp4"}
    assert all(aside.values())
    assert aside["empty.mp4"] == "the file is empty"
    assert list(shards.read_index(tmp_path / "frames").index) == ["a good.mp4", "z_good.mp4"]
    for name, reason in aside.items():
        with pytest.raises(VideoError) as error:
            list(decode(broken / name))
        assert str(error.value) == reason


def test_video_that_changed_since_it_was_listed_is_set_aside(broken, tmp_path):
    listed = [Listed(file.name, sha256(file)) for file in broken.iterdir()]
    (broken / "z_good.mp4").write_bytes((broken / "a good.mp4").read_bytes() + b"more")
    readable, _, unreadable = probe.probe(broken, listed, tmp_path / "looking", Machines(0))
    assert "not the one noted in manifest.csv" in dict(unreadable)["z_good.mp4"]
    assert [row.path for row in readable] == ["a good.mp4"]
    (broken / "a good.mp4").unlink()
    groups.forget(tmp_path / "looking")
    assert dict(probe.probe(broken, listed, tmp_path / "looking", Machines(0))[2])["a good.mp4"] == (
        "No such file or directory"
    )


def test_video_that_changed_since_it_was_looked_at_ends_the_extraction_with_the_way_out(broken, tmp_path):
    video, out = broken / "z_good.mp4", tmp_path / "frames"
    listed, counts = [Listed(video.name, sha256(video))], {video.name: 40}
    pack = functools.partial(extraction.extract, broken, work=tmp_path / "w", out=out, short_side=32)
    video.write_bytes(video.read_bytes() + b"more")
    words = r"z_good\.mp4: it was readable, and is not now: its content is not .*run `R2PLUS1D_AGAIN=1 dvc"
    with pytest.raises(extraction.ExtractionError, match=words):
        pack(listed=listed, counts=counts, machines=Machines(0))
    with pytest.raises(extraction.ExtractionError, match="40 frames, and 41 before; run"):
        pack(listed=[Listed(video.name)], counts={video.name: 41}, machines=Machines(0))
    assert not out.exists()


def test_unreadable_video_leaves_its_neighbours_their_frames(broken, tmp_path):
    extract(broken, tmp_path)
    reader = shards.FrameReader(tmp_path / "frames")
    first, last = (reader.read(name, np.arange(40)) for name in ("a good.mp4", "z_good.mp4"))
    np.testing.assert_array_equal(first, last)
    with tarfile.open(tmp_path / "frames" / "shard-00000.tar") as tar:
        names = tar.getnames()
    assert len(names) == 80
    assert names[0] == "a good.mp4/img_00001.jpg"


def test_packed_frames_are_the_video_s(clip_path, tmp_path):
    extract(clip_path.parent, tmp_path, short_side=64)
    packed = shards.FrameReader(tmp_path / "frames").read(clip_path.name, np.arange(40))
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
    monkeypatch.setattr(groups, "VIDEOS_PER_GROUP", 1)
    folder = copies(clip_path, "abc", tmp_path / "videos")
    extract(folder, tmp_path / "one")
    write = extraction._write

    def fail_at_c(path, *rest):
        if path.name == "c.mp4":
            raise KeyboardInterrupt
        write(path, *rest)

    monkeypatch.setattr(extraction, "_write", fail_at_c)
    with pytest.raises(KeyboardInterrupt):
        extract(folder, tmp_path / "two")
    assert not (tmp_path / "two" / "frames").exists()
    written = []
    monkeypatch.setattr(extraction, "_write", lambda path, *rest: (written.append(path.name), write(path, *rest)))
    extract(folder, tmp_path / "two")
    assert written == ["c.mp4"]
    assert content(tmp_path / "one" / "frames") == content(tmp_path / "two" / "frames")
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["frames"]


def test_interrupted_look_at_the_videos_goes_on_where_it_stopped(broken, tmp_path, monkeypatch):
    monkeypatch.setattr(groups, "VIDEOS_PER_GROUP", 2)
    whole = look(broken, tmp_path / "one")
    measure = sandbox.measure

    def fail_at_z(path):
        if path.name == "z_good.mp4":
            raise KeyboardInterrupt
        return measure(path)

    monkeypatch.setattr(sandbox, "measure", fail_at_z)
    with pytest.raises(KeyboardInterrupt):
        look(broken, tmp_path / "two")
    measured = []
    monkeypatch.setattr(sandbox, "measure", lambda path: (measured.append(path.name), measure(path))[1])
    assert look(broken, tmp_path / "two") == whole
    assert measured == ["z_good.mp4"]
    assert list((tmp_path / "two").iterdir()) == []


def test_reader_keeps_no_file_open(clip_path, tmp_path, monkeypatch):
    """Kinetics-400 has thousands of shards; a process may often open 1024 files."""
    monkeypatch.setattr(groups, "VIDEOS_PER_GROUP", 1)
    folder = copies(clip_path, "abcd", tmp_path / "videos")
    extract(folder, tmp_path)
    reader = shards.FrameReader(tmp_path / "frames")
    before = len(list(Path("/dev/fd").iterdir()))
    for name in "abcd":
        reader.read(f"{name}.mp4", np.arange(3))
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_missing_frames_give_an_error_with_the_way_out(tmp_path, clip_path):
    with pytest.raises(errors.FrameError, match="dvc repro extract_frames"):
        shards.FrameReader(tmp_path)
    extract(clip_path.parent, tmp_path)
    reader = shards.FrameReader(tmp_path / "frames")
    with pytest.raises(errors.FrameError, match="has frames 0 to 39, not 0 to 40"):
        reader.read(clip_path.name, np.array([0, 40]))
    with pytest.raises(errors.FrameError, match=r"no frames of 'other\.mp4'"):
        reader.read("other.mp4", np.array([0]))


def test_row_of_the_same_short_side_takes_the_frames_over(project):
    first, second = (project.folder / "data/motion/frames" / row for row in (schema.CUSTOM, SAME_SIDE))
    assert "the frames of custom have the same short side: 40" in project.must("extract_frames", SAME_SIDE)
    assert content(second) == content(first)
    assert all((second / name).samefile(first / name) for name in content(first))
    shutil.rmtree(first)
    taken = content(second)
    shutil.rmtree(second)
    assert "have the same short side" not in project.must("extract_frames", SAME_SIDE), "no row has them now"
    assert content(second) == taken
    assert "the frames of r2plus1d_r34_8x8x1_180e_kinetics400_rgb_320p have" in project.must(
        "extract_frames", schema.CUSTOM
    )
    assert content(first) == taken


@pytest.mark.parametrize("name", ROWS)
def test_row_tested_on_the_fly_gets_the_views_of_packed_frames(prepared, monkeypatch, name):
    monkeypatch.chdir(prepared.folder)
    packed = open_row(schema.CUSTOM, schema.TestedRow)  # whose frames are there
    row = read_row(paths.CONFIGS, name, schema.TestedRow)
    same = {"input": "frames", "short_side": packed.config.clip.short_side, "storage": "on_the_fly"}
    config = row.model_copy(update={"row": schema.CUSTOM, "clip": row.clip.model_copy(update=same)})
    readers = packed.reader, of_config(config, "test").reader
    assert [type(reader) for reader in readers] == [shards.FrameReader, VideoReader]
    views = [items.TestVideos(config, packed.splits["val"], reader)[3].views(config) for reader in readers]
    assert torch.equal(*views)


def test_row_that_reads_videos_has_no_frames_packed(prepared):
    folder = prepared.folder / "data/motion/frames" / VIDEO_ROW
    assert list(content(folder)) == ["index.csv"]
    assert shards.read_index(folder).empty
