"""The README's tables and plots."""

import dataclasses
import json

import matplotlib.image
import pytest

from r2plus1d.config import resolve
from r2plus1d.config.schema import CUSTOM
from r2plus1d.results import markdown, plots, report, summary, tried
from r2plus1d.system import paths
from r2plus1d.system.files import write_text
from tests.support.figures import COVERAGE, measured
from tests.support.project import ROOT


@pytest.fixture
def names(rows, published) -> dict[str, str]:
    return summary.short_names([row.config for row in rows], published)


def test_published_table_is_that_of_its_source(published):
    lines = report.published_table(published).splitlines()
    assert "19,796 validation videos" in lines[0]
    assert lines[2] == "| row | short side | gpus | backbone | pretrain | top-1 | top-5 | video/s | MiB | files |"
    assert lines[4].startswith(
        "| 8x8_256p | 256 | 8x4 | ResNet34 | None | 67.30 | 87.65 | x | 5019 | [ckpt][8x8_256p ckpt]"
    )
    assert lines[7].startswith(
        "| 32x2_320p | 320 | 8x2 | ResNet34 | None | 74.60 | 91.59 | 0.5 (320x3) | 12975 | [ckpt]"
    )
    for name, row in published["rows"].items():
        assert f"`{row['short']}` is `{name}`" in lines[9]
        assert [f"[{row['short']} {kind}]: {row[kind]}" for kind in report.FILES] == [
            line for line in lines if line.startswith(f"[{row['short']} ")
        ]


def test_measured_table_says_dataset_scale_device_and_how_many_videos(rows, names):
    table = report.measured_table(measured(rows, names))
    for words in ("dataset `motion`", "resolution x 0.25", "channels x 0.125", "depth", "CPU Some", "Chance is 8.3%"):
        assert words in table
    assert "12 classes, 360 training and 142 validation videos" in table
    assert table.count("12.34 (80x3) | 900 |") == len(rows)
    assert "| 8x8_256p | 8x8 | 70.00 (9.5-90.5) | 99.00 (34.2-100.0) | 70.00 (0.0-100.0) | 65.00 (9.5-90.5) |" in table
    assert "| custom | 16x4 | 74.00 (9.5-90.5) |" in table
    assert "No baselines" in table


def test_table_measured_on_test_videos_says_so_and_warns_of_recordings_in_two_splits(rows, names):
    for row in rows:
        row.test["split"] = "test"
    coverage = {**COVERAGE, "test": {"listed": 90, "found": 90, "readable": 89}, "suspected_pairs": 3}
    table = report.measured_table(measured(rows, names, coverage=coverage))
    assert "12 classes, 360 training, 142 validation and 89 test videos" in table
    assert "Measured on the test videos; in brackets the 95% interval" in table
    assert "**3 pairs of videos in different splits seem to be of one recording (`data/motion/suspected.csv`)" in table
    actual = rows[0].predictions["actual"].nunique()
    assert f"**{12 - actual} of 12 classes have no test video, and are not measured.**" in table
    assert "no test video" not in report.measured_table(measured(rows, names, coverage=coverage | {"classes": actual}))
    details = report.details_table(measured(rows, names, coverage=coverage))
    assert "Test: 90 listed, 90 found, 89 readable." in details
    assert details.count("| 2 of 90 |") == len(rows)
    plain = report.measured_table(measured(rows, names, coverage={**COVERAGE, "test": coverage["test"]}))
    assert "recording" not in plain


def test_videos_that_are_shorter_than_a_clip_are_counted_below_the_table(rows, names):
    assert "shorter than a clip" not in report.measured_table(measured(rows, names))
    repeating = dataclasses.replace(rows[1], test=rows[1].test | {"repeated": 1})
    told = report.measured_table(measured([rows[0], repeating, *rows[2:]], names))
    counted = f"which then repeats them from their start: 1 ({names[repeating.config.row]}) of 2.**"
    assert f"**Validation videos that are shorter than a clip, {counted}" in told


