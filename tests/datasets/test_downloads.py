"""Datasets from a server that keeps the public mirrors' layouts, and misbehaves on request."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import pytest

from r2plus1d.config import resolve
from r2plus1d.config.schema import DataConfig, KineticsSource, Limit, Machine, OfficialSource
from r2plus1d.datasets import dispatch, downloads, fetch, motion
from r2plus1d.datasets.archives import ReaderError
from r2plus1d.datasets.encode import write_h264
from tests.support.archives import rar, written, zipped
from tests.support.mirror import LABELS, Mirror, content, fill, name, put
from tests.support.project import Project, tiny_params
from tests.support.server import started

ROW = "r2plus1d_r34_8x8x1_180e_kinetics400_rgb_256p"
CHANGED = hashlib.shake_128(b"changed").digest(9000)


@pytest.fixture
def mirror(monkeypatch):
    monkeypatch.setattr(fetch, "PAUSE", 0.001)
    monkeypatch.setattr(fetch, "CHUNK", 1000)
    running = Mirror()
    with started(running):
        yield running


@pytest.fixture
def kinetics(mirror, tmp_path):
    """Four videos of each class and split in three parts; content that only looks like videos."""
    fill(mirror, "/400", tmp_path, content)
    return mirror


def source(mirror, base="/400", splits=("train", "val"), classes=None, videos_per_class=None, **values):
    limit = Limit(classes=classes, videos_per_class=videos_per_class, splits=list(splits))
    return KineticsSource(kind="kinetics", url=mirror.url + base, limit=limit, **{"skip": []} | values)


def bring(source, tmp_path, connections=2):
    """(rows, aside, classes) of the folder tmp_path/store."""
    store = tmp_path / "store"
    data = DataConfig(dataset="x", source=source, path=None, in_place=str(store / "videos"))
    machine = Machine(workers=0, scheduler=None, connections=connections, live="none")
    return dispatch.bring(data, tmp_path / "work", machine)


def test_videos_come_under_the_annotated_names_labels_and_splits(kinetics, tmp_path, capsys):
    rows, aside, classes = bring(source(kinetics), tmp_path)
    assert classes == list(LABELS)
    assert aside == []
    assert len(rows) == 24
    path, label, split, frames, size, digest = rows[4]
    assert path == "train/air_drumming/t1-_00abcde_000000_000010.mp4"
    assert (label, split, frames, size) == ("air drumming", "train", 0, len(content("train", 1, 0)))
    assert (tmp_path / "store/videos" / path).read_bytes() == content("train", 1, 0)
    assert len(digest) == 64
    assert len(written(tmp_path / "store" / "videos")) == 24
    assert not [file for file in written(tmp_path / "store") if file.endswith(".tar.gz")]
    assert "6 parts, " in capsys.readouterr().out
    note = json.loads((tmp_path / "store/parts/train-part_1.tar.gz.json").read_text())
    assert note["bytes"] == len(kinetics.files["/400/train/part_1.tar.gz"])
    assert list(note["members"]) == [f"./{name('train', label, 1)}" for label in range(3)]


def test_finished_download_asks_the_server_for_what_is_missing_alone(kinetics, tmp_path):
    first = bring(source(kinetics), tmp_path)
    kinetics.asked.clear()
    assert bring(source(kinetics), tmp_path) == first
    assert kinetics.asked == []
    (tmp_path / "store/videos" / first[0][0][0]).write_bytes(b"cut")
    assert bring(source(kinetics), tmp_path) == first
    assert kinetics.fetched() == ["/400/train/part_0.tar.gz"]


@pytest.mark.parametrize("connections", [1, 4])
def test_shaky_server_gives_the_same_videos(kinetics, tmp_path, connections):
    smooth = bring(source(kinetics), tmp_path / "smooth")
    kinetics.moods = {"/400/train/part_0.tar.gz": "cut once", "/400/val/part_1.tar.gz": "500 once"}
    kinetics.moods["/400/annotations/val.csv"] = "500 once"
    assert bring(source(kinetics), tmp_path / "shaky", connections) == smooth


def test_interrupted_download_goes_on_where_it_stopped(kinetics, tmp_path):
    kinetics.moods["/400/train/part_2.tar.gz"] = "cut"
    with pytest.raises(fetch.FetchError, match="gave up"):
        bring(source(kinetics), tmp_path, 1)
    kinetics.moods, came = {}, kinetics.fetched()
    assert "/400/train/part_0.tar.gz" in came
    kinetics.asked.clear()
    rows, aside, _ = bring(source(kinetics), tmp_path, 1)
    assert (len(rows), aside) == (24, [])
    assert "/400/train/part_0.tar.gz" not in kinetics.fetched()
    (asked,) = [asked for method, path, asked in kinetics.asked if method == "GET" and "train/part_2" in path]
    assert int(asked.removeprefix("bytes=").removesuffix("-")) > 0


def test_part_that_changed_between_two_attempts_comes_whole(kinetics, tmp_path):
    kinetics.moods["/400/val/part_2.tar.gz"] = "cut"
    with pytest.raises(fetch.FetchError):
        bring(source(kinetics, splits=["val"]), tmp_path, 1)
    kinetics.moods = {}
    put(kinetics, "/400/val/part_2.tar.gz", [(name("val", 0, 2), CHANGED)], tmp_path)
    _, aside, _ = bring(source(kinetics, splits=["val"]), tmp_path, 1)
    assert (tmp_path / "store/videos/val/abseiling" / name("val", 0, 2)).read_bytes() == CHANGED
    assert [(split, reason) for _, split, reason in aside] == [("val", "annotated, but not in the archives")] * 2


def test_part_that_changed_on_the_server_is_an_error_with_the_way_out(kinetics, tmp_path):
    rows, *_ = bring(source(kinetics, splits=["val"]), tmp_path)
    (tmp_path / "store/videos" / rows[0][0]).unlink()
    put(kinetics, "/400/val/part_0.tar.gz", [(name("val", 0, 0), b"changed")], tmp_path)
    with pytest.raises(downloads.DownloadError, match=r"another file than before.*remove .*val-part_0\.tar\.gz\.json"):
        bring(source(kinetics, splits=["val"]), tmp_path)


def test_subset_is_the_same_whatever_was_there_before_and_fetches_few_parts(kinetics, tmp_path):
    one = bring(source(kinetics, splits=["val"], classes=2, videos_per_class=1), tmp_path, 1)
    assert [row[0].split("/")[1] for row in one[0]] == ["abseiling", "air_drumming"]
    assert one[1:] == ([], list(LABELS))
    assert "/400/val/part_2.tar.gz" not in kinetics.fetched()
    assert not any("/train/part" in path for path in kinetics.fetched())
    assert len(written(tmp_path / "store/videos")) == 2
    more = bring(source(kinetics, splits=["val"], videos_per_class=3), tmp_path)
    assert more == bring(source(kinetics, splits=["val"], videos_per_class=3), tmp_path / "fresh")
    assert len(more[0]) == 9
    everything = bring(source(kinetics), tmp_path)
    assert everything == bring(source(kinetics), tmp_path / "fresh")
    kinetics.asked.clear()
    assert bring(source(kinetics, splits=["val"], classes=2, videos_per_class=1), tmp_path) == one
    assert kinetics.asked == []


def test_missing_and_surplus_videos_are_reported(kinetics, tmp_path):
    members = [(name("val", 0, 1), content("val", 0, 1)), ("stranger_000001_000011.mp4", b"x"), ("readme.txt", b"x")]
    put(kinetics, "/400/val/part_1.tar.gz", members, tmp_path)
    rows, aside, _ = bring(source(kinetics, splits=["val"]), tmp_path)
    assert len(rows) == 10
    assert sorted(aside) == [
        (f"val/air_drumming/{name('val', 1, 1)}", "val", "annotated, but not in the archives"),
        ("val/part_1.tar.gz/stranger_000001_000011.mp4", "", "in the archives, but not annotated"),
        (f"val/yoga/{name('val', 2, 1)}", "val", "annotated, but not in the archives"),
    ]


def test_video_whose_seconds_differ_from_the_annotation_is_found(kinetics, tmp_path):
    stem = name("val", 0, 1)[:11]
    put(kinetics, "/400/val/part_1.tar.gz", [(f"{stem}_000077_000087.mp4", b"other seconds")], tmp_path)
    rows, *_ = bring(source(kinetics, splits=["val"]), tmp_path)
    assert f"val/abseiling/{name('val', 0, 1)}" in [row[0] for row in rows]


def test_video_of_which_two_clips_are_annotated_is_known_by_its_seconds_alone(kinetics, tmp_path):
    stem = name("val", 0, 1)[:11]
    kinetics.files["/400/annotations/val.csv"] += f"yoga,{stem},50,60,val,0\n".encode()
    put(kinetics, "/400/val/part_1.tar.gz", [(f"{stem}_000077_000087.mp4", b"other seconds")], tmp_path)
    rows, aside, _ = bring(source(kinetics, splits=["val"]), tmp_path)
    assert not [row for row in rows if stem in row[0]]
    assert (f"val/part_1.tar.gz/{stem}_000077_000087.mp4", "", "in the archives, but not annotated") in aside


def test_corrupted_video_gives_way_to_its_replacement(kinetics, tmp_path):
    better = ("replacement_for_corrupted_k400/" + name("train", 2, 3), b"better")
    put(kinetics, "/400/replacement.tgz", [better], tmp_path)
    rows, aside, _ = bring(source(kinetics, replacements="replacement.tgz"), tmp_path)
    other = f"another file was taken as train/yoga/{name('train', 2, 3)}"
    assert (len(rows), aside) == (24, [(f"train/part_0.tar.gz/./{name('train', 2, 3)}", "", other)])
    assert (tmp_path / "store/videos/train/yoga" / name("train", 2, 3)).read_bytes() == b"better"


def test_training_video_that_is_also_in_val_is_set_aside(kinetics, tmp_path):
    put(kinetics, "/400/train/part_1.tar.gz", [(name("train", 0, 1), content("val", 0, 1))], tmp_path)
    rows, aside, _ = bring(source(kinetics), tmp_path)
    assert (
        f"train/abseiling/{name('train', 0, 1)}",
        "train",
        f"same content as val/abseiling/{name('val', 0, 1)}",
    ) in aside
    assert len(rows) == 21


def test_parts_named_after_classes_are_found_with_their_surplus(kinetics, tmp_path):
    """Kinetics-600: the names have blanks, the list is incomplete."""
    for split in ("train", "val"):
        lines = [f"https://s3.amazonaws.com/kinetics/400/{split}/{label}.tar.gz" for label in LABELS]
        kinetics.files[f"/400/{split}/k400_{split}_path.txt"] = "\n".join(lines).encode()
        for number, label in enumerate(LABELS):
            members = [(f"./{name(split, number, i)}", content(split, number, i)) for i in range(6)]
            put(kinetics, f"/400/{split}/{label}.tar.gz", members, tmp_path)
    rows, aside, _ = bring(source(kinetics, splits=["val"], classes=2), tmp_path)
    assert [row[0] for row in rows][-1] == f"val/air_drumming/{name('val', 1, 5)}"
    assert (len(rows), aside) == (12, [])
    assert "/400/val/yoga.tar.gz" not in kinetics.fetched()


def test_listed_video_keeps_its_place_where_a_clip_of_it_is_listed_for_another_class(kinetics, tmp_path):
    lines = [f"https://s3.amazonaws.com/kinetics/400/val/{label}.tar.gz" for label in LABELS]
    kinetics.files["/400/val/k400_val_path.txt"] = "\n".join(lines).encode()
    listed = name("val", 2, 0)
    other = f"{listed[:11]}_000077_000087.mp4"
    put(kinetics, "/400/val/abseiling.tar.gz", [(other, b"of abseiling")], tmp_path)
    put(kinetics, "/400/val/air drumming.tar.gz", [], tmp_path)
    put(kinetics, "/400/val/yoga.tar.gz", [(listed, b"of yoga")], tmp_path)
    bring(source(kinetics, splits=["val"]), tmp_path)
    assert (tmp_path / "store/videos/val/yoga" / listed).read_bytes() == b"of yoga"
    assert (tmp_path / "store/videos/val/abseiling" / other).read_bytes() == b"of abseiling"


def test_part_named_with_a_digest_leaves_in_place_what_came_of_the_others(kinetics, tmp_path):
    body = kinetics.files["/400/val/part_0.tar.gz"]
    digest = hashlib.sha256(body).hexdigest()
    kinetics.files[f"/400/val/part-{digest[:8]}.tgz"] = body
    lines = [f"https://x/part-{digest[:8]}.tgz", "https://x/part_1.tar.gz", "https://x/part_2.tar.gz"]
    kinetics.files["/400/val/k400_val_path.txt"] = "\n".join(lines).encode()
    kinetics.moods["/400/val/part_2.tar.gz"] = "cut"
    with pytest.raises(fetch.FetchError, match="gave up"):
        bring(source(kinetics, splits=["val"]), tmp_path, 4)
    note = json.loads((tmp_path / f"store/parts/val-part-{digest[:8]}.tgz.json").read_text())
    assert note["sha256"] == digest
    kinetics.moods, kinetics.asked = {}, []
    bring(source(kinetics, splits=["val"]), tmp_path)
    (asked,) = [asked for method, path, asked in kinetics.asked if method == "GET" and "val/part_2" in path]
    assert asked is not None


def test_damaged_part_or_an_error_page_can_be_skipped(kinetics, tmp_path):
    kinetics.files["/400/val/part_1.tar.gz"] = b"<html>sorry</html>"
    with pytest.raises(downloads.DownloadError, match=r"no archive.*add 'val/part_1\.tar\.gz' to .*source\.skip"):
        bring(source(kinetics, splits=["val"]), tmp_path)
    rows, aside, _ = bring(
        source(kinetics, splits=["val"], skip=["val/part_1.tar.gz", "train/part_1.tar.gz"]), tmp_path
    )
    assert len(rows) == 9
    assert ("val/part_1.tar.gz", "", "skipped, as params.yaml says") in aside
    with pytest.raises(downloads.DownloadError, match=r"no part 'part_1\.tar\.gz'; .* such as 'val/part_2\.tar\.gz'"):
        bring(source(kinetics, splits=["val"], skip=["part_1.tar.gz"]), tmp_path)


def test_part_that_the_server_refuses_is_named_with_the_way_to_skip_it(kinetics, tmp_path):
    del kinetics.files["/400/val/part_1.tar.gz"]
    with pytest.raises(downloads.DownloadError, match=r"status 404.*add 'val/part_1\.tar\.gz' to .*source\.skip"):
        bring(source(kinetics, splits=["val"]), tmp_path)


def test_part_with_links_stays_inside_and_is_reported(kinetics, tmp_path):
    link = tarfile.TarInfo(name("val", 0, 1))
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    put(kinetics, "/400/val/part_1.tar.gz", [link, ("../" + name("val", 1, 1), b"x")], tmp_path)
    _, aside, _ = bring(source(kinetics, splits=["val"]), tmp_path)
    assert (f"val/part_1.tar.gz/{name('val', 0, 1)}", "", "not a plain file") in aside
    assert (f"val/part_1.tar.gz/../{name('val', 1, 1)}", "", "its path leads out of the archive") in aside
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))


def test_leftovers_of_a_machine_that_stopped_are_cleared_by_the_next_run(kinetics, tmp_path):
    first = bring(source(kinetics), tmp_path)
    (tmp_path / "store/parts/val-part_1.tar.gz.json").write_text('{"url": "http')
    partial = tmp_path / "store/videos/val/yoga/.x.mp4.0123abcd.part"
    partial.write_bytes(b"half")
    assert bring(source(kinetics), tmp_path) == first
    assert not partial.exists()


def test_lack_of_room_is_noticed_before_the_first_part(kinetics, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(downloads.DownloadError, match=r"are needed, and 0\.0 GB are free; set datasets"):
        bring(source(kinetics), tmp_path)
    assert not any("part_" in path for path in kinetics.fetched())


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("/400/annotations/val.csv", "name,id\nx,y\n", "expected a table with the columns label"),
        (
            "/400/annotations/val.csv",
            "label,youtube_id,time_start,time_end\na,../../x,1,2\n",
            "line 2: 'a,../../x,1,2' is no class",
        ),
        ("/400/annotations/val.csv", "label,youtube_id,time_start,time_end\n..,abc,1,2\n", "is no class"),
        ("/400/val/k400_val_path.txt", "<html>\n", "expected addresses of .tar.gz files"),
        ("/400/val/k400_val_path.txt", "", "found 'nothing'"),
    ],
)
def test_annotations_of_another_layout_are_refused_and_fetched_again(kinetics, tmp_path, path, text, words):
    good = kinetics.files[path]
    kinetics.files[path] = text.encode()
    with pytest.raises(downloads.DownloadError) as error:
        bring(source(kinetics), tmp_path)
    assert words in str(error.value)
    kinetics.files[path] = good  # fetched again
    assert len(bring(source(kinetics), tmp_path)[0]) == 24


def test_one_malformed_line_is_set_aside_and_reported(kinetics, tmp_path):
    lines = kinetics.files["/400/annotations/val.csv"].decode().splitlines()
    lines[2:2] = ["yoga,#NAME?,1,11,val,0"]
    lines += [f"yoga,nowhere{i:04d},1.0,11.0,val,0" for i in range(100)]
    kinetics.files["/400/annotations/val.csv"] = "\n".join(lines).encode()
    rows, aside, _ = bring(source(kinetics), tmp_path)
    assert len(rows) == 24
    assert aside[0] == (
        "annotations/val.csv, line 3",
        "val",
        "'yoga,#NAME?,1,11' is no class, YouTube id and two seconds",
    )
    assert ("val/yoga/nowhere0000_000001_000011.mp4", "val", "annotated, but not in the archives") in aside


def official(mirror, tmp_path, kind, split=1, splits=("train", "val")):
    """Two classes of four videos, of which split 1 uses three."""
    videos = [
        (label, f"v_{label}_{i}.avi", f"{label}{i}".encode() * 100) for label in ("Apply", "Yo_Yo") for i in range(4)
    ]
    if kind == "ucf101":
        put(mirror, "/videos.rar", [(f"UCF-101/{label}/{file}", body) for label, file, body in videos], tmp_path, rar)
        lists = {"ucfTrainTestlist/classInd.txt": "1 Apply\n2 Yo_Yo\n"}
        for kind_, chosen in (("train", (0, 1)), ("test", (2,))):
            rows = [
                f"{label}/v_{label}_{i}.avi" + " 1" * (kind_ == "train") for label in ("Apply", "Yo_Yo") for i in chosen
            ]
            lists[f"ucfTrainTestlist/{kind_}list01.txt"] = "\r\n".join(rows)
        put(mirror, "/lists", [(name, text.encode()) for name, text in lists.items()], tmp_path, zipped)
    else:
        inner = []
        for label in ("Apply", "Yo_Yo"):
            rar(tmp_path / "inner", [(f"{label}/{file}", body) for own, file, body in videos if own == label])
            inner.append((f"{label}.rar", (tmp_path / "inner").read_bytes()))
        put(mirror, "/videos.rar", inner, tmp_path, rar)
        flags = [
            (
                f"splits/{label}_test_split1.txt",
                "".join(f"v_{label}_{i}.avi {f} \n" for i, f in enumerate("1120")).encode(),
            )
            for label in ("Apply", "Yo_Yo")
        ]
        put(mirror, "/lists", flags, tmp_path, rar)
    limit = Limit(splits=list(splits))
    addresses = {"videos": f"{mirror.url}/videos.rar", "annotations": f"{mirror.url}/lists"}
    return OfficialSource(kind=kind, split=split, limit=limit, skip=[], **addresses)


@pytest.mark.parametrize("kind", ["ucf101", "hmdb51"])
def test_official_split_is_the_official_one(mirror, tmp_path, kind):
    rows, aside, classes = bring(official(mirror, tmp_path, kind), tmp_path)
    assert classes == ["Apply", "Yo_Yo"]
    assert [(row[0], row[2]) for row in rows] == [
        (f"{label}/v_{label}_{i}.avi", ("train", "train", "val")[i]) for label in classes for i in range(3)
    ]
    assert {reason for *_, reason in aside} == {"in the archives, but not annotated"}
    assert len(aside) == 2
    assert (tmp_path / "store/videos" / rows[-1][0]).read_bytes() == b"Yo_Yo2" * 100
    with pytest.raises(downloads.DownloadError, match="no list of split 3; there are"):
        bring(official(mirror, tmp_path, kind, split=3), tmp_path)
    assert not list((tmp_path / "store/annotations").rglob("lists"))


@pytest.mark.parametrize("kind", ["ucf101", "hmdb51"])
def test_archives_that_the_user_fetched_are_used_where_the_server_is_dead(mirror, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(fetch, "ATTEMPTS", 1)
    monkeypatch.setattr(fetch, "PAUSE", 0.01)
    expected = bring(official(mirror, tmp_path, kind), tmp_path)
    shutil.rmtree(tmp_path / "store")
    dead = official(mirror, tmp_path, kind).model_copy(
        update={"videos": "http://127.0.0.1:9/videos.rar", "annotations": "http://127.0.0.1:9/lists"}
    )
    for file in ("lists", "videos.rar"):
        with pytest.raises(fetch.FetchError, match=f"or fetch it by other means, and put it to .*/store/given/{file}$"):
            bring(dead, tmp_path)
        (tmp_path / "store" / "given").mkdir(parents=True, exist_ok=True)
        (tmp_path / "store" / "given" / file).write_bytes(mirror.files[f"/{file}"])
    assert bring(dead, tmp_path) == expected
    assert sorted(file.name for file in (tmp_path / "store" / "given").iterdir()) == ["lists", "videos.rar"]
    shutil.rmtree(tmp_path / "store" / "videos")
    (tmp_path / "store" / "given" / "videos.rar").write_bytes(mirror.files["/videos.rar"][:700])
    with pytest.raises(downloads.DownloadError, match="is another file than before"):
        bring(dead, tmp_path)
    shutil.rmtree(tmp_path / "store" / "parts")
    with pytest.raises(downloads.DownloadError, match=r"videos\.rar.* Put a whole one there; to go on without"):
        bring(dead, tmp_path)


def test_missing_unrar_is_named_with_the_way_to_install_it(mirror, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "unrar.cffi", None)
    with pytest.raises(ReaderError, match=r"install it with: pip install '\.\[rar\]'"):
        bring(official(mirror, tmp_path, "hmdb51"), tmp_path)


def small_params(mirror) -> dict:
    """The tiny parameters on Kinetics-400 from `mirror`: two classes, one row, one epoch, two views a video."""
    params = tiny_params()
    params["dataset"], params["zoo"] = "kinetics400", {ROW: params["zoo"][ROW]}
    entry = params["datasets"]["kinetics400"]
    entry |= {key: params["datasets"]["motion"][key] for key in ("scale", "train", "benchmark")}
    entry["scale"]["depth"], entry["train"]["epochs"] = 10, 1
    params["runtime"] |= {"device": "cpu", "threads": 2}
    params["machine"] |= {"workers": 0, "connections": 2}
    entry["benchmark"] |= {"warmup_videos": 0, "videos": 1, "train_steps": 1}
    entry["source"] |= {"url": f"{mirror.url}/400", "replacements": None}
    params["limit"]["classes"] = 2
    params["recipe"]["test"] |= {"clips": 2, "crops": 1}
    return params


ALL_STAGES = """
import runpy, sys
SHARED = ("resolve", "scan", "download", "probe", "extract_frames", "build_lists")
EACH_ROW = ("extract_frames", "one_frame", "train", "test", "benchmark")
for stage in (*SHARED, "baselines", *EACH_ROW[1:], "report"):
    rows = sys.argv[1:] if stage in EACH_ROW else []
    runpy.run_path(f"stages/{stage}.py")["main"](*rows)
