"""The README's tables and plots."""

import dataclasses
import json

import matplotlib.image
import pandas as pd
import pytest

from r2plus1d.config import resolve
from r2plus1d.results import markdown, plots, report
from r2plus1d.system import paths
from tests.support.project import ROOT


@pytest.fixture
def rows(params) -> list:
    def figures(row, top1):
        return report.RowFigures(
            config=row,
            test={
                "top1": top1,
                "top5": 99.0,
                "mean_class_accuracy": top1,
                "single_clip": {"top1": top1 - 5},
                "static": {"top1": 8.3},
                "videos": 2,
            },
            benchmark={"videos_per_second": 12.34, "memory_mib": 900, "parameters": 63_759_281, "macs": 52_977_868_800},
            machine={"device": "CPU Some", "threads": 2, "torch": "2", "cuda": "not used", "frames": "80x3"},
            curve=pd.DataFrame({"epoch": [1, 2], "train_loss": [2.0, 1.0], "val_top1": [None, 0.5]}),
            confusion=pd.DataFrame({"actual": ["a", "b"], "predicted": ["a", "a"]}),
        )

    return [figures(row, 70.0 + i) for i, row in enumerate(resolve.resolve(params)[1])]


COVERAGE = {
    "classes": 12,
    "train": {"listed": 361, "found": 360, "readable": 360},
    "val": {"listed": 144, "found": 143, "readable": 142},
}


def test_published_table_is_that_of_its_source():
    table = report.published_table(json.loads((ROOT / paths.PUBLISHED).read_text()))
    lines = table.splitlines()
    assert lines[2] == (
        "| config | resolution | gpus | backbone | pretrain | top1 acc | top5 acc | inference_time(video/s) "
        "| gpu_mem(M) | ckpt | log | json |"
    )
    assert "| short-side 256 | 8x4 | ResNet34 | None | 67.30 | 87.65 | x | 5019 |" in lines[4]
    assert "| short-side 320 | 8x2 | ResNet34 | None | 74.60 | 91.59 | 0.5 (320x3 frames) | 12975 |" in lines[7]


def test_measured_table_says_dataset_scale_device_and_coverage(rows):
    table = report.measured_table(rows, COVERAGE)
    for words in ("dataset `motion`", "resolution x 0.25", "channels x 0.125", "depth", "CPU Some", "361 listed"):
        assert words in table
    assert "144 listed, 143 found, 142 readable" in table
    assert table.count("| 2 of 144 | 7") == 10
    assert table.count("12.34 (80x3 frames)") == 5
    assert "| custom | 16x4 | 63.759 | 52.98 | 2 of 144 | 74.00 | 74.00 | 69.00 | 8.30 |" in table


def test_row_with_finished_weights_is_reported(rows, tmp_path):
    address = "https://host/weights-12345678.pth"
    given = dataclasses.replace(
        rows[0], config=rows[0].config.model_copy(update={"checkpoint": address}), curve=rows[0].curve[:0]
    )
    assert f"[not trained here]({address}) | x | x |" in report.measured_table([given, *rows[1:]], COVERAGE)
    plots.plot_curves([given], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_text_outside_the_markers_stays_as_it_is():
    text = "before\n<!-- measured -->\nold\n<!-- /measured -->\nafter <!-- other -->\n"
    replaced = markdown.between_markers(text, "measured", r"new \1")
    assert replaced == "before\n<!-- measured -->\n\nnew \\1\n\n<!-- /measured -->\nafter <!-- other -->\n"
    assert markdown.between_markers(replaced, "measured", r"new \1") == replaced
    with pytest.raises(ValueError, match="markers"):
        markdown.between_markers(text, "published", "x")


def test_plots_show_something_and_repeat_to_the_byte(rows, tmp_path):
    for name in "ab":
        plots.plot_curves(rows, tmp_path / f"{name}_curves.png")
        plots.plot_top1(rows, COVERAGE, tmp_path / f"{name}_top1.png")
        plots.plot_confusion(rows[0], tmp_path / f"{name}_confusion.png")
    for plot in ("curves", "top1", "confusion"):
        a, b = (tmp_path / f"{name}_{plot}.png" for name in "ab")
        assert a.read_bytes() == b.read_bytes()
        assert matplotlib.image.imread(a)[..., :3].std() > 0.05


def test_readme_has_its_markers():
    text = (ROOT / paths.README).read_text()
    for name in ("published", "measured"):
        markdown.between_markers(text, name, "")


def test_committed_table_shows_the_accuracies_of_the_metric_files():
    for path in (paths.README, paths.REPORT / "measured.md"):
        measured = (ROOT / path).read_text().partition("Measured here")[2].splitlines()
        for file in ROOT.glob("metrics/*/test.json"):
            figures = json.loads(file.read_text())
            first, second, *_ = (line for line in measured if line.startswith(f"| {file.parent.name} |"))
            assert f"| {figures['top1']:.2f} | {figures['top5']:.2f} |" in first
            assert f"| {figures['top1']:.2f} | {figures['mean_class_accuracy']:.2f} |" in second
