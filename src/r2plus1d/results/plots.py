"""The plots of the report."""

import functools
import io
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from r2plus1d.results import figures
from r2plus1d.results.figures import Accuracy, Measured, RowFigures
from r2plus1d.results.report import SPLITS, chance, views_text
from r2plus1d.system.files import replacing

STYLE: dict[Any, Any] = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
STYLE["text.parse_math"] = False  # a class may be called $1
# For names in scripts that matplotlib's own font has not; those of them that are installed are asked in this order.
SCRIPTS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Source Han Sans",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "IPAexGothic",
    "TakaoPGothic",
    "Droid Sans Fallback",
    "Unifont",
    "Noto Sans",
    "Noto Sans Arabic",
)
_without_font: set[str] = set()


@functools.cache
def _fonts() -> list[str]:
    there = set(font_manager.get_font_names())
    return ["DejaVu Sans", *(name for name in SCRIPTS if name in there)]


def styled(plot: Callable) -> Callable:
    """Decorates a function that plots: its figure has the style, and matplotlib's own stays as it is."""

    @functools.wraps(plot)
    def in_style(*arguments: object) -> Any:
        with mpl.rc_context(STYLE | {"font.family": _fonts()}):
            return plot(*arguments)

    return in_style


@styled
def curves_figure(measured: Measured) -> Figure:
    """Training loss and validation accuracy, with its 95% interval, by epoch of all rows that were trained."""
    rows, videos = measured.rows, measured.coverage.get("val", {}).get("readable", 0)
    figure = Figure((9, 3.6), layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    for row in rows:
        if row.curve.empty:
            continue
        losses.plot(row.curve["epoch"], row.curve["train_loss"], label=row.label)
        tested = row.curve.dropna(subset=["val_top1"])
        (line,) = accuracies.plot(tested["epoch"], 100 * tested["val_top1"], "o-", markersize=3, label=row.label)
        if videos:
            ends = [figures.share(100 * value, videos).interval for value in tested["val_top1"]]
            accuracies.fill_between(tested["epoch"], *zip(*ends, strict=True), color=line.get_color(), alpha=0.08, lw=0)
    losses.set(title="Training loss", xlabel="epoch", ylabel="cross-entropy (nats)")
    accuracies.set(title="Validation, one centre clip", xlabel="epoch", ylabel="top-1 accuracy (%)", ylim=(0, 100))
    for axes in (losses, accuracies):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if accuracies.lines:
        accuracies.legend(frameon=False, fontsize=8)
    figure.suptitle(f"Training on {rows[0].config.dataset}")
    return figure


def _views(rows: Sequence[RowFigures]) -> str:
    """The views of the test, where all rows have the same."""
    texts = {views_text(row).removesuffix(", the published protocol") for row in rows}
    return texts.pop() if len(texts) == 1 else "all views of the test"


def _errors(found: Sequence[Accuracy]) -> np.ndarray:
    """float [2, N]: how far the ends of each interval are from the accuracy."""
    return np.array([(a.percent - a.interval.low, a.interval.high - a.percent) for a in found]).clip(0).T


@styled
def top1_figure(measured: Measured) -> Figure:
    """Top-1 of every row and baseline with its 95% interval, and chance."""
    rows = measured.rows
    simple = {name: figures.top1(table) for name, table in measured.simple().items()}
    labels = [*(row.label for row in rows), *(name.replace(", ", ",\n") for name in simple)]
    found = [*(row.top1 for row in rows), *simple.values()]
    figure = Figure((max(8, 1.1 * len(found)), 3.6), layout="constrained")
    axes = figure.subplots()
    colors = ["C0"] * len(rows) + ["0.65"] * len(simple)
    error = {"elinewidth": 1, "capsize": 3, "ecolor": "0.25"}
    bars = axes.bar(
        range(len(found)), [a.percent for a in found], 0.6, yerr=_errors(found), color=colors, error_kw=error
    )
    for text in axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=2):
        text.set(zorder=3, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.3})  # over the line of chance
    level = chance(measured.coverage)
    axes.axhline(level, color="black", linewidth=0.8, linestyle="--", label=f"chance ({level:.1f}%)")
    axes.set_xticks(range(len(found)), labels, fontsize=8)
    axes.set(ylabel="top-1 accuracy (%)", ylim=(0, 115), yticks=range(0, 101, 20))
    split = rows[0].test["split"]
    tested = f"{rows[0].test['videos']} of {measured.coverage[split]['listed']} {SPLITS[split].lower()} videos"
    axes.set_title(f"{rows[0].config.dataset}: {_views(rows)}, {tested}; 95% intervals for the videos alone")
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    return figure


