"""What was made again, compared with what is committed: which outputs and figures are the same, and by which tolerance.

Bytes are equal or not. Where another machine cannot make the same bytes, training is another draw, and its accuracies
may differ by as much as those of two independent samples of the same number of videos.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

SIGMAS = 3
ACCURACIES = ("top1", "top5", "mean_class_accuracy", "mean_class", "single_clip", "static")
TIMINGS = ("videos_per_second", "memory_mib", "video_s", "mib")
TIMED_FILES = ("/benchmark_machine.json", "/measured.md", "/index.html")
WITH_TIMINGS = ("/benchmark.json", "metrics/summary.json")  # the other figures can be the same, so not the file
EXACT_STAGES = ("resolve", "scan", "build_lists")  # copy names, count and hash; no arithmetic
SOURCE = re.compile(r"^- code: .*$", re.MULTILINE)  # in a card: the commit that made these bytes first, or a later one
SAME, WITHIN, DIFFERENT, NOT_COMPARED = "identical", "within tolerance", "DIFFERENT", "not comparable"
HOW = (
    f"Accuracies were compared by tolerance: {SIGMAS} standard deviations of the difference of two accuracies, each "
    "the share of right answers among so many independent videos. Bytes that arithmetic or codecs enter were not. A "
    "training with other bytes is another draw, as with another seed, so this finds gross faults alone: how far seeds "
    "move a row stands in docs/results.md."
)

Outputs = dict[str, dict[str, str]]  # by stage: content hashes by path
Reader = Callable[[str], str]  # path -> text


@dataclass(frozen=True)
class Finding:
    what: str  # a path, or a path and a figure's name
    verdict: str  # one of the four above
    committed: str = ""
    made: str = ""


def compare(committed: Outputs, made: Outputs, read_committed: Reader, read_made: Reader, exact: bool) -> list[Finding]:
    """Every output of either side, and every figure of the metrics files (.json below metrics/) that both have."""
    findings = []
    for stage in {**committed, **made}:
        old, new = committed.get(stage, {}), made.get(stage, {})
        for path in {**old, **new}:
            if stage.startswith("card@") and path in old and path in new and old[path] != new[path]:
                cards = (SOURCE.sub("", read(path)) for read in (read_committed, read_made))
                if len(set(cards)) == 1:
                    findings.append(Finding(path, f"{SAME} but for the commit"))
                    continue
            if not (path.endswith(WITH_TIMINGS) and path in old and path in new):
                findings.append(compare_output(stage, path, old.get(path), new.get(path), exact))
            if path in old and path in new and _is_metrics(path):
                before, after = map(json.loads, (read_committed(path), read_made(path)))
                findings += compare_figures(path, before, after, exact)
    return findings


def compare_output(stage: str, path: str, committed: str | None, made: str | None, exact: bool) -> Finding:
    """By content hashes, None where one side lacks it. Without `exact`, other bytes are no difference where a stage's
    arithmetic or codecs may be others."""
    if committed == made:
        return Finding(path, SAME)
    if committed and made and (path.endswith(TIMED_FILES) or not (exact or stage in EXACT_STAGES)):
        return Finding(path, NOT_COMPARED)
    return Finding(path, DIFFERENT, committed or "nothing", made or "nothing")


def compare_figures(path: str, committed: Any, made: Any, exact: bool) -> list[Finding]:
    """Of a metrics file, one finding for each figure of either side; nested names are joined by dots."""
    old, new = flat(committed), flat(made)
    return [_figure(path, name, old, new, exact) for name in {**old, **new}]


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {n: v for key, inner in value.items() for n, v in flat(inner, f"{prefix}.{key}".strip(".")).items()}


def tolerance(first: float, second: float, videos: int) -> float:
    """Percent: so many standard deviations of the difference of two accuracies (in percent), each the share of right
    answers among `videos` independent videos."""
    variance = sum(p * (1 - p) / videos for p in (first / 100, second / 100))
    return 100 * SIGMAS * math.sqrt(variance)


def summary(findings: list[Finding]) -> str:
    counts = {v: sum(f.verdict.startswith(v) for f in findings) for v in (SAME, WITHIN, DIFFERENT, NOT_COMPARED)}
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)


def _is_metrics(path: str) -> bool:
    no_figures = (*TIMED_FILES, "/mistakes.json")
    return path.startswith("metrics/") and path.endswith(".json") and not path.endswith(no_figures)


def _figure(path: str, name: str, old: dict, new: dict, exact: bool) -> Finding:
    what, last, absent = f"{path} {name}", name.rpartition(".")[2], "nothing"
    sides = str(old.get(name, absent)), str(new.get(name, absent))
    if name in old and name in new:
        if path.endswith(WITH_TIMINGS) and last in TIMINGS:
            return Finding(what, NOT_COMPARED, *sides)
        if old[name] == new[name]:
            return Finding(what, SAME, *sides)
        if not exact and last == "classes":  # that still clips are taken for
            return Finding(what, NOT_COMPARED, *sides)
        if not exact and last in ACCURACIES and old.get("videos") == new.get("videos"):
            allowed = tolerance(old[name], new[name], old["videos"])
            if abs(old[name] - new[name]) <= allowed:
                return Finding(what, f"{WITHIN} (± {allowed:.2f})", *sides)
    return Finding(what, DIFFERENT, *sides)
