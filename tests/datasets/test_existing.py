"""Annotation lists, videos and frames that were there before: used where they lie, as they are."""

import json
import os
import shutil
import subprocess
import threading
import time

import numpy as np
import pytest
import simplejpeg
import yaml

from r2plus1d.clips import lists
from r2plus1d.config import files, schema
from r2plus1d.datasets import annotations
from r2plus1d.datasets.existing import find, survey
from r2plus1d.datasets.manifest import Entry
from r2plus1d.model import checkpoint
from r2plus1d.model.network import build
from r2plus1d.system import paths, records
from r2plus1d.system.errors import FrameError
from r2plus1d.video.decoding import decode
from r2plus1d.video.reading import VideoReader
from r2plus1d.zoo import update
from tests.support.project import VIDEO_ROW, Project, content, tiny_params

FRAME_NAME = "img_{:05}.jpg"
ROW = "r2plus1d_r34_8x8x1_180e_kinetics400_rgb_256p"
PREPARING = (("resolve",), ("scan",), ("download",), ("probe",), ("extract_frames", ROW), ("build_lists",))
RESULTS = (("train", ROW), ("test", ROW), ("benchmark", ROW))


@pytest.fixture
def own(prepared, tmp_path):
    """A folder of videos under Kinetics' names, frames of them in loose files, and lists of both."""
    root = tmp_path / "own"
    sources = sorted((prepared.folder / "data/motion/videos").rglob("*.mp4"))
    chosen = [s for s in sources if s.parent.name in ("falling", "shaking", "still") and s.parts[-3] != "test"]
    lines = {"train": [], "val": []}
    for number, source in enumerate(chosen):
        split, label = source.parts[-3], ("falling", "shaking", "still").index(source.parent.name)
        name = f"id-{number:02d}_x_{number:06d}_{number + 10:06d}"
        target = root / "videos" / source.parent.name / f"{name}.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
        folder = root / "frames" / source.parent.name / name
        folder.mkdir(parents=True)
        images = list(decode(source))
        for k, image in enumerate(images, 1):
            (folder / FRAME_NAME.format(k)).write_bytes(simplejpeg.encode_jpeg(image, 95, "RGB"))
        lines[split].append((f"{source.parent.name}/{name}", len(images), label))
    for split, entries in lines.items():
        write(root / f"{split}_videos.txt", [f"{path}.mp4 {label}" for path, _, label in entries])
        write(root / f"{split}_frames.txt", [f"{path} {count} {label}" for path, count, label in entries])
        ids = [f"{path.split('/')[1][:7]}, {count}, {label}" for path, count, label in entries]
        write(root / f"{split}_ids.txt", ids)
    write(root / "classes.txt", ["falling", "shaking", "still"])
    return root


def write(path, lines) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))


def source(own, kind="videos", content="videos", **changes) -> schema.ListsSource:
    values = {"train": str(own / f"train_{kind}.txt"), "val": str(own / f"val_{kind}.txt")}
    values |= {"kind": "lists", "content": content, "frame_name": FRAME_NAME, "labels": str(own / "classes.txt")}
    return schema.ListsSource(**values | changes)


def test_the_three_formats_lead_to_the_same_videos(own):
    by_path = find(source(own), own / "videos", 0)
    by_id = find(source(own, "ids"), own / "videos", 2)
    assert [row[:3] for row in by_path[0]] == [row[:3] for row in by_id[0]]
    for path in own.glob("*_videos.txt"):
        write(path, reversed(path.read_text().splitlines()))
    assert [row[0] for row in find(source(own), own / "videos", 0)[0]] == [
        line.split()[0] for split in ("train", "val") for line in (own / f"{split}_videos.txt").read_text().splitlines()
    ]
    assert by_path[1:] == by_id[1:] == ([], ["falling", "shaking", "still"])
    assert len(by_path[0][0]) == len(Entry._fields)
    frames = find(source(own, "frames", "frames"), own / "frames", 0)
    assert [(path, label) for path, label, *_ in frames[0]] == [(p[:-4], label) for p, label, *_ in by_path[0]]
    assert frames[0] == find(source(own, "ids", "frames"), own / "frames", 0)[0]


def test_missing_or_ambiguous_videos_are_reported(own):
    paths = sorted((own / "videos").rglob("*.mp4"))
    paths[0].unlink()
    paths[2].with_suffix(".json").write_text("beside the video, as downloaders leave it")
    shutil.copytree(paths[1].parent, own / "videos" / "copy")
    rows, aside, _ = find(source(own, "ids"), own / "videos", 0)
    assert len(rows) == 4
    assert [reason for *_, reason in aside] == ["listed, but not there", "listed, and there are 2 of that name"]