def _panels(rows: Sequence[RowFigures], height: float) -> tuple[Figure, list]:
    """A figure with a panel for each row, three beside each other."""
    columns = min(3, len(rows))
    lines = -(-len(rows) // columns)
    figure = Figure((3 * columns, height * lines), layout="constrained")
    panels = list(figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat)
    for number, empty in enumerate(panels[len(rows) :], len(rows)):
        empty.set_visible(False)
        panels[number - columns].tick_params(labelbottom=True)
    for row, axes in zip(rows, panels, strict=False):
        axes.set_title(row.label, fontsize=9)
        axes.grid(alpha=0.3)
    return figure, panels


@styled
def views_figure(measured: Measured) -> Figure:
    """Top-1 with its 95% interval by the number of clips, for the middle crop and all crops."""
    figure, panels = _panels(measured.rows, 2.3)
    for row, axes in zip(measured.rows, panels, strict=False):
        for crops, own in row.views.groupby("crops"):
            found = [figures.share(100 * line.right / line.videos, int(line.videos)) for line in own.itertuples()]
            label = f"{crops} crop{'s' if crops > 1 else ''}"
            (line,) = axes.plot(own["clips"], [a.percent for a in found], "o-", markersize=3, label=label)
            ends = zip(*(a.interval for a in found), strict=True)
            axes.fill_between(own["clips"], *ends, color=line.get_color(), alpha=0.12, lw=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].legend(frameon=False, fontsize=8)
    figure.supxlabel("clips", fontsize=9)
    figure.supylabel("top-1 accuracy (%)", fontsize=9)
    return figure


@styled
def calibration_figure(measured: Measured) -> Figure:
    """The share of right answers, with its 95% interval, by their probability: on the diagonal both are the same."""
    figure, panels = _panels(measured.rows, 2.6)
    for row, axes in zip(measured.rows, panels, strict=False):
        bins = row.calibration
        found = [figures.share(line.right, int(line.videos)) for line in bins.itertuples()]
        axes.plot([0, 100], [0, 100], color="0.5", linewidth=0.8, linestyle="--")
        places = bins["probability"], [a.percent for a in found]
        axes.errorbar(*places, _errors(found), fmt="o", markersize=3, elinewidth=0.8, capsize=2)
        axes.set(xlim=(0, 103), ylim=(0, 103))
        axes.text(100, 4, f"calibration error {row.calibration_error:.1f}", fontsize=8, ha="right")
    figure.supxlabel("probability of the first answer (%)", fontsize=9)
    figure.supylabel("right (%)", fontsize=9)
    return figure


@styled
def plot_confusion(row: RowFigures, path: Path) -> None:
    """Share of each class's videos that were taken for each class; numbers only where there is room."""
    table = row.predictions
    classes = sorted(set(table["actual"]) | set(table["predicted"]))
    counts = pd.crosstab(table["actual"], table["predicted"]).reindex(index=classes, columns=classes, fill_value=0)
    share = 100 * counts.div(counts.sum(axis=1).clip(lower=1), axis=0).to_numpy()
    side = min(14, 2.5 + 0.35 * len(classes))
    figure = Figure((side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, label="share of the class's videos (%)", shrink=0.8)
    if len(classes) <= 40:
        axes.set_xticks(range(len(classes)), classes, rotation=90)
        axes.set_yticks(range(len(classes)), classes)
    if len(classes) <= 20:
        for (i, j), value in np.ndenumerate(share):
            if value:
                axes.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=7, color="w" if value > 50 else "k")
    axes.set(xlabel="predicted class", ylabel="actual class")
    axes.set_title(f"{row.label} on {row.config.dataset}: top-1 {row.top1}")
    save_figure(figure, path)


@styled
def as_svg(figure: Figure) -> str:
    """Without a date and without a ground; what is black has the colour of the text around it."""
    target = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "r2plus1d", "svg.fonttype": "none"}):
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    # whatever fonts are installed here
    text = re.sub(r"(font: [\d.]+px|font-family:) [^;\"]+", r"\1 sans-serif", target.getvalue())
    text = text.replace("#000000", "currentColor").replace("fill: #ffffff", "fill: none")
    return text.replace("<text ", '<text fill="currentColor" ')


def save_figure(figure: Figure, path: Path) -> None:
    """As a PNG without a date, so that the same figure gives the same bytes."""
    with replacing(path) as partial, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(partial, format="png", dpi=110, metadata={"Software": None})
    missing = [found[1] for w in caught if (found := re.match(r"Glyph (\d+) .*missing from font", str(w.message)))]
    if new := {chr(int(number)) for number in missing} - _without_font:
        _without_font.update(new)
        shown = "".join(sorted(new))[:20]
        print(
            f"no font here has {shown}: boxes stand for them in pictures; install one, such as Noto Sans CJK",
            file=sys.stderr,
        )