def test_spread_over_seeds_has_a_column_where_it_is_known(rows, names):
    assert "seeds" not in report.measured_table(measured(rows, names))
    table = report.measured_table(measured(rows, names, spreads={"custom": "62.50 ± 8.20 (5)"}))
    assert "| row | clip | top-1 | top-5 | mean class | single clip | seeds | video/s | MiB |" in table
    assert "| 62.50 ± 8.20 (5) | 12.34 (80x3) | 900 |" in table
    assert table.count("|  | 12.34 (80x3) | 900 |") == len(rows) - 1
    assert "mean ± standard deviation of so many trainings" in table


def test_ways_of_training_on_the_same_videos_stand_side_by_side(rows, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = rows[-1].config.model_copy(update={"dataset": "folder"})
    write_text(paths.lists("folder") / "list.txt", "one")
    assert tried.table("folder") is None
    for number, (init, freeze) in enumerate(((None, 0), ("torchvision", "all"), ("torchvision", 4))):
        train = config.train.model_copy(update={"freeze": freeze})
        write_text(paths.row_config(CUSTOM, "test"), str(number))
        for _ in range(2):  # the same again is no other way
            tried.note(dataclasses.replace(rows[-1], config=config.model_copy(update={"init": init, "train": train})))
    table = tried.table("folder")
    assert [line.split(" | ")[:2] for line in table.splitlines()[2:]] == [
        ["| from scratch", "nothing"],
        ["| last layer", "torchvision"],
        ["| fine-tuned, 4 of 5 stages frozen", "torchvision"],
    ]
    other = {
        "test": config.test.model_copy(update={"clips": 5}),
        "model": config.model.model_copy(update={"conv": "r3d"}),
    }
    write_text(paths.row_config(CUSTOM, "test"), "3")
    tried.note(dataclasses.replace(rows[-1], config=config.model_copy(update={"init": None} | other)))
    table = tried.table("folder")
    assert "| conv r3d, test.clips 5 |" in table.splitlines()[-1]
    write_text(paths.row_config(CUSTOM, "test"), "0")
    tried.note(dataclasses.replace(rows[-1], config=config.model_copy(update={"init": None})))
    assert tried.table("folder") == table, "the first once more is what the others are compared with still"
    assert report.measured_table(measured(rows, names, tried=table)).endswith(table)
    write_text(paths.lists("folder") / "list.txt", "other videos")
    assert tried.table("folder") is None


def test_details_name_the_entry_of_the_parameters_what_the_row_costs_and_the_coverage(rows, names):
    table = report.details_table(measured(rows, names))
    assert "Training: 361 listed, 360 found, 360 readable. Validation: 144 listed, 143 found, 142 readable." in table
    assert table.count("| 63.759 | 52.98 | 2 of 144 |") == len(rows)
    for row in rows:
        assert (
            f"| {names[row.config.row]} | {row.config.row} | {row.config.clip.short_side} | CPU | ResNet10 |" in table
        )


@pytest.mark.parametrize(
    ("init", "told"),
    [
        (str(paths.weights("base")), "row base"),
        ("http://user:word@host/weights.pth", "weights.pth"),
        ("mine/theirs.pth", "theirs.pth"),
    ],
)
def test_row_that_started_from_weights_names_them_in_the_table(init, told, rows, names):
    started = dataclasses.replace(rows[0], config=rows[0].config.model_copy(update={"init": init}))
    assert f"| 8x8_256p (from {told}) | 8x8 | " in report.measured_table(measured([started, *rows[1:]], names))


def test_row_with_finished_weights_is_reported(rows, names, tmp_path):
    address = "https://host/weights-12345678.pth"
    given = dataclasses.replace(
        rows[0], config=rows[0].config.model_copy(update={"checkpoint": address}), curve=rows[0].curve[:0]
    )
    assert "| 8x8_256p (not trained here) | 8x8 | 70.00 (" in report.measured_table(measured([given, *rows[1:]], names))
    details = report.details_table(measured([given, *rows[1:]], names))
    assert details.count(f"| [weights-12345678.pth]({address}) |") == 1
    plots.save_figure(plots.curves_figure(measured([given], names)), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_summary_holds_the_figures_of_every_row_under_the_names_of_the_published_ones(rows, names, published):
    made = summary.summary(rows, names, 142)
    assert list(made) == ["dataset", "videos", *names.values()]
    assert (made["dataset"], made["videos"]) == ("motion", 142)
    assert made["custom"] == {
        "top1": 74.0,
        "top5": 99.0,
        "mean_class": 74.0,
        "single_clip": 69.0,
        "static": 50.0,
        "video_s": 12.34,
        "mib": 900,
    }
    of_published = summary.published_summary(published)
    assert set(of_published) == set(made) - {"custom"}
    assert all(set(figures) <= set(made["custom"]) for figures in of_published.values() if isinstance(figures, dict))


def test_rows_whose_short_names_would_be_the_same_keep_their_own(rows, names, published):
    """Two of an own making, and one that looks like a published row."""
    configs = [row.config for row in rows]
    added = [configs[0].model_copy(update={"row": name}) for name in ("first", "second")]
    found = summary.short_names([*configs, *added], published)
    assert [found["first"], found["second"]] == ["first", "second"]
    assert len(set(found.values())) == len(found)
    other = configs[0].model_copy(update={"row": "mine", "clip": configs[0].clip.model_copy(update={"frames": 4})})
    assert summary.short_names([*configs, other], published)["mine"] == "4x8_256p"


def test_text_outside_the_markers_stays_as_it_is():
    text = "before\n<!-- measured -->\nold\n<!-- /measured -->\nafter <!-- other -->\n"
    replaced = markdown.between_markers(text, "measured", r"new \1")
    assert replaced == "before\n<!-- measured -->\n\nnew \\1\n\n<!-- /measured -->\nafter <!-- other -->\n"
    assert markdown.between_markers(replaced, "measured", r"new \1") == replaced
    with pytest.raises(ValueError, match="markers"):
        markdown.between_markers(text, "published", "x")


def test_plots_show_something_and_repeat_to_the_byte(rows, names, tmp_path):
    for name in "ab":
        for plot in ("curves", "top1", "views", "calibration"):
            figure = getattr(plots, f"{plot}_figure")(measured(rows, names))
            plots.save_figure(figure, tmp_path / f"{name}_{plot}.png")
        plots.plot_confusion(rows[0], tmp_path / f"{name}_confusion.png")
    for plot in ("curves", "top1", "views", "calibration", "confusion"):
        a, b = (tmp_path / f"{name}_{plot}.png" for name in "ab")
        assert a.read_bytes() == b.read_bytes()
        assert matplotlib.image.imread(a)[..., :3].std() > 0.05


@pytest.mark.parametrize(
    ("document", "markers"), [(paths.README, ("published", "measured")), (paths.RESULTS, ("details", "profile"))]
)
def test_document_has_its_markers(document, markers):
    text = (ROOT / document).read_text()
    for name in markers:
        markdown.between_markers(text, name, "")


def test_committed_tables_and_summary_show_the_figures_of_the_metric_files(params, published):
    names = summary.short_names(resolve.resolve(params).rows, published)
    made = json.loads((ROOT / paths.SUMMARY).read_text())
    for document in (paths.README, paths.REPORT / "measured.md"):
        measured = (ROOT / document).read_text().partition("Measured here")[2].splitlines()
        for row, name in names.items():
            test = json.loads((ROOT / paths.metrics(row, "test.json")).read_text())
            (line,) = (line for line in measured if line.startswith(f"| {name} |"))
            figures = (f" | {test[key]:.2f} (" for key in ("top1", "top5", "mean_class_accuracy"))
            assert all(figure in line for figure in figures)
            assert (made[name]["top1"], made[name]["top5"]) == (test["top1"], test["top5"])
