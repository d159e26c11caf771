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

from r2plus1d.results.report import SPLITS, RowFigures, chance, views_text
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
def curves_figure(rows: Sequence[RowFigures]) -> Figure:
    """Training loss and validation accuracy by epoch of all rows that were trained."""
    figure = Figure((9, 3.6), layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    for row in rows:
        if row.curve.empty:
            continue
        losses.plot(row.curve["epoch"], row.curve["train_loss"], label=row.label)
        tested = row.curve.dropna(subset=["val_top1"])
        accuracies.plot(tested["epoch"], 100 * tested["val_top1"], marker="o", markersize=3, label=row.label)
    losses.set(title="Training loss", xlabel="epoch", ylabel="cross-entropy (nats)")
    accuracies.set(title="Validation, one centre clip", xlabel="epoch", ylabel="top-1 accuracy (%)", ylim=(0, 100))
    for axes in (losses, accuracies):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if accuracies.lines:
        accuracies.legend(frameon=False, fontsize=8)
    figure.suptitle(f"Training on `{rows[0].config.dataset}`")
    return figure


def _views(rows: Sequence[RowFigures]) -> str:
    """The views of the test, where all rows have the same."""
    texts = {views_text(row).removesuffix(", the published protocol") for row in rows}
    return texts.pop() if len(texts) == 1 else "all views of the test"


@styled
def top1_figure(rows: Sequence[RowFigures], coverage: dict) -> Figure:
    """Top-1 of every row, its static control, and chance."""
    figure = Figure((8, 3.6), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))
    moving = axes.bar(places - 0.2, [row.test["top1"] for row in rows], 0.38, label=_views(rows))
    still = [row.test["static"]["top1"] for row in rows]
    static = axes.bar(places + 0.2, still, 0.38, color="0.7", label="static control (one view, one frame repeated)")
    for bars in (moving, static):
        for text in axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=2):
            text.set(zorder=3, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.3})  # over the line of chance
    level = chance(coverage)
    axes.axhline(level, color="black", linewidth=0.8, linestyle="--", label=f"chance ({level:.1f}%)")
    axes.set_xticks(places, [row.label for row in rows])
    axes.set(ylabel="top-1 accuracy (%)", ylim=(0, 110), yticks=range(0, 101, 20))
    split = rows[0].test["split"]
    tested = f"{rows[0].test['videos']} of {coverage[split]['listed']} {SPLITS[split].lower()} videos"
    axes.set_title(f"Accuracy on `{rows[0].config.dataset}` ({tested})")
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.1))
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
    axes.set_title(f"{row.label} on `{row.config.dataset}`: top-1 {row.test['top1']:.1f}%")
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
