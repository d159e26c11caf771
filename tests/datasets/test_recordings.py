"""Clips of one recording: found by names and pictures, kept on one side of a split, and counted across a given one."""

import numpy as np
import pytest

from r2plus1d.datasets import motion, recordings
from r2plus1d.datasets.encode import write_h264
from r2plus1d.datasets.manifest import DataError
from r2plus1d.video import looks, sandbox

CLASSES = ["dips", "pull ups", "squats"]
LABELS = {f"{label}/{label}_{i}.mp4": label for label in CLASSES for i in range(10)}


def divided(groups=None, seed=0, labels=LABELS, classes=CLASSES, val_share=0.3):
    return recordings.divide(labels, classes, groups or [[path] for path in sorted(labels)], val_share, seed)


def test_share_of_every_class_goes_to_validation_drawn_by_the_seed():
    split, without = divided()
    for label in CLASSES:
        assert sorted(split[path] for path in LABELS if LABELS[path] == label) == ["train"] * 7 + ["val"] * 3
    assert without == []
    assert divided()[0] == split
    assert any(divided(seed=seed)[0] != split for seed in range(1, 5))


@pytest.mark.parametrize("size", [1, 3])
def test_recordings_that_come_later_move_few_videos_of_their_class_and_none_of_another(size):
    def groups(labels):
        return [
            sorted(path for path in labels if path.startswith(f"{g}-")) for g in {p.partition("-")[0] for p in labels}
        ]

    labels = {f"{name}{n // size:03}-{n}.mp4": name for name in "ab" for n in range(60)}
    moved = []
    for seed in range(20):
        more = {f"a{n // size:03}-{n}.mp4": "a" for n in range(60, 72)}
        before = divided(groups(labels), seed, labels, "ab")[0]
        after = divided(groups(labels | more), seed, labels | more, "ab")[0]
        changed = [path for path in labels if before[path] != after[path]]
        assert {labels[path] for path in changed} <= {"a"}
        moved.append(len(changed))
    assert np.mean(moved) <= 3, "of 60; a new draw would move 25"


@pytest.mark.parametrize(("count", "expected"), [(9, 3), (8, 2), (2, 1), (1, 0)])
def test_share_is_rounded_and_leaves_a_video_on_each_side_where_there_are_two(count, expected):
    split, without = divided(labels={f"a/{i}.mp4": "a" for i in range(count)}, classes=["a"])
    assert list(split.values()).count("val") == expected
    assert without == (["a"] if count == 1 else [])


@pytest.mark.parametrize("seed", range(5))
def test_clips_of_one_recording_are_on_one_side_and_the_shares_are_kept(seed):
    paths = sorted(LABELS)
    groups = [paths[i : i + 2] for i in range(0, 10, 2)]  # of one class
    groups += [[a, b] for a, b in zip(paths[10:20], paths[20:30], strict=True)]  # of two classes
    split, without = divided(groups, seed)
    assert all(len({split[path] for path in group}) == 1 for group in groups)
    counts = {label: sum(split[path] == "val" for path in LABELS if LABELS[path] == label) for label in CLASSES}
    assert counts == {"dips": 2, "pull ups": 3, "squats": 3}  # 3 of dips is no number of pairs
    assert without == []


def test_class_of_two_recordings_that_are_larger_than_its_share_has_the_smaller_one_in_validation():
    labels = {f"a/{i}.mp4": "a" for i in range(10)} | {f"b/{i}.mp4": "b" for i in range(2)}
    groups = [[f"a/{i}.mp4" for i in range(6)], [f"a/{i}.mp4" for i in range(6, 10)], ["b/0.mp4"], ["b/1.mp4"]]
    split, without = divided(groups, labels=labels, classes=["a", "b"])
    assert {path for path in labels if split[path] == "val" and path < "b"} == set(groups[1])
    assert without == []


def test_class_of_one_recording_stays_in_training_and_is_named():
    labels = {**{f"a/{i}.mp4": "a" for i in range(4)}, "b/0.mp4": "b", "b/1.mp4": "b"}
    split, without = divided([[f"a/{i}.mp4" for i in range(4)], ["b/0.mp4"], ["b/1.mp4"]], labels=labels, classes="ab")
    assert without == ["a"]
    assert {split[path] for path in labels if labels[path] == "a"} == {"train"}


