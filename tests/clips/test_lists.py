"""The lists that the project writes: their formats, and the checks before they are used."""

import pytest

from r2plus1d.clips import lists
from r2plus1d.datasets import annotations
from r2plus1d.datasets.annotations import Sample

GOOD = {
    "train": [Sample("train/a/1.mp4", 90, 0), Sample("train/b c/2.mp4", 80, 1)],
    "val": [Sample("val/a/3.mp4", 85, 0), Sample("val/b c/4.mp4", 81, 1)],
    "test": [],
}
CONTENT = {s.path: f"hash of {s.path}" for samples in GOOD.values() for s in samples}


def check(splits=GOOD, classes=("a", "b c"), content=CONTENT, available=frozenset(CONTENT)) -> None:
    lists.check(splits, list(classes), content, set(available))


def test_good_lists_are_accepted():
    check()


def test_lists_are_in_the_published_formats():
    assert annotations.format_frames(GOOD["train"]) == "train/a/1.mp4 90 0\ntrain/b c/2.mp4 80 1\n"
    assert annotations.format_videos(GOOD["train"]) == "train/a/1.mp4 0\ntrain/b c/2.mp4 1\n"
    assert lists.list_name("kinetics400", "val", "rawframes") == "kinetics400_val_list_rawframes.txt"


def test_lists_are_the_same_after_their_way_through_a_file():
    assert annotations.parse(annotations.format_frames(GOOD["train"]), "list") == GOOD["train"]
    uncounted = [Sample(s.path, 0, s.label) for s in GOOD["train"]]
    assert annotations.parse(annotations.format_videos(GOOD["train"]), "list") == uncounted
    ids = [Sample("1", 90, 0), Sample("2", 80, 1)]
    assert annotations.parse(annotations.format_published(GOOD["train"]), "list") == ids


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ({**GOOD, "val": [*GOOD["val"], Sample("val/a/3.mp4", 85, 7)]}, "unknown label"),
        ({**GOOD, "val": [*GOOD["val"], Sample("val/gone.mp4", 85, 0)]}, "missing file"),
        ({**GOOD, "val": [Sample("val/a/3.mp4", 0, 0)]}, "zero frames"),
        ({**GOOD, "val": GOOD["val"] * 2}, "listed twice"),
        ({**GOOD, "train": GOOD["train"][:1]}, "class with no training video:\n  b c"),
        ({**GOOD, "val": []}, "empty list:\n  val"),
    ],
)
def test_lists_that_spoil_a_result_are_refused(splits, words):
    with pytest.raises(annotations.ListError) as error:
        check(splits)
    assert words in str(error.value)


def test_same_video_under_two_names_in_train_and_val_is_refused():
    content = {**CONTENT, "val/a/3.mp4": CONTENT["train/a/1.mp4"]}
    with pytest.raises(annotations.ListError, match=r"val/a/3\.mp4 \(val\) = train/a/1\.mp4 \(train\)"):
        check(content=content)


def test_video_under_two_labels_is_refused():
    content = {**CONTENT, "train/b c/2.mp4": CONTENT["train/a/1.mp4"]}
    words = r"the same video under two labels:\n  train/a/1\.mp4 \(0\) = train/b c/2\.mp4 \(1\)"
    with pytest.raises(annotations.ListError, match=words):
        check(content=content)


def test_class_of_which_no_video_can_be_read_is_refused():
    with pytest.raises(annotations.ListError, match=r"class of which no video can be read .*:\n  dips"):
        lists.check(GOOD, ["a", "b c"], CONTENT, set(CONTENT), lost=["dips"])


def test_video_of_the_test_list_that_another_list_has_is_refused():
    test = [Sample("test/a/5.mp4", 70, 0)]
    content = {**CONTENT, "test/a/5.mp4": "another"}
    check({**GOOD, "test": test}, content=content, available=content.keys())
    content["test/a/5.mp4"] = CONTENT["val/a/3.mp4"]
    with pytest.raises(
        annotations.ListError, match=r"the same video in val and test:\n  test/a/5\.mp4 \(test\) = val/a/3"
    ):
        check({**GOOD, "test": test}, content=content, available=content.keys())


def test_class_of_the_test_list_without_training_videos_is_refused():
    splits = {**GOOD, "test": [Sample("test/c/5.mp4", 70, 2)]}
    content = {**CONTENT, "test/c/5.mp4": "another"}
    with pytest.raises(annotations.ListError, match=r"class with no training video:\n  c$"):
        check(splits, ("a", "b c", "c"), content, content.keys())


def test_finished_weights_are_tested_without_training_videos():
    check({**GOOD, "train": []})


def test_offending_lines_are_told_in_a_few_examples():
    many = {**GOOD, "val": [Sample(f"val/gone/{i}.mp4", 80, 0) for i in range(1000)]}
    with pytest.raises(annotations.ListError) as error:
        check(many)
    assert "and 990 more" in str(error.value)
    assert len(str(error.value).splitlines()) < 20
