"""What the rows reach with other seeds: the file metrics/seeds.json, its table and its plot.

The file: {"dataset", "split", "videos", "rows"}, and of each row
    of      names its configuration without the seed, and its data; results of another one are never mixed in
    asked   the seeds that a command asked for; those without a result are named in the table
    seeds   by seed: top1, mean_class_accuracy, single_clip_top1 (percent), weights (MD5 of the trained model)
    top1    mean, deviation (of the sample; null for one seed), least and most, over the seeds
"""

import hashlib
import itertools
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from r2plus1d.results.figures import share
from r2plus1d.results.intervals import MeanDifference, adjusted, over_seeds, widest
from r2plus1d.results.markdown import into_document, markdown_table
from r2plus1d.results.plots import save_figure, styled
from r2plus1d.results.report import SPLITS
from r2plus1d.system import paths
from r2plus1d.system.files import read_json, write_json, write_text

SEEDS = Path("metrics/seeds.json")
TABLE, PICTURE = SEEDS.with_suffix(".md"), SEEDS.with_suffix(".png")
DIGITS = 8
NAME = "seeds"  # of the markers in docs/results.md
FIGURES = ("top1", "mean_class_accuracy", "single_clip_top1", "weights")
Found = dict[str, Any]


def read() -> Found:
    """metrics/seeds.json; without rows where nothing was measured."""
    found = read_json(SEEDS)
    return found if isinstance(found, dict) and isinstance(found.get("rows"), dict) else {"rows": {}}


def of_what_lies_here(found: Found, rows: Iterable[str]) -> Found:
    """The same with those of the `rows` alone of which one of the seeds made the weights and the test that lie there:
    others are of another configuration, other data or other code."""
    return {**found, "rows": {row: found["rows"][row] for row in rows if _lies_here(found["rows"].get(row), row)}}


def _lies_here(entry: Mapping[str, Any] | None, row: str) -> bool:
    weights, test = paths.weights(row), read_json(paths.metrics(row, "test.json"))
    if entry is None or test is None or not weights.is_file():
        return False
    made = {"weights": hashlib.md5(weights.read_bytes()).hexdigest(), "top1": test["top1"]}
    return any(made == {key: one[key] for key in made} for one in entry["seeds"].values())


def spread_text(found: Found, row: str) -> str | None:
    """Such as `62.50 ± 8.20 (5)`: mean and standard deviation of top-1, and the number of seeds; None where there are
    no two."""
    entry = found["rows"].get(row)
    if entry is None or entry["top1"]["deviation"] is None:
        return None
    return f"{entry['top1']['mean']:.2f} ± {entry['top1']['deviation']:.2f} ({len(entry['seeds'])})"


def difference(found: Found, first: str, second: str) -> MeanDifference | None:
    """Of the top-1 of two rows over the seeds that they share; None where there are no two."""
    one, other = (found["rows"].get(row, {"seeds": {}})["seeds"] for row in (first, second))
    seeds = [seed for seed in one if seed in other]
    if len(seeds) < 2:
        return None
    a, b = ([entry[seed]["top1"] for seed in seeds] for entry in (one, other))
    return over_seeds(a, b, found["videos"])


def difference_text(more: MeanDifference) -> str:
    """Such as `+2.33 (-8.9 to +13.5)`, in points."""
    return f"{more.points:+.2f} ({more.interval.low:+.1f} to {more.interval.high:+.1f})"


def merged(before: Found, dataset: str, identities: Mapping[str, str], now: Mapping[str, Mapping]) -> Found:
    """The file's content: what was measured `now`, and of `before` what still stands.

    `identities` are the names of all rows' configurations and data, in the order of the tables. `now` has by row
    "asked", "current" (the seed in params.yaml) and "seeds" (figures by seed, see `zoo.seeds.figures`). What an earlier
    command measured stands where it is of the same configuration and data; and of a row in `now`, where the current
    seed has the same figures and weights in both, since other code may have made them.
    """
    entries: dict[str, dict] = {}
    head = {key: before.get(key) for key in ("split", "videos")}
    for row, identity in identities.items():
        old = before["rows"].get(row, {})
        if old.get("of") != identity or before.get("dataset") != dataset:
            old = {}
        if row not in now:
            entries |= {row: old} if old else {}
            continue
        new = {str(seed): one for seed, one in now[row]["seeds"].items()}
        current = new[str(now[row]["current"])]
        head = {key: current[key] for key in head}
        figures = {seed: {key: one[key] for key in FIGURES} for seed, one in new.items()}
        if old.get("seeds", {}).get(str(now[row]["current"])) != figures[str(now[row]["current"])]:
            old = {}
        seeds = _by_number(old.get("seeds", {}) | figures)
        asked = sorted({*old.get("asked", []), *now[row]["asked"], now[row]["current"]})
        entries[row] = {"of": identity, "asked": asked, "seeds": seeds, "top1": spread(seeds.values())}
    return {"dataset": dataset, **head, "rows": entries}


def _by_number(seeds: Mapping[str, dict]) -> dict[str, dict]:
    return dict(sorted(seeds.items(), key=lambda pair: int(pair[0])))


