"""A user's own folder of videos: splits, exclusions, and errors that say what to do."""

import errno
import hashlib
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
from collections import Counter

import pytest

from r2plus1d.clips import lists
from r2plus1d.config import resolve
from r2plus1d.config.files import dump
from r2plus1d.config.schema import DataConfig, FolderSource, Machine, MotionSource
from r2plus1d.datasets import annotations, dispatch, manifest, motion
from r2plus1d.datasets import folder as folder_dataset
from r2plus1d.datasets.encode import write_h264
from r2plus1d.datasets.manifest import Probed
from r2plus1d.system import errors, files, paths
from tests.support.project import ROOT, Project, tiny_params

ROW = "r2plus1d_r34_8x8x1_180e_kinetics400_rgb_256p"


@pytest.fixture
def folder(tmp_path, clip_path):
    """Three classes of four different files that look like videos; `bring` does not decode."""
    root = tmp_path / "mine"
    for label in ("dips", "pull ups", "squats"):
        (root / label).mkdir(parents=True)
        for i in range(4):
            (root / label / f"{label}_{i}.mp4").write_bytes(clip_path.read_bytes() + f"{label}{i}".encode())
    return root


MACHINE = Machine(workers=0, scheduler=None, connections=1, live="none")


def configured(folder) -> DataConfig:
    source = FolderSource(kind="folder", seed=0, val_share=0.3, group="auto")
    return DataConfig(dataset="folder", source=source, path=str(folder))


def bring(folder, tmp_path):
    rows, aside, _ = dispatch.bring(configured(folder), tmp_path / "work", MACHINE)
    files.replace_folder(tmp_path / "work", tmp_path / "videos")  # as the stage does at its end
    return rows, aside


def test_videos_of_a_folder_without_train_and_val_are_divided_later(folder, tmp_path):
    rows, aside = bring(folder, tmp_path)
    assert aside == []
    assert {row.split for row in rows} == {""}


def test_given_train_val_and_test_folders_are_the_split(folder, tmp_path):
    for split in ("train", "val", "test"):
        shutil.copytree(folder, tmp_path / "all" / split)
    rows, _ = bring(tmp_path / "all", tmp_path)
    assert len(rows) == 36
    assert all(path.startswith(f"{split}/{label}/") for path, label, split, *_ in rows)


@pytest.mark.parametrize(("there", "missing"), [("train", "val/ or test/"), ("val", "train/"), ("test", "train/")])
def test_split_alone_is_refused_with_what_is_missing(folder, tmp_path, there, missing):
    shutil.copytree(folder, tmp_path / "all" / there)
    with pytest.raises(manifest.DataError, match=f"there is {there}/ but no {missing}; add it"):
        bring(tmp_path / "all", tmp_path)


def test_videos_of_train_are_divided_later_where_there_is_test_and_no_val(folder, tmp_path):
    for split in ("Training", "test"):
        shutil.copytree(folder, tmp_path / "all" / split)
    (tmp_path / "all" / "Training" / "dips" / "notes.txt").touch()
    rows, aside = bring(tmp_path / "all", tmp_path)
    assert {(row.path.split("/")[0], row.split) for row in rows} == {("Training", ""), ("test", "test")}
    assert [one.split for one in aside] == [""]


def test_user_s_own_files_are_copied_and_stay_as_they_are(folder, tmp_path):
    before = {f: (f.stat().st_ino, f.stat().st_mode, f.read_bytes()) for f in folder.rglob("*.mp4")}
    bring(folder, tmp_path)
    assert {f: (f.stat().st_ino, f.stat().st_mode, f.read_bytes()) for f in folder.rglob("*.mp4")} == before
    copies = {f.stat().st_ino for f in (tmp_path / "videos").rglob("*.mp4")}
    assert len(copies) == 12
    assert copies.isdisjoint(inode for inode, _, _ in before.values())


