"""Where the pipeline's seconds went: the table of all stages' records.

A stage that did not run here since keeps what benchmarks/results/profile.json says of it.
"""

import itertools

from r2plus1d.results.markdown import into_document, markdown_table
from r2plus1d.system import paths
from r2plus1d.system.errors import UserError
from r2plus1d.system.files import read_json, write_json, write_text

STAGES = (  # in the order of dvc.yaml
    "resolve",
    "scan",
    "download",
    "probe",
    "extract_frames",
    "build_lists",
    "features",
    "baselines",
    "one_frame",
    "train",
    "test",
    "benchmark",
    "card",
    "report",
)
BETWEEN = "DVC, between the stages"
COLUMNS = ("stage", "row", "seconds", "share", "start", "reading", "the rest")
PAUSE = 60.0  # seconds between two stages of one `dvc repro`, at most


class ProfileError(UserError):
    """No stage has left a record."""


def profile() -> str:
    """The table, also written to benchmarks/results/profile.md, next to what it is made from, and docs/results.md, once
    a stage has run here. Raises ProfileError."""
    here = [record for path in paths.seconds("", None).parent.glob("*.json") if (record := read_json(path))]
    committed = read_json(paths.PROFILE) or []
    if not here and not committed:
        raise ProfileError(f"no record of a stage in {paths.seconds('', None).parent}: run `dvc repro`")
    if not here:
        return f"{table(committed)} Nothing has run here yet: this is the committed table."
    known = {(record["stage"], record["row"]): record for record in [*committed, *here] if _is_of_now(record)}
    all_here = len(here) == len(known)
    if all_here and (between := _between(here)) is not None:
        known[BETWEEN, None] = {**here[0], "stage": BETWEEN, "row": None, "seconds": between, "start": 0, "reading": 0}
    records = sorted(known.values(), key=_place)
    write_json(paths.PROFILE, [{k: v for k, v in record.items() if k != "began"} for record in records])
    text = table(records)
    if not all_here:
        text += " Stages that have not run here keep the seconds of the committed table."
    write_text(paths.PROFILE.with_suffix(".md"), text + "\n")
    into_document(paths.RESULTS, "profile", text)
    return text


def table(records: list[dict]) -> str:
    total, rows = sum(record["seconds"] for record in records), []
    for record in records:
        parts = record["start"], record["reading"], record["seconds"] - record["start"] - record["reading"]
        head = record["stage"], record["row"] or "", f"{record['seconds']:.1f}", f"{record['seconds'] / total:.0%}"
        rows.append([*head, *(f"{part:.1f}" for part in parts)])
    rows.append(["all", "", f"{total:.1f}", "100%", "", "", ""])
    machines = sorted({f"{record['processor']}, {record['cores']} cores" for record in records})
    note = f"Seconds of the last run of each stage, on {' and '.join(machines)}. start: Python and its imports; "
    return f"{markdown_table(COLUMNS, rows)}\n\n{note}reading: waiting for clips."


def _is_of_now(record: dict) -> bool:
    """Of a row that params.yaml has, or of all of them."""
    return record["stage"] != BETWEEN and (record["row"] is None or (paths.CONFIGS / record["row"]).is_dir())


def _place(record: dict) -> tuple:
    stage, row = record["stage"], record["row"]
    return STAGES.index(stage) if stage in STAGES else len(STAGES), row == "custom", row or ""


def _between(records: list[dict]) -> float | None:
    """Seconds between stages that ran one after the other; None where they did not."""
    ordered = sorted(records, key=lambda record: record["began"])
    gaps = [later["began"] - r["began"] - r["seconds"] for r, later in itertools.pairwise(ordered)]
    return sum(gaps) if gaps and min(gaps) > -1 and max(gaps) < PAUSE else None