def test_video_short_of_listed_frames_is_set_aside(own):
    folder = sorted(p for p in (own / "frames").rglob("*") if p.name.startswith("id-"))[0]
    count = survey(folder, FRAME_NAME)[0]
    for spoil, state in ((folder / FRAME_NAME.format(7)).write_bytes, "empty"), (None, "missing"):
        spoil(b"") if spoil else (folder / FRAME_NAME.format(7)).unlink()
        rows, aside, _ = find(source(own, "frames", "frames"), own / "frames", 0)
        assert len(rows) == 5
        reason = f"{FRAME_NAME.format(7)} is {state}; {count} frames are listed"
        assert [(path, why) for path, _, why in aside] == [(str(folder.relative_to(own / "frames")), reason)]
    with pytest.raises(FrameError, match="is missing"):
        survey(folder, FRAME_NAME)


def test_frames_are_counted_without_what_else_lies_beside_them(own):
    """MMAction's own tool writes optical flow into the same folder."""
    folder = sorted(p for p in (own / "frames").rglob("*") if p.name.startswith("id-"))[0]
    before = survey(folder, FRAME_NAME)
    for name in ("flow_x_00001.jpg", "flow_y_00001.jpg", "img_thumb.jpg"):
        (folder / name).write_bytes(b"flow")
    assert survey(folder, FRAME_NAME) == before


def test_lists_of_another_folder_are_refused(own):
    with pytest.raises(annotations.ListError, match=r"none of the 6 videos listed is there; the first is falling/id-"):
        find(source(own), own / "frames", 0)


def test_labels_keep_their_numbers_where_a_class_is_missing(own):
    write(own / "val_videos.txt", [next(iter((own / "val_videos.txt").read_text().splitlines()))[:-1] + "2"])
    rows, _, classes = find(source(own, labels=None), own / "videos", 0)
    assert classes == ["0", "1", "2"]
    assert {label for _, label, split, *_ in rows if split == "val"} == {"2"}


def test_lists_of_frames_lead_to_videos_with_the_same_names(own):
    """And absolute paths below the folder to the same, too."""
    expected = find(source(own), own / "videos", 0)
    rows, aside, _ = find(source(own, "frames"), own / "videos", 0)
    assert aside == []
    assert [(row.path, row.label) for row in rows] == [(row.path, row.label) for row in expected[0]]
    assert all(row.frames > 0 for row in rows)
    for file in own.glob("*_videos.txt"):
        write(file, [f"{own}/videos/{line}" for line in file.read_text().splitlines()])
    assert find(source(own), own / "videos", 0) == expected
    (own / "videos" / rows[0].path).with_suffix(".avi").write_bytes(b"another")
    _, aside, _ = find(source(own, "frames"), own / "videos", 0)
    assert [reason for *_, reason in aside] == ["listed, and there are 2 of that name"]


def test_quoted_path_is_read_without_its_quotes(own):
    expected = find(source(own), own / "videos", 0)
    for file in own.glob("*_videos.txt"):
        write(file, [f'"{line[:-2]}" {line[-1]}' for line in file.read_text().splitlines()])
    assert find(source(own), own / "videos", 0) == expected


def test_comment_in_a_list_is_refused_and_backslashes_are_named(own):
    lines = (own / "val_videos.txt").read_text().splitlines()
    write(own / "val_videos.txt", ["# made in 2023", *lines])
    with pytest.raises(annotations.ListError, match=r"line 1: '# made in' looks like a comment; remove the line"):
        find(source(own), own / "videos", 0)
    write(own / "val_videos.txt", [line.replace("/", "\\") for line in lines])
    assert all(reason.endswith("write / between folders") for *_, reason in find(source(own), own / "videos", 0)[1])


@pytest.mark.parametrize("label", [0, 1])
def test_video_that_two_lines_name_is_refused_with_both(own, label):
    lines = (own / "train_videos.txt").read_text().splitlines()
    path, stem = lines[0].split()[0], lines[0].split("/")[1][:7]
    for again in (f"./{path} {label}", f"{stem} {label}"):  # by its path, by its id
        write(own / "train_videos.txt", [*lines, "", again])
        with pytest.raises(annotations.ListError) as error:
            find(source(own), own / "videos", 0)
        assert f"train_videos.txt, line 1, and {own}/train_videos.txt, line {len(lines) + 2}, name" in str(error.value)
        assert ("with labels 0 and 1: a video has one label" in str(error.value)) == (label == 1)


