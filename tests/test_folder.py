"""A user's own folder of videos: splits, exclusions, and errors that say what to do."""

import shutil

import pytest

from r2plus1d import datasets
from r2plus1d.config import DataConfig, FolderSource


@pytest.fixture
def folder(tmp_path, clip_path):
    """Three classes of four different files that look like videos; `bring` does not decode."""
    root = tmp_path / "mine"
    for label in ("dips", "pull ups", "squats"):
        (root / label).mkdir(parents=True)
        for i in range(4):
            (root / label / f"{label}_{i}.mp4").write_bytes(clip_path.read_bytes() + f"{label}{i}".encode())
    return root


def bring(folder, tmp_path, seed=0, val_share=0.3):
    source = FolderSource(kind="folder", val_share=val_share)
    config = DataConfig(dataset="folder", seed=seed, source=source, path=str(folder), short_sides={"256p": 64})
    return datasets.bring(config, tmp_path / "work", tmp_path / "videos", 0)[:2]


def test_split_is_not_seeded_or_leaves_a_class_out(folder, tmp_path):
    rows, aside = bring(folder, tmp_path)
    assert aside == []
    for label in ("dips", "pull ups", "squats"):
        assert sorted(row[2] for row in rows if row[1] == label) == ["train"] * 3 + ["val"]
    assert bring(folder, tmp_path)[0] == rows
    assert any(bring(folder, tmp_path, seed=seed)[0] != rows for seed in range(1, 5))


def test_given_train_and_val_folders_are_split_anew(folder, tmp_path):
    for split in ("train", "val"):
        shutil.copytree(folder, tmp_path / "both" / split)
    rows, _ = bring(tmp_path / "both", tmp_path)
    assert all(path.startswith(f"{split}/{label}/") for path, label, split, *_ in rows)
    shutil.rmtree(tmp_path / "both" / "val")
    with pytest.raises(datasets.DataError, match="no val/ beside it"):
        bring(tmp_path / "both", tmp_path)


def test_user_s_own_files_are_moved_or_linked(folder, tmp_path):
    before = {f: (f.stat().st_ino, f.stat().st_mode, f.read_bytes()) for f in folder.rglob("*.mp4")}
    bring(folder, tmp_path)
    assert {f: (f.stat().st_ino, f.stat().st_mode, f.read_bytes()) for f in folder.rglob("*.mp4")} == before
    copies = {f.stat().st_ino for f in (tmp_path / "videos").rglob("*.mp4")}
    assert len(copies) == 12
    assert copies.isdisjoint(inode for inode, _, _ in before.values())


def test_repeated_content_gets_into_train_and_val(folder, tmp_path):
    shutil.copy(folder / "dips" / "dips_0.mp4", folder / "squats" / "again.mp4")
    rows, aside = bring(folder, tmp_path)
    assert aside == [("squats/again.mp4", "", "same content as dips/dips_0.mp4")]
    assert len(rows) == 12


def test_files_that_are_no_videos_go_unreported(folder, tmp_path):
    (folder / "README.md").write_text("beside the classes")
    (folder / "dips" / "notes.txt").write_text("not a video")
    (folder / "dips" / ".hidden.mp4").write_bytes(b"")
    (folder / "dips" / "gone.mp4").symlink_to("nowhere")
    (folder / "dips" / "new\nline.mp4").write_bytes(b"x")
    (folder / "dips" / "loop").symlink_to(folder)
    rows, aside = bring(folder, tmp_path)
    assert len(rows) == 12
    assert {path for path, *_ in aside} == {"dips/notes.txt", "dips/gone.mp4", repr("dips/new\nline.mp4")}


def test_leftovers_of_an_interrupted_run_enter_the_dataset(folder, tmp_path):
    (tmp_path / "work" / "dips").mkdir(parents=True)
    (tmp_path / "work" / "dips" / "deleted_since.mp4").write_bytes(b"old")
    bring(folder, tmp_path)
    assert not (tmp_path / "videos" / "dips" / "deleted_since.mp4").exists()


@pytest.mark.parametrize(("keep", "words"), [(["dips"], "1 class (dips)"), ([], "0 classes (none)")])
def test_folder_with_too_few_classes_is_accepted(folder, tmp_path, keep, words):
    for label in ("dips", "pull ups", "squats"):
        if label not in keep:
            shutil.rmtree(folder / label)
    with pytest.raises(datasets.DataError) as error:
        bring(folder, tmp_path)
    assert words in str(error.value)


def test_missing_folder_is_accepted(tmp_path):
    with pytest.raises(datasets.DataError, match="there is no such folder"):
        bring(tmp_path / "nowhere", tmp_path)