def spread(seeds: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
    """Of the top-1, in percent."""
    values = [one["top1"] for one in seeds]
    deviation = round(statistics.stdev(values), 2) if len(values) > 1 else None
    mean = round(statistics.mean(values), 2)
    return {"mean": mean, "deviation": deviation, "least": min(values), "most": max(values)}


def missing(found: Found, row: str) -> list[int]:
    """The seeds that were asked for and have no result."""
    entry = found["rows"][row]
    return [seed for seed in entry["asked"] if str(seed) not in entry["seeds"]]


def table(found: Found, names: Mapping[str, str]) -> str:
    """In Markdown, with what its columns mean below it; `names` are the short names by row."""
    seeds = sorted({seed for entry in found["rows"].values() for seed in entry["asked"]})
    cells = []
    for row, entry in found["rows"].items():
        figures, top1 = entry["seeds"].values(), entry["top1"]
        means = [statistics.mean(one[key] for one in figures) for key in ("mean_class_accuracy", "single_clip_top1")]
        by_seed = [_cell(entry, seed) for seed in seeds]
        numbers = [f"{value:.2f}" for value in (top1["least"], top1["most"], *means)]
        cells.append([names[row], spread_text(found, row) or f"{top1['mean']:.2f} (1)", *numbers, *by_seed])
    columns = ("row", "top-1", "least", "most", "mean class", "single clip", *(f"seed {seed}" for seed in seeds))
    videos = f"{found['videos']} {SPLITS[found['split']].lower()} videos of `{found['dataset']}`"
    made = [
        [names[row], *(entry["seeds"].get(str(seed), {}).get("weights", "")[:DIGITS] for seed in seeds)]
        for row, entry in found["rows"].items()
    ]
    weights = markdown_table(("weights of", *(f"seed {seed}" for seed in seeds)), made)
    told = (
        f"{_told()} The 95% interval of each figure for the videos alone is at most "
        f"{widest(found['videos']):.1f} points to each side."
    )
    lines = [f"Measured on the {videos}.", "", markdown_table(columns, cells), "", told, "", *_pairs(found, names)]
    lines += [weights, ""]
    lines.append(f"The first {DIGITS} digits of the MD5 of each `model.safetensors`, as `dvc.lock` has it.")
    gone = {names[row]: missing(found, row) for row in found["rows"]}
    lost = [f"{name} with seed {', '.join(map(str, numbers))}" for name, numbers in gone.items() if numbers]
    return "\n".join(lines + (["", f"**Missing: {'; '.join(lost)}.**"] if lost else []))


def _pairs(found: Found, names: Mapping[str, str]) -> list[str]:
    """Whether each two rows can be told apart, where they share seeds."""
    both = {pair: difference(found, *pair) for pair in itertools.combinations(found["rows"], 2)}
    known = {pair: more for pair, more in both.items() if more is not None}
    if not known:
        return []
    cells = [
        (f"{names[second]} - {names[first]}", difference_text(more), more.seeds, f"{more.p:.2g}", f"{p:.2g}")
        for ((first, second), more), p in zip(known.items(), adjusted([m.p for m in known.values()]), strict=True)
    ]
    columns = ("rows", "points (95% interval)", "seeds", "p", f"p among {len(known)}")
    told = (
        "Differences of the mean top-1 over the seeds that both rows share, by the paired t test. The interval and the "
        "first p are of the pair by itself; they take the differences to deviate by no less than rounding to whole "
        "videos does. The last p is adjusted for the number of pairs (Benjamini and Hochberg): where that is below "
        "0.05 the recipes differ on these videos."
    )
    return [markdown_table(columns, cells), "", told, ""]


def _cell(entry: Mapping[str, Any], seed: int) -> str:
    if str(seed) in entry["seeds"]:
        return f"{entry['seeds'][str(seed)]['top1']:.2f}"
    return "missing" if seed in entry["asked"] else "-"


def _told() -> str:
    return (
        "Top-1: mean ± sample standard deviation (number of seeds) in percent; least and most of the same, mean class "
        "and single clip as means; then the top-1 of each seed. A seed decides a training's first weights, order and "
        "augmentation. All trainings see the same videos and are tested on the same videos, so ± is what chance in the "
        "training does, not what other videos would do. `r2plus1d seeds` trains what is missing and writes this."
    )


@styled
def figure(found: Found, names: Mapping[str, str]) -> Figure:
    """A point for the top-1 of each seed, with its 95% interval for the videos alone, and a line for their mean, by
    row."""
    drawn = Figure((8, 3.6), layout="constrained")
    axes = drawn.subplots()
    for place, entry in enumerate(found["rows"].values()):
        values = [one["top1"] for one in entry["seeds"].values()]
        across = place + (np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else np.zeros(1))
        ends = [share(value, found["videos"]).interval for value in values]
        axes.vlines(across, *zip(*ends, strict=True), color="C0", alpha=0.3, linewidth=1)
        axes.plot(
            across, values, "o", color="C0", markersize=5, label="" if place else "one seed, with its 95% interval"
        )
        mean = entry["top1"]["mean"]
        axes.hlines(mean, place - 0.3, place + 0.3, color="black", label="" if place else "mean")
        axes.annotate(f"{mean:.1f}", (place + 0.32, mean), va="center", fontsize=8)
    axes.set_xticks(range(len(found["rows"])), [names[row] for row in found["rows"]])
    axes.set_xlim(-0.6, len(found["rows"]) - 0.2)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", alpha=0.3)
    axes.set_ylabel("top-1 accuracy (%)")
    axes.set_title(f"Seeds on {found['dataset']} ({found['videos']} {SPLITS[found['split']].lower()} videos)")
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    return drawn


def publish(found: Found, names: Mapping[str, str]) -> str:
    """Writes metrics/seeds.json, .md and .png and the part of docs/results.md; the table."""
    write_json(SEEDS, found)
    text = table(found, names)
    write_text(TABLE, text + "\n")
    save_figure(figure(found, names), PICTURE)
    picture = f"![Top-1 of each seed, by row](../{PICTURE.as_posix()})"
    into_document(paths.RESULTS, NAME, f"{text}\n\n{picture}")
    return text