def test_labels_that_count_from_1_are_refused(own):
    for file in own.glob("*_videos.txt"):
        lines = [line.rsplit(" ", 1) for line in file.read_text().splitlines()]
        write(file, [f"{path} {int(label) + 1}" for path, label in lines])
    with pytest.raises(annotations.ListError, match=r"no line of the lists has label 0 \(the least is 1\)"):
        find(source(own, labels=None), own / "videos", 0)
    with pytest.raises(annotations.ListError, match="3 classes, but the lists have label 3; labels count from 0, not"):
        find(source(own), own / "videos", 0)


@pytest.mark.parametrize(
    ("line", "words"),
    [("../x.mp4 0", "without .."), ("/etc/passwd 0", "a path below"), ("a\x1b.mp4 0", "control"), ("x.mp4", "line 2")],
)
def test_list_that_leads_out_of_the_folder_is_refused(own, line, words):
    write(own / "val_videos.txt", ["falling/x.mp4 0", line])
    with pytest.raises(annotations.ListError, match=words):
        find(source(own), own / "videos", 0)


def test_label_or_number_of_frames_without_end_is_refused_quickly(own):
    write(own / "val_videos.txt", ["falling/x.mp4 999999999"])
    with pytest.raises(annotations.ListError, match="have label 999999999; give the classes' names"):
        find(source(own, labels=None), own / "videos", 0)
    with pytest.raises(annotations.ListError, match="3 classes, but the lists have label 999999999"):
        find(source(own), own / "videos", 0)
    lines = (own / "val_frames.txt").read_text().splitlines()
    write(own / "val_frames.txt", [lines[0].split()[0] + " 999999999 0"])
    began = time.monotonic()
    _, aside, _ = find(source(own, "frames", "frames"), own / "frames", 0)
    assert "is missing; 999999999 frames are listed" in aside[0][2]
    assert time.monotonic() - began < 5


def test_pipe_or_endless_device_is_set_aside_unread(own):
    (own / "videos/falling").mkdir(exist_ok=True)
    os.mkfifo(own / "videos/falling/pipe.mp4")
    (own / "videos/falling/zero.mp4").symlink_to("/dev/zero")
    (own / "videos/falling/loop.mp4").symlink_to("loop.mp4")
    names = [f"falling/{name}.mp4" for name in ("pipe", "zero", "loop")]
    write(own / "train_videos.txt", [f"{name} 0" for name in names])
    rows, aside, _ = find(source(own), own / "videos", 0)
    assert len(rows) == 3
    assert [path for path, *_ in aside] == sorted(names)


def test_pipe_or_odd_folder_found_by_an_id_is_set_aside_unread(own):
    video = next((own / "videos").rglob("*.mp4"))
    os.mkfifo(own / "videos/pipe.mp4")
    (own / "videos/two\nlines").mkdir()
    shutil.copy(video, own / "videos/two\nlines/odd.mp4")
    write(own / "train_ids.txt", ["pipe, 9, 0", "odd, 9, 0", f"{'n' * 300}, 9, 0"])
    found = []
    finding = threading.Thread(target=lambda: found.extend(find(source(own, "ids"), own / "videos", 0)), daemon=True)
    finding.start()
    finding.join(20)
    assert found, "still waiting, or ended by a traceback"
    rows, aside, _ = found
    assert len(rows) == 3
    assert [reason.split(",")[0] for *_, reason in aside] == ["listed", "its path is 'two\\nlines/odd.mp4'", "listed"]


def test_label_without_a_name_is_refused(own):
    write(own / "classes.txt", ["falling", "shaking"])
    with pytest.raises(annotations.ListError, match="2 classes, but the lists have label 2"):
        find(source(own), own / "videos", 0)


@pytest.mark.parametrize("count", [1, 2, 100])
@pytest.mark.parametrize("first", [0, 1])
def test_frames_are_counted_from_0_or_1(tmp_path, count, first):
    for k in range(first, first + count):
        (tmp_path / FRAME_NAME.format(k)).write_bytes(b"x" * k + b"x")
    (tmp_path / "thumbnail.png").touch()
    found, sizes = survey(tmp_path, FRAME_NAME)
    assert (found, list(sizes.values())) == (count, list(range(first + 1, first + count + 1)))


