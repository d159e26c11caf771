"""The paper's comparison of convolutions (Tran et al. 2018, section 4.2) on the default dataset.

    dvc exp run --queue -S 'model.conv=r2plus1d,r3d,r2d,f_r2d,mc2,mc3,mc4,mc5,rmc2,rmc3,rmc4,rmc5'
    dvc exp run --run-all
    python benchmarks/convolutions.py [COMMIT]
    python benchmarks/convolutions.py --report

The first line queues twelve experiments on the row `custom`; the second runs them one after the other, each a few
minutes on two cores; the third gathers those of a commit (HEAD). What is missing or failed is said, not filled in. The
last one writes table and plot of the .csv again.

Writes benchmarks/results/convolutions.csv, .md and .png, and the table in docs/results.md.
"""

import json
import math
import sys
from pathlib import Path
from typing import get_args

import dvc.api
import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project's root

from benchmarks.common import RESULTS, BenchmarkError, command_line, publish
from r2plus1d.config import schema
from r2plus1d.results.figures import share
from r2plus1d.results.markdown import markdown_table
from r2plus1d.results.plots import save_figure
from r2plus1d.system import paths
from r2plus1d.system.files import replacing
from r2plus1d.system.git import GitError, git
from r2plus1d.system.stage import run

CONVOLUTIONS = get_args(schema.Convolution)
TABLE, PICTURE = RESULTS / "convolutions.csv", RESULTS / "convolutions.png"
NEAR = 0.12  # of the plot's width: points whose names could cover each other
LINE = 5  # percent of accuracy, the height of a name
Point = tuple[float, float]


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("commit", nargs="?", default="HEAD", metavar="COMMIT")
    parser.add_argument("--report", action="store_true", help="table and plot of the .csv that is there")
    arguments = parser.parse_args()
    table = pd.read_csv(TABLE) if arguments.report else gathered(arguments.commit)
    plot(table, PICTURE)
    text = markdown(table)
    print(text)
    publish("convolutions", None, text, "Top-1 against parameters and against multiply-accumulates")


def gathered(commit: str) -> pd.DataFrame:
    """The finished experiments of a commit, in the order of CONVOLUTIONS; also written to the .csv."""
    commits = {shown["rev"] for shown in dvc.api.exp_show(revs=commit) if shown["Experiment"]}
    rest = parameters(commit)[1]
    found = {rev: figures for rev in sorted(commits) if (figures := read(rev))}
    if other := [rev[:7] for rev in found if parameters(rev)[1] != rest]:
        print(f"left out, since more than model.conv differs from {commit}: {', '.join(other)}", file=sys.stderr)
    table = pd.DataFrame([figures for rev, figures in found.items() if rev[:7] not in other])
    if table.empty:
        raise BenchmarkError(f"no finished experiment of {commit}; --help says how to queue and run them")
    table = table.drop_duplicates("conv").set_index("conv").reindex(CONVOLUTIONS)
    if missing := table.index[table["top1"].isna()].tolist():
        print(f"no finished experiment with model.conv = {', '.join(missing)}", file=sys.stderr)
    table = table.dropna().reset_index()
    with replacing(TABLE) as partial:
        table.to_csv(partial, index=False, lineterminator="\n")
    return table


def read(rev: str) -> dict | None:
    """The figures of one experiment; None where it is not finished."""
    try:
        row = show(rev, paths.metrics(schema.CUSTOM, "test.json"))
        costs = show(rev, paths.metrics(schema.CUSTOM, "benchmark.json"))
        conv = parameters(rev)[0]
    except GitError:
        return None
    return {
        "conv": conv,
        "parameters": costs["parameters"],
        "macs": costs["macs"],
        "top1": row["top1"],
        "single_clip_top1": row["single_clip"]["top1"],
        "static_top1": row["static"]["top1"],
        "videos": row["videos"],
        "videos_per_second": costs["videos_per_second"],
    }


def parameters(rev: str) -> tuple[str, dict]:
    """(model.conv, all other parameters)"""
    params = yaml.safe_load(git("show", f"{rev}:{paths.PARAMS}"))
    return params["model"].pop("conv"), params


def show(rev: str, path: Path) -> dict:
    return json.loads(git("show", f"{rev}:{path}"))


def markdown(table: pd.DataFrame) -> str:
    columns = ("conv", "parameters (M)", "MACs per clip (G)", "top-1", "single clip")
    rows = []
    for row in table.itertuples():
        shares = [share(percent, row.videos) for percent in (row.top1, row.single_clip_top1)]
        rows.append([row.conv, f"{row.parameters / 1e6:.3f}", f"{row.macs / 1e9:.3f}", *shares])
    note = (
        f"In brackets the 95% interval of {int(table['videos'].iloc[0])} videos. One training each: another seed moves "
        "such a row by several points more (see Seeds), so this is no order. It tells the forms that see no motion, or "
        "lose it on the way, from those that keep it; not one of the upper ones from another."
    )
    return f"{markdown_table(columns, rows)}\n\n{note}"


def plot(table: pd.DataFrame, path: Path) -> None:
    """Top-1 against parameters and against MACs, one point for each convolution."""
    figure = Figure((9, 3.8), layout="constrained")
    found = [share(row.top1, row.videos) for row in table.itertuples()]
    errors = np.array([(a.percent - a.interval.low, a.interval.high - a.percent) for a in found]).clip(0).T
    for axes, column, scale, label in zip(
        figure.subplots(1, 2, sharey=True),
        ("parameters", "macs"),
        (1e6, 1e9),
        ("parameters (millions)", "multiply-accumulates per clip (G)"),
        strict=True,
    ):
        axes.errorbar(table[column] / scale, table["top1"], errors, fmt="o", markersize=4, capsize=2, linewidth=0.8)
        for name, point, place in names(table["conv"], table[column] / scale, table["top1"]):
            line = {"arrowstyle": "-", "linewidth": 0.5, "color": "0.5", "shrinkA": 0, "shrinkB": 3}
            axes.annotate(name, point, place, size=7, va="center", arrowprops=line)
        axes.set(xlabel=label, ylim=(0, 105))
        axes.margins(x=0.2)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("top-1 accuracy (%)")
    figure.suptitle("Forms of convolution on the default dataset, row `custom`")
    save_figure(figure, path)


def names(texts: pd.Series, x: pd.Series, y: pd.Series) -> list[tuple[str, Point, Point]]:
    """Each name, its point and its place: in one column to the right of points that lie near each other along x, from
    the highest point down, no two closer than a line."""
    width, found = x.max() - x.min(), []
    near = (x.sort_values().diff() > NEAR * width).cumsum().reindex(x.index)
    for column in near.unique():
        inside, lowest = y[near == column].sort_values(ascending=False, kind="stable"), math.inf
        for number, height in inside.items():
            lowest = min(height, lowest - LINE)
            place = x[inside.index].max() + width / 40, lowest
            found.append((texts[number], (x[number], height), place))
    return found


if __name__ == "__main__":
    run(main)