def test_recordings_are_told_by_the_names_of_kinetics_and_of_ucf101():
    paths = [
        "x/0wR5jVB-WPk_000417_000427.mp4",
        "y/0wR5jVB-WPk_000017_000027.mp4",
        "v_Archery_g01_c02.avi",
        "v_Archery_g01_c07.avi",
        "v_Archery_g02_c02.avi",
        "holiday_1.mp4",
        "holiday_2.mp4",
    ]
    assert recordings.by_rule(paths, "auto") == {
        paths[0]: "0wR5jVB-WPk",
        paths[1]: "0wR5jVB-WPk",
        paths[2]: "v_Archery_g01",
        paths[3]: "v_Archery_g01",
        paths[4]: "v_Archery_g02",
    }
    assert recordings.by_rule(["VID_230101_123456.mp4", "VID_230305_090000.mp4"], "auto") == {}, "of a phone"
    assert recordings.by_rule(paths, "none") == {}


def test_recordings_are_those_of_a_pattern_or_of_a_table(tmp_path):
    paths = ["a/set1_seq01_004.avi", "b/set1_seq01_008.avi", "b/set2_seq01_009.avi", "b/other.avi"]
    assert recordings.by_rule(paths, r"set(\d)_seq(\d+)") == {
        paths[0]: "1\n01",
        paths[1]: "1\n01",
        paths[2]: "2\n01",
    }
    assert recordings.by_rule(paths, r"seq\d+") == dict.fromkeys(paths[:3], "seq01")
    table = tmp_path / "groups.csv"
    table.write_text("path,group,note\na/set1_seq01_004.avi,one,\nb/other.avi,one,x\nb/set2_seq01_009.avi,,\n")
    assert recordings.by_rule(paths, str(table)) == {paths[0]: "one", paths[3]: "one"}
    table.write_text("path,group\na/set1_seq01_004.avi,1\nb/copy.avi,NA\n")
    assert recordings.by_rule(paths, str(table), ["b/copy.avi"]) == {paths[0]: "1"}, "of a copy that was set aside"


@pytest.mark.parametrize(
    ("rule", "content", "words"),
    [
        ("(", None, "no regular expression"),
        ("nowhere", None, "'nowhere', which tells nothing of any of 1 videos"),
        ("gone.csv", None, "No such file"),
        ("groups.csv", "name,group\na/1.mp4,x\n", "no column 'path'; expected `path` and `group`"),
        ("groups.csv", "path,group\na/2.mp4,x\n", "'a/2.mp4' is none of the videos"),
        ("groups.csv", "", "No columns"),
    ],
)
def test_rule_of_which_nothing_can_be_made_is_refused(tmp_path, monkeypatch, rule, content, words):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / rule).write_text(content)
    with pytest.raises(DataError) as error:
        recordings.by_rule(["a/1.mp4"], rule)
    assert words in str(error.value)


def scene(seed: int, frames: int = 60, size: tuple[int, int] = (120, 160)) -> list[np.ndarray]:
    """A camera that turns slowly over a landscape of its own."""
    rng = np.random.default_rng(seed)
    land = np.kron(rng.integers(0, 255, (12, 40, 3)), np.ones((20, 20, 1))).astype(np.uint8)
    h, w = size
    return [np.ascontiguousarray(land[60 : 60 + h, 2 * i : 2 * i + w]) for i in range(frames)]


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict[str, str]:
    """Looks of clips that were cut from two recordings, one of them encoded again and smaller, and of plain ones."""
    folder = tmp_path_factory.mktemp("clips")
    one, other = scene(1), scene(2)
    clips = {
        "one_start.mp4": one[:30],
        "one_end.mp4": one[30:],
        "one_small.mp4": [frame[::2, ::2].copy() for frame in one[10:40]],
        "other.mp4": other,
        "black.mp4": [np.zeros((120, 160, 3), np.uint8)] * 10,
        "black too.mp4": [np.zeros((120, 160, 3), np.uint8)] * 12,
        "tiny.mp4": [frame[:8, :8].copy() for frame in one[:5]],
    }
    for name, frames in clips.items():
        write_h264(folder / name, np.stack(frames).transpose(0, 3, 1, 2), motion.FPS)
    return {name: sandbox.measure(folder / name).looks for name in clips}