def test_endless_frame_is_refused_unread(tmp_path):
    with open(tmp_path / FRAME_NAME.format(1), "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FrameError, match="are read at most"):
        survey(tmp_path, FRAME_NAME)


def project_on(own, tmp_path, **changes) -> Project:
    params = tiny_params()
    params["dataset"] = "lists"
    params["datasets"]["lists"] |= {key: params["datasets"]["motion"][key] for key in ("scale", "runtime", "train")}
    params["datasets"]["lists"]["benchmark"] = params["datasets"]["motion"]["benchmark"]
    params["datasets"]["lists"]["source"] |= changes
    params["datasets"]["lists"]["path"] = str(own / changes["content"])
    return Project(tmp_path / "project", params)


@pytest.mark.slow
def test_frames_of_another_tool_are_trained_on_and_stay_as_they_are(own, tmp_path):
    before = content(own)
    changes = {"train": str(own / "train_frames.txt"), "val": str(own / "val_ids.txt")}
    project = project_on(own, tmp_path, content="frames", labels=str(own / "classes.txt"), **changes)
    for stage in (*PREPARING, *RESULTS):
        project.must(*stage)
    refused = project.run("train", VIDEO_ROW)
    assert refused.returncode == 1
    assert f"use -S zoo.{VIDEO_ROW}.input=frames" in refused.stderr
    assert json.loads((project.folder / "metrics/rows" / ROW / "test.json").read_text())["videos"] == 3
    assert content(own) == before
    assert not list((project.folder / "data").rglob("*.jpg"))
    assert list((project.folder / "data/lists/videos").iterdir()) == []


@pytest.mark.slow
def test_weights_are_tested_on_a_published_list_without_training_videos(own, tmp_path):
    labels, val = str(own / "classes.txt"), str(own / "val_ids.txt")
    project = project_on(own, tmp_path, content="videos", val=val, labels=labels)
    project.must("resolve")
    row = files.read_row(project.folder / "configs", ROW, schema.RowConfig)
    network = build(**update.build_arguments(row, 3))
    checkpoint.export_mmaction(network, tmp_path / "weights.pth")
    params = yaml.safe_load((project.folder / "params.yaml").read_text())
    params["zoo"][ROW]["checkpoint"] = str(tmp_path / "weights.pth")
    project.set(params)
    for stage in (*PREPARING, ("extract_frames", schema.CUSTOM), *RESULTS):
        project.must(*stage)
    assert json.loads((project.folder / "metrics/rows" / ROW / "test.json").read_text())["videos"] == 3
    refused = project.run("train", "custom")
    assert "there are no training videos; give the row a checkpoint" in refused.stderr


@pytest.mark.slow
def test_videos_in_place_give_the_lists_that_came(own, tmp_path):
    changes = {"train": str(own / "train_videos.txt"), "val": str(own / "val_videos.txt")}
    project = project_on(own, tmp_path, content="videos", **changes)
    for stage in PREPARING:
        project.must(*stage)
    folder = project.folder / "data/lists/lists"
    for split in ("train", "val"):
        ours = (folder / f"lists_{split}_list_videos.txt").read_text()
        assert ours == (own / f"{split}_videos.txt").read_text()
    reader = VideoReader(own / "videos")
    for sample in lists.read_samples(folder, "lists", "val"):
        assert len(reader.read(sample.path, np.array([sample.num_frames - 1]))) == 1
    recorded = json.loads((project.folder / paths.made_by(records.SHARED, "download")).read_text())["inputs"]
    assert {str(own / f"{split}_videos.txt") for split in ("train", "val")} <= recorded.keys()


@pytest.mark.parametrize(
    ("split", "way_out"), [("train", "leave that list out (train: null)"), ("val", "give another list")]
)
def test_list_of_which_no_video_is_there_is_refused_with_the_way_out(own, tmp_path, split, way_out):
    write(own / f"{split}_videos.txt", ["falling/gone.mp4 0", "shaking/gone.mp4 1"])
    changes = {"train": str(own / "train_videos.txt"), "val": str(own / "val_videos.txt")}
    project = project_on(own, tmp_path, content="videos", **changes)
    for stage in ("resolve", "scan", "download", "probe"):
        project.must(stage)
    refused = project.run("build_lists")
    assert refused.returncode == 1
    assert f"none of the 2 videos of {split} can be taken; the first is falling/gone.mp4: " in refused.stderr
    assert refused.stderr.endswith(f"; bring them, or {way_out}\n")


def test_list_in_another_encoding_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "train.txt").write_text("walking/a.mp4 0\n", encoding="utf-16")
    with pytest.raises(annotations.ListError, match=r"train\.txt: not a text file in UTF-8 .*, save it as UTF-8$"):
        annotations.read_text(tmp_path / "train.txt")


def test_missing_list_is_told_in_one_line(own, tmp_path):
    project = project_on(own, tmp_path, content="videos", val="no/such/list.txt")
    project.must("resolve")
    failed = project.run("download")
    assert failed.stderr == "error: no/such/list.txt: No such file or directory\n"
    params = yaml.safe_load((project.folder / "params.yaml").read_text())
    params["datasets"]["lists"]["source"]["val"] = None
    project.set(params)
    assert "source.val is null: give it the path of the validation list" in project.run("resolve").stderr
    subprocess.run(["rm", "-rf", str(project.folder)], check=True)