@pytest.mark.parametrize("top", ["", "train/"])
def test_repeated_content_is_set_aside_within_a_class_and_refused_between_two(folder, tmp_path, top):
    root = folder
    if top:
        root = tmp_path / "divided"
        shutil.copytree(folder, root / "train")
        for number, video in enumerate(sorted(folder.rglob("*_0.mp4"))):
            (root / "val" / video.parent.name).mkdir(parents=True)
            (root / "val" / video.parent.name / "v.mp4").write_bytes(str(number).encode())
    shutil.copy(root / top / "dips" / "dips_0.mp4", root / top / "dips" / "later.mp4")
    rows, aside = bring(root, tmp_path)
    assert aside == [(f"{top}dips/later.mp4", top[:-1], f"same content as {top}dips/dips_0.mp4")]
    assert len(rows) == (15 if top else 12)
    shutil.copy(root / top / "dips" / "dips_1.mp4", root / top / "squats" / "again.mp4")
    with pytest.raises(manifest.DataError, match=f"{top}dips/dips_1.mp4 and {top}squats/again.mp4 are the same video"):
        bring(root, tmp_path)


@pytest.mark.parametrize(
    "names",
    ["Train Val", "training validation TEST", "train valid", "trn dev", "train_set val_set", "trainset vals"],
)
def test_splits_are_known_by_their_usual_names(folder, tmp_path, names):
    for name in names.split():
        shutil.copytree(folder, tmp_path / "all" / name)
    shutil.copytree(folder, tmp_path / "all" / "extra")
    shutil.copy(folder / "dips" / "dips_0.mp4", tmp_path / "all" / "loose.mp4")
    rows, aside = bring(tmp_path / "all", tmp_path)
    assert {row.split for row in rows} == {"train", "val", "test"} if "TEST" in names else {"train", "val"}
    assert {row.label for row in rows} == {"dips", "pull ups", "squats"}
    passed_over = [path for path, split, reason in aside if split == "" and "nothing says its split" in reason]
    assert len(passed_over) == len(aside) == 13
    assert "loose.mp4" in passed_over


def test_two_folders_for_one_split_are_refused(folder, tmp_path):
    for name in ("train", "val", "validation"):
        shutil.copytree(folder, tmp_path / "all" / name)
    with pytest.raises(manifest.DataError, match="val/ and validation/ both stand for the split val"):
        bring(tmp_path / "all", tmp_path)


def test_class_that_is_called_like_a_split_has_a_way_out(folder, tmp_path):
    (folder / "squats").rename(folder / "training")
    with pytest.raises(manifest.DataError, match="Where training is the name of a class, rename that folder, or put"):
        bring(folder, tmp_path)
    for split in ("train", "val"):
        shutil.copytree(folder, tmp_path / "all" / split)
    rows, _ = bring(tmp_path / "all", tmp_path)
    assert {row.label for row in rows} == {"dips", "pull ups", "training"}


def test_videos_beside_the_classes_are_named(folder, tmp_path):
    shutil.copy(folder / "dips" / "dips_0.mp4", folder / "IMG_1.MP4")
    _, aside = bring(folder, tmp_path)
    assert aside == [("IMG_1.MP4", "", "in no folder of a class")]


@pytest.mark.parametrize(("one", "other"), [("\u00e9", "e\u0301"), ("Dips", "dips"), ("dips", "dips ")])
def test_classes_whose_names_look_the_same_are_refused(folder, tmp_path, one, other):
    (folder / "dips").rename(folder / one)
    (folder / "squats").rename(folder / other)
    with pytest.raises(manifest.DataError, match="differ by case, a blank at the end or the form of Unicode alone"):
        bring(folder, tmp_path)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_split_without_videos_is_refused_before_any_work(folder, tmp_path, split):
    for name in ("train", "val", "test"):
        shutil.copytree(folder, tmp_path / "all" / name)
    for video in (tmp_path / "all" / split).rglob("*.mp4"):
        video.rename(video.with_suffix(".webp"))
    words = rf"{split}: no videos in folders of classes; 12 passed over, the first is {split}/dips/dips_0\.webp \("
    with pytest.raises(manifest.DataError, match=words):
        bring(tmp_path / "all", tmp_path)


def test_folder_that_is_all_passed_over_says_why(folder, tmp_path):
    (tmp_path / "links").mkdir()
    for label in ("dips", "squats"):
        (tmp_path / "links" / label).symlink_to(folder / label)
    with pytest.raises(manifest.DataError, match=r"; 2 passed over, the first is dips \(a link to a folder"):
        bring(tmp_path / "links", tmp_path)