def test_clips_of_one_recording_are_known_by_their_pictures(seen):
    videos = recordings.Looked(seen)
    pairs = {(a, b) for a, b, _ in recordings.alike(videos, videos)}
    again = {(a, b) for a, b, _ in recordings.alike(videos, recordings.Looked(seen)) if a < b}
    assert again == pairs, "a set with itself, and with another of the same"
    assert pairs == {
        ("one_end.mp4", "one_start.mp4"),
        ("one_end.mp4", "one_small.mp4"),
        ("one_small.mp4", "one_start.mp4"),
    }
    assert recordings.grouped(sorted(seen), {"other.mp4": "x", "tiny.mp4": "x"}, sorted(pairs)) == [
        ["black too.mp4"],
        ["black.mp4"],
        ["one_end.mp4", "one_small.mp4", "one_start.mp4"],
        ["other.mp4", "tiny.mp4"],
    ]


def test_unrelated_clips_that_share_their_plain_parts_are_not_linked(tmp_path):
    """Tall clips between black bars, and people before one grey wall."""
    found = {}
    for seed in range(6):
        frames = scene(seed, 20)
        for name, part in (("bars", slice(45, 115)), ("wall", slice(0, 80))):
            video = np.full((20, 120, 160, 3), 0 if name == "bars" else 160, np.uint8)
            video[:, :, part] = np.stack(frames)[:, :, part]
            write_h264(tmp_path / f"{name}{seed}.mp4", video.transpose(0, 3, 1, 2), motion.FPS)
            found[f"{name}{seed}"] = sandbox.measure(tmp_path / f"{name}{seed}.mp4").looks
    videos = recordings.Looked(found)
    assert [pair for pair in recordings.alike(videos, videos) if pair[0][:4] == pair[1][:4]] == []


def test_comparison_in_parts_finds_the_same_pairs(seen, monkeypatch):
    videos = recordings.Looked(seen)
    whole = list(recordings.alike(videos, videos))
    monkeypatch.setattr(recordings, "AT_ONCE", 1)
    assert list(recordings.alike(videos, videos)) == whole


def test_pairs_across_a_given_split_are_named_with_the_reason(seen):
    splits = {"train": ["one_start.mp4", "other.mp4"], "val": ["black.mp4", "one_small.mp4"], "test": ["tiny.mp4"]}
    found = recordings.suspected(splits, seen, {"other.mp4": "x", "tiny.mp4": "x"})
    assert [row[:3] for row in found] == [("one_start.mp4", "one_small.mp4", "val"), ("other.mp4", "tiny.mp4", "test")]
    assert found[0].reason.startswith("pictures: ")
    assert found[1].reason == "one group"


def test_plain_frames_look_like_nothing():
    assert looks.look(np.zeros((100, 100, 3), np.uint8)) is None
    ramp = np.repeat(np.linspace(0, 2, 100, dtype=np.uint8)[None], 100, 0)
    assert looks.look(np.stack([ramp] * 3, -1)) is None
    assert looks.look(np.zeros((8, 100, 3), np.uint8)) is None


def test_look_says_of_each_block_whether_it_is_brighter_than_its_left_neighbour():
    image = np.zeros((33, 50, 3), np.uint8)  # blocks of unequal sizes
    image[:, 25:] = np.linspace(40, 240, 25, dtype=np.uint8)[None, :, None]
    image[:, :25] = np.linspace(240, 40, 25, dtype=np.uint8)[None, :, None]
    tell, bits = np.unpackbits(np.frombuffer(bytes.fromhex(looks.look(image)), np.uint8)).reshape(2, 16, 16)
    assert (bits == bits[0]).all()
    assert bits[0].tolist() == [0] * 8 + [1] * 8
    assert tell.sum() >= 15 * 16
    half = image.copy()
    half[:, :20] = 128  # plain
    tell, bits = np.unpackbits(np.frombuffer(bytes.fromhex(looks.look(half)), np.uint8)).reshape(2, 16, 16)
    assert not tell[:, :5].any()
    assert not bits[:, :5].any()
    assert tell[:, 8:].all()


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 15, 16, 17, 300, 1025])
def test_kept_looks_are_spread_over_the_video_and_hold_its_first_and_last_frame(count):
    spread = looks.Spread()
    for number in range(count):
        spread.show(number, (number,))
    kept = [number for (number,) in spread.kept()]
    assert kept == sorted(set(kept))
    assert (kept[0], kept[-1]) == (0, count - 1)
    assert min(count, 5) <= len(kept) <= looks.MOST
    assert max(np.diff(kept), default=0) <= max(1, count / 4)