"""


@pytest.mark.slow
def test_mini_kinetics_goes_through_the_whole_pipeline(mirror, tmp_path):
    def make(split, label, index):
        path = tmp_path / f"{split}{label}{index}.mp4"
        write_h264(path, motion.render(0, ("train", "val").index(split), (0, 4, 7)[label], index, 32)[:80], motion.FPS)
        return path.read_bytes()

    fill(mirror, "/400", tmp_path / "mirror", make, count=2)
    put(mirror, "/400/val/part_0.tar.gz", [(name("val", 0, 0), b"broken")], tmp_path)
    project = Project(tmp_path / "project", small_params(mirror))
    (project.folder / "all.py").write_text(ALL_STAGES)
    done = project.run(
        "../all", ROW, OFFLINE="but-this-machine"
    )  # in one process: most of a stage's time here is the import of torch
    assert done.returncode == 0, done.stderr
    assert json.loads((project.folder / "metrics/coverage.json").read_text()) == {
        "classes": 2,
        "train": {"listed": 4, "found": 4, "readable": 4},
        "val": {"listed": 4, "found": 3, "readable": 2},
        "suspected_pairs": 0,
    }
    assert (project.folder / "data/kinetics400/lists/label_map.txt").read_text().splitlines() == list(LABELS)
    aside = (project.folder / "data/kinetics400/set_aside.csv").read_text()
    assert f'val/air_drumming/{name("val", 1, 0)},val,"annotated, but not in the archives"' in aside
    assert name("val", 0, 0) in (project.folder / "data/kinetics400/unreadable.csv").read_text()
    details = (project.folder / "metrics/report/details.md").read_text()
    assert "| 2 of 4 |" in details
    assert "Validation: 4 listed, 3 found, 2 readable" in details
    measured = (project.folder / "metrics/report/measured.md").read_text()
    assert "2 classes, 4 training and 2 validation videos" in measured


@pytest.mark.slow
def test_killed_download_keeps_its_parts_and_ends_with_the_same_videos(mirror, tmp_path):
    def make(*which):  # more than what is written at a time
        return hashlib.shake_128(repr(which).encode()).digest(1_000_000)

    fill(mirror, "/400", tmp_path / "mirror", make)
    project = Project(tmp_path / "project", small_params(mirror))
    project.must("resolve")
    mirror.moods["/400/val/part_1.tar.gz"] = "hang"
    environment = {**os.environ, "PYTHONPATH": str(project.folder / "src")}
    process = subprocess.Popen([sys.executable, "stages/download.py"], cwd=project.folder, env=environment)
    assert mirror.hanging.wait(60)
    unpacked = project.folder / "downloads/kinetics400/parts/val-part_0.tar.gz.json"
    deadline = time.monotonic() + 60
    while not unpacked.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    mirror.moods, mirror.asked = {}, []
    project.must("download", OFFLINE="but-this-machine")
    assert {path for path in mirror.fetched() if "/part_" in path} <= {f"/400/val/part_{i}.tar.gz" for i in (1, 2)}
    (asked,) = [asked for method, path, asked in mirror.asked if method == "GET" and "val/part_1" in path]
    assert int(asked.removeprefix("bytes=").removesuffix("-")) > 0
    manifest = (project.folder / "data/kinetics400/manifest.csv").read_text()
    fresh = Project(tmp_path / "fresh", small_params(mirror))
    fresh.must("resolve")
    fresh.must("download", OFFLINE="but-this-machine")
    assert (fresh.folder / "data/kinetics400/manifest.csv").read_text() == manifest


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("datasets.kinetics400.source.url", "s3.amazonaws.com/kinetics/400", "source.url is 's3.amazonaws.com"),
        ("limit.clases", 3, "limit: unknown key 'clases': did you mean 'classes'"),
        ("limit.classes", 0, "limit.classes is 0"),
        ("limit.splits", ["test"], "limit.splits"),
        ("limit.splits", ["train"], "expected [val] or [train, val]"),
        ("datasets.kinetics400.source.skip", "part_1.tar.gz", "source.skip is 'part_1.tar.gz'"),
        ("machine.connections", 0, "a number from 1 to 16"),
    ],
)
def test_wrong_parameter_of_a_download_is_refused(params, path, value, words):
    place = params
    *parents, last = path.split(".")
    for key in parents:
        place = place[key]
    place[last] = value
    with pytest.raises(resolve.ConfigError) as error:
        resolve.resolve(params)
    assert words in str(error.value)