def test_files_that_are_no_videos_are_reported(folder, tmp_path):
    (folder / "README.md").write_text("beside the classes")
    (folder / "dips" / "notes.txt").write_text("not a video")
    (folder / "dips" / ".hidden.mp4").write_bytes(b"")
    (folder / "dips" / "gone.mp4").symlink_to("nowhere")
    (folder / "dips" / "new\nline.mp4").write_bytes(b"x")
    (folder / "dips" / "loop").symlink_to(folder)
    (folder / "linked class").symlink_to(folder / "squats")
    rows, aside = bring(folder, tmp_path)
    assert len(rows) == 12
    files = {"dips/notes.txt", "dips/gone.mp4", repr("dips/new\nline.mp4")}
    assert {path for path, *_ in aside} == {*files, "dips/loop", "linked class"}


def test_pipe_or_socket_is_set_aside_unread(folder, tmp_path, monkeypatch):
    os.mkfifo(folder / "dips" / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as bound:
        monkeypatch.chdir(folder / "dips")  # a socket's path has 100 bytes at most
        bound.bind("socket.mp4")
    (folder / "dips" / "zero.mp4").symlink_to("/dev/zero")
    (folder / "dips" / "loop.mp4").symlink_to("loop.mp4")
    (folder / "dips" / "folder.mp4").mkdir()
    rows, aside = bring(folder, tmp_path)
    assert len(rows) == 12
    assert [path for path, *_ in aside] == [f"dips/{name}.mp4" for name in ("loop", "pipe", "socket", "zero")]
    assert {reason for *_, reason in aside} == {"not a file, or a link to nowhere"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_set_aside_and_reported(folder, tmp_path):
    (folder / "dips" / "dips_0.mp4").chmod(0)
    (folder / "squats").chmod(0)
    try:
        rows, aside = bring(folder, tmp_path)
    finally:
        (folder / "squats").chmod(0o700)
    assert len(rows) == 7
    assert aside == [
        ("dips/dips_0.mp4", "", "may not be read"),
        ("squats", "", "a folder that cannot be read: Permission denied"),
    ]


def test_folder_that_cannot_be_read_is_reported(folder, tmp_path, monkeypatch):
    scandir = os.scandir

    def failing(path):
        if str(path).endswith("squats"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    assert ("squats", "", "a folder that cannot be read: Permission denied") in bring(folder, tmp_path)[1]


def test_classes_that_differ_in_a_blank_are_numbered_the_same_in_every_process(folder, tmp_path, clip_path):
    """Sorted as if `_` were a blank, they are equal, and the order of a set is another in every process."""
    (folder / "pull_ups").mkdir()
    for i in range(2):
        (folder / "pull_ups" / f"{i}.mp4").write_bytes(clip_path.read_bytes() + bytes([i]))
    code = (
        "import sys; from pathlib import Path; from r2plus1d.config.schema import DataConfig, Machine; "
        "from r2plus1d.datasets import dispatch; "
        "data, machine = DataConfig.model_validate_json(sys.argv[1]), Machine.model_validate_json(sys.argv[2]); "
        "print(dispatch.bring(data, Path(sys.argv[3]), machine)[2])"
    )
    configurations = [configured(folder).model_dump_json(), MACHINE.model_dump_json()]
    found = set()
    for number in range(3):
        command = [sys.executable, "-c", code, *configurations, str(tmp_path / f"work{number}")]
        environment = {**os.environ, "PYTHONHASHSEED": str(number), "PYTHONPATH": str(ROOT / "src")}
        found.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert found == {"['dips', 'pull ups', 'pull_ups', 'squats']\n"}


LEGAL = [
    "two  blanks and one at the end .mp4",
    "-rf.mp4",
    "--help.mp4",
    "quotes ' \" `.mp4",
    "a, b, 3.mp4",
    "# 100% $HOME {} *.mp4",
    "caf\u00e9.mp4",
    "cafe\u0301.mp4",
    "A.mp4",
    "a.mp4",
    "1 2 3.MP4",
    "back\\slash.mp4",
    "x" * 251 + ".mp4",
    "\u8df3" * 83 + ".mp4",
    "NA.mp4",
    "=1+1.mp4",
]
NOT_IN_LISTS = [
    "new\nline.mp4",
    "carriage\rreturn.mp4",
    "tab\t.mp4",
    "bidi\u202etxt.mp4",
    "no\u200bwidth.mp4",
    "nel\x85.mp4",
]
CLASSES = ["-v", "NA", "q\"u,o'te", "\u00e9", "#1 "]


@pytest.mark.slow
def test_videos_of_all_legal_names_reach_a_training(tmp_path):
    """Through the manifest, the index, the tar, the lists and the label map, into a training."""
    root, number = tmp_path / "mine", 0
    for label in CLASSES:
        for name in LEGAL if label == "-v" else ["1.mp4", "2.mp4"]:
            (root / label).mkdir(parents=True, exist_ok=True)
            write_h264(root / label / name, motion.render(0, 0, 1, number, 32)[: 8 + number % 3], motion.FPS)
            number += 1
    video = (root / "-v" / "a.mp4").read_bytes()
    for name in NOT_IN_LISTS:
        with open(os.path.join(os.fsencode(root / "NA"), os.fsencode(name)), "wb") as file:
            file.write(video)
    (root / " blank").mkdir()
    (root / " blank" / "1.mp4").write_bytes(video)
    (root / "-v" / "empty.mp4").touch()
    (root / "NA" / "notes.txt").touch()
    params = tiny_params()
    params["dataset"], params["datasets"]["folder"]["path"] = "folder", str(root)
    copied = {key: params["datasets"]["motion"][key] for key in ("scale", "runtime", "train", "benchmark")}
    params["datasets"]["folder"] |= copied | {"train": {**copied["train"], "epochs": 1, "videos_per_gpu": 17}}
    project = Project(tmp_path / "project", params)
    for stage in (("resolve",), ("scan",), ("download",), ("probe",), ("extract_frames", ROW), ("build_lists",)):
        project.must(*stage, LC_ALL="C")
    project.must("train", ROW)
    data = project.folder / "data" / "folder"
    read = {s.path for split in ("train", "val") for s in lists.read_samples(data / "lists", "folder", split)}
    assert read == {f"-v/{name}" for name in LEGAL} | {f"{label}/{n}.mp4" for label in CLASSES[1:] for n in (1, 2)}
    labels = (data / "lists" / "label_map.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(labels) == sorted(CLASSES)
    aside = manifest.read_table(data / "set_aside.csv")
    assert len(aside) == len(NOT_IN_LISTS) + 2
    assert all(path.isprintable() for path in aside["path"])
    assert manifest.read_table(data / "unreadable.csv")["path"].tolist() == ["-v/empty.mp4"]


def test_share_of_train_is_listed_for_validation_where_there_is_test_and_no_val(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.move(folder, tmp_path / "all" / "train")
    for file in (tmp_path / "all" / "train").rglob("*.mp4"):
        other = tmp_path / "all" / "test" / file.relative_to(tmp_path / "all" / "train")
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_bytes(file.read_bytes() + b"of the test")
    config, videos = configured(tmp_path / "all"), paths.data("folder") / "videos"
    rows, _, classes = dispatch.bring(config, videos, MACHINE)
    manifest.write_table(paths.manifest("folder"), rows, manifest.Entry)
    manifest.write_table(paths.set_aside("folder"), [], manifest.SetAside)
    manifest.write_table(paths.probe("folder"), [Probed(row.path, 8, 64, 64, 25.0) for row in rows], Probed)
    manifest.write_table(paths.looks("folder"), [], manifest.Looks)
    files.write_text(paths.classes("folder"), "".join(f"{name}\n" for name in classes))
    runpy.run_path(str(ROOT / "stages/build_lists.py"))["build"](config, "none")
    listed = {split: lists.read_samples(paths.lists("folder"), "folder", split) for split in lists.SPLITS}
    folders = {split: {sample.path.split("/")[0] for sample in samples} for split, samples in listed.items()}
    assert folders == {"train": {"train"}, "val": {"train"}, "test": {"test"}}
    counts = {split: Counter(sample.label for sample in samples) for split, samples in listed.items()}
    assert counts == {split: dict.fromkeys(range(3), n) for split, n in (("train", 3), ("val", 1), ("test", 4))}


def test_leftovers_of_an_interrupted_run_stay_out_of_the_dataset(folder, tmp_path):
    (tmp_path / "work" / "dips").mkdir(parents=True)
    (tmp_path / "work" / "dips" / "deleted_since.mp4").write_bytes(b"old")
    bring(folder, tmp_path)
    assert not (tmp_path / "videos" / "dips" / "deleted_since.mp4").exists()


def test_interrupted_copy_asks_for_the_room_of_what_is_missing(folder, tmp_path, monkeypatch):
    work, usage = tmp_path / "work", shutil.disk_usage(tmp_path)
    work.mkdir()
    folder_dataset.copy(str(folder), work)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1))
    monkeypatch.setattr(folder_dataset, "_share", lambda *_: False)
    assert len(folder_dataset.copy(str(folder), work)[0]) == 12
    (folder / "dips" / "new.mp4").write_bytes(b"new")
    with pytest.raises(manifest.DataError, match=r"copying needs 0\.0 MB, and 0\.0 MB of disk are free"):
        folder_dataset.copy(str(folder), work)
    monkeypatch.setattr(folder_dataset, "_share", lambda *_: True)  # on Btrfs and XFS a copy takes no room
    assert len(folder_dataset.copy(str(folder), work)[0]) == 13


def test_video_that_is_another_since_it_was_copied_is_copied_again(folder, tmp_path):
    work, video = tmp_path / "work", folder / "dips" / "dips_0.mp4"
    work.mkdir()
    folder_dataset.copy(str(folder), work)
    video.write_bytes(video.read_bytes()[:-1] + b"x")  # of the same size
    rows, *_ = folder_dataset.copy(str(folder), work)
    assert {row.path: row.sha256 for row in rows}["dips/dips_0.mp4"] == files.sha256(video)
    assert (work / "dips" / "dips_0.mp4").read_bytes() == video.read_bytes()


def test_video_with_the_size_and_time_of_another_is_copied_by_its_content(folder, tmp_path):
    """As when two mislabelled clips are exchanged after a run that was interrupted."""
    work, (one, other) = tmp_path / "work", (folder / "dips" / "dips_0.mp4", folder / "squats" / "squats_0.mp4")
    work.mkdir()
    other.write_bytes(one.read_bytes()[:-1] + b"x")
    for video in (one, other):
        os.utime(video, (1, 1))
    folder_dataset.copy(str(folder), work)
    contents = one.read_bytes(), other.read_bytes()
    for video, content in zip((other, one), contents, strict=True):
        video.write_bytes(content)
        os.utime(video, (1, 1))
    scanned = dict(folder_dataset.scan(str(folder)))
    rows = {row.path: row.sha256 for row in folder_dataset.copy(str(folder), work, scanned)[0]}
    assert rows["dips/dips_0.mp4"] == files.sha256(one) == files.sha256(work / "dips" / "dips_0.mp4")
    one.write_bytes(b"changed since the scan")
    with pytest.raises(manifest.DataError, match=r"dips_0\.mp4: it was changed while this ran; run the same command"):
        folder_dataset.copy(str(folder), work, scanned)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (b"caf\xe9.mp4", r"caf\\\\udce9\.mp4': its name is not in UTF-8, which DVC cannot take; rename it"),
        (b"gone.mp4", "gone.mp4: a link to nowhere (No such file or directory), which DVC cannot read; remove it"),
        (
            b".dvcignore",
            ".dvcignore: DVC takes no such file inside the folder; remove it, or move it next to the folder",
        ),
    ],
)
def test_what_dvc_would_stumble_over_is_named_before_it_does(folder, name, words):
    folder_dataset.check(folder)
    place = os.fsencode(folder / "dips") + b"/" + name
    os.symlink("nowhere", place) if b"gone" in name else open(place, "wb").close()
    with pytest.raises(manifest.DataError) as error:
        folder_dataset.check(folder)
    assert re.sub(r"\\+", r"\\", str(error.value)).endswith(re.sub(r"\\+", r"\\", words).replace("\\.", "."))


def test_folder_of_which_no_video_is_taken_is_told(folder):
    (folder / "empty").mkdir()
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.gif").touch()
    (folder / ".hidden").mkdir()
    *_, classes = folder_dataset.look(folder)
    assert folder_dataset.without_videos(folder, classes) == ["empty", "pictures"]


@pytest.mark.parametrize(("keep", "words"), [(["dips"], "1 class (dips)"), ([], "0 classes (none)")])
def test_folder_with_too_few_classes_is_refused(folder, tmp_path, keep, words):
    for label in ("dips", "pull ups", "squats"):
        if label not in keep:
            shutil.rmtree(folder / label)
    with pytest.raises(manifest.DataError) as error:
        bring(folder, tmp_path)
    assert words in str(error.value)


def test_experiment_in_a_folder_of_its_own_says_how_it_finds_untracked_videos(tmp_path, monkeypatch):
    """As `dvc exp run --temp` and `--queue` work: my_videos has its readme alone there."""
    for place in ("standalone/tmp1", "tmp2"):
        here = tmp_path / ".dvc/tmp/exps" / place
        (here / "my_videos").mkdir(parents=True)
        monkeypatch.chdir(here)
        with pytest.raises(manifest.DataError, match=f"git tracks alone: give {tmp_path}/my_videos instead"):
            dispatch.bring(configured("my_videos"), tmp_path / "work", MACHINE)
        with pytest.raises(annotations.ListError, match=f"git tracks alone: give {tmp_path}/my/train.txt instead"):
            annotations.read_text("my/train.txt")
        with pytest.raises(errors.ConfigError, match=f"git tracks alone: give {tmp_path}/my.pth instead"):
            resolve.paths_of_weights({"model": {"init": "my.pth"}})


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(manifest.DataError, match="there is no such folder"):
        bring(tmp_path / "nowhere", tmp_path)


def scanned(config: DataConfig) -> list[str]:
    """The lines of scan.csv that the stage writes in the working directory, under the column names."""
    files.write_text(paths.DATA_CONFIG, dump(config))
    runpy.run_path(str(ROOT / "stages/scan.py"))["main"]()
    head, *lines = paths.scan(config.dataset).read_text(encoding="utf-8").splitlines()
    assert head == "path,sha256"
    return lines


def test_file_in_the_user_s_folder_changes_its_scan(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = scanned(configured(folder))
    assert len(before) == 12
    assert before == sorted(before) == scanned(configured(folder))
    (folder / "dips" / "notes.txt").write_text("not a video, and DVC would see it")
    (folder / "dips" / "new\nline \udcff.mp4").write_bytes(b"x")
    added = set(scanned(configured(folder))) - set(before)
    assert {line.split(",")[0] for line in added} == {"'dips/notes.txt'", r"'dips/new\nline \udcff.mp4'"}
    (folder / "dips" / "dips_0.mp4").write_bytes(b"another video")
    (changed,) = set(scanned(configured(folder))) - added - set(before)
    assert changed == f"'dips/dips_0.mp4',{hashlib.sha256(b'another video').hexdigest()}"


def test_scan_of_another_dataset_is_empty_whatever_is_in_the_user_s_folder(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = MotionSource(
        kind="motion", train_videos=1, val_videos=1, test_videos=1, seed=0, test_seed=1, short_side=16
    )
    for path in (None, str(folder)):
        assert scanned(DataConfig(dataset="motion", source=source, path=path)) == []


@pytest.mark.parametrize("shared", [True, False])
def test_videos_are_copied_whole_whether_the_file_system_shares_blocks_or_not(tmp_path, monkeypatch, shared):
    (tmp_path / "video.mp4").write_bytes(b"content")

    def ioctl(target, request, source):
        if not shared:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        assert request == folder_dataset.SHARE_BLOCKS
        os.write(target.fileno(), os.pread(source, 100, 0))  # what such a file system does

    monkeypatch.setattr(folder_dataset.fcntl, "ioctl", ioctl)
    folder_dataset._copy(tmp_path / "video.mp4", tmp_path / "copy.mp4")
    assert (tmp_path / "copy.mp4").read_bytes() == b"content"
    (tmp_path / "copy.mp4").write_bytes(b"other")
    assert (tmp_path / "video.mp4").read_bytes() == b"content"
