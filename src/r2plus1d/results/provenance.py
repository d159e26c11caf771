"""What made a row's results, told from its records."""

import json
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open

from r2plus1d.model import checkpoint
from r2plus1d.system import paths
from r2plus1d.system.errors import UserError, one_line
from r2plus1d.system.files import read_json, sha256
from r2plus1d.system.records import SHARED, commit_text

STAGES = {"features": "features", "train": "training", "test": "test", "benchmark": "benchmark"}


class ProvenanceError(UserError):
    """Nothing is known of what was asked for; the message says what was looked for."""


def show(target: str) -> str:
    """What is known of a row, as text. `target`: a row, its folder below models/, metrics/rows/ or results/, its
    model.safetensors, or a model file anywhere, of which only the header speaks. Raises ProvenanceError."""
    root, row = _place(target)
    weights = root / paths.weights(row)
    parts = [_told(root, row, stage) for stage in STAGES if (root / paths.made_by(row, stage)).is_file()]
    if parts:
        return "\n\n".join(parts)
    file = Path(target) if Path(target).is_file() else weights
    if file.suffix == ".safetensors" and file.is_file():
        return _header(file)
    known = ", ".join(
        sorted({path.parent.name for path in paths.RECORDS.glob("*/made_by_*.json") if path.parent.name != SHARED})
    )
    raise ProvenanceError(
        f"{target}: no record of what made it, and no model file there; give a row, models/ROW, metrics/rows/ROW or a "
        f".safetensors file; {f'there are records of {known}' if known else 'there are no records here: dvc repro'}"
    )


def _place(target: str) -> tuple[Path, str]:
    """(the project's root, the row) that a target would belong to."""
    path = Path(target)
    folder = path.parent if path.suffix else path
    folder = folder.absolute()
    for home in (paths.model(folder.name), paths.metrics(folder.name, ""), paths.scores(folder.name).parent):
        if folder.parts[-len(home.parts) :] == home.parts:
            return Path(os.path.relpath(folder.parents[len(home.parts) - 1])), folder.name
    return Path(), path.name


def _told(root: Path, row: str, stage: str) -> str:
    file = root / paths.made_by(row, stage)
    record = read_json(file)
    try:
        return "\n".join([f"{row}, {STAGES[stage]} ({file})", *_lines(root, record)])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ProvenanceError(
            f"{file} is damaged ({error!r}); `git checkout {file}`, or run the stage again"
        ) from error


def _lines(root: Path, record: dict) -> list[str]:
    facts = {"code": commit_text(record["commit"]), "seed": record["seed"]}
    if record["weights_of"]:
        facts["weights"] = f"not trained here: those of {record['weights_of']}"
    if started := record.get("started_from"):
        facts["started"] = f"from {started}"
    if arithmetic := record.get("arithmetic"):
        facts["arithmetic"] = arithmetic
    if machine := record["machine"]:
        facts["device"] = (
            f"{machine['device']}, {machine['threads']} threads, {machine['processes']} processes, "
            f"{machine['cpu_kernels']} kernels on the CPU, CUDA {machine['cuda']}"
        )
    facts["libraries"] = ", ".join(f"{name} {version}" for name, version in record["libraries"].items())
    facts["environment"] = " ".join(f"{key}={value}" for key, value in record["environment"].items())
    lines = [f"  {key:<12} {value}" for key, value in facts.items()]
    other = False
    for key, title in (("inputs", "from"), ("outputs", "made")):
        for path, digest in record[key].items():
            state = _state(root / path, digest)
            other |= key == "outputs" and state != "as on disk"
            lines.append(f"  {title:<12} {digest[:16]} {path}: {state}")
    if other:
        lines.append(
            "  The record is not of the files on disk: `git checkout` and `dvc checkout` the same version of both"
        )
        lines.append("  (without them, `dvc repro` makes both).")
    return lines


def _state(path: Path, digest: str) -> str:
    if not path.is_file():
        return "not on disk"
    found = sha256(path)
    return "as on disk" if found == digest else f"ANOTHER on disk, {found[:16]}"


def _header(file: Path) -> str:
    """What a model file says of itself, and the row of this project that it is, if any."""
    try:
        with safe_open(file, "pt") as opened:
            header = json.loads((opened.metadata() or {}).get(checkpoint.METADATA, "{}"))
            built_with = header.get("network", header)
            tensors = len(list(opened.keys()))
        told = ", ".join(f"{key} {value}" for key, value in built_with.items()) or "nothing"
    except (OSError, SafetensorError, ValueError, AttributeError) as error:
        raise ProvenanceError(f"{file}: not a model file: {one_line(error)}") from error
    digest = sha256(file)
    same = [
        record["row"]
        for path in sorted(paths.RECORDS.glob("*/made_by_train.json"))
        if isinstance(record := read_json(path), dict) and digest in record.get("outputs", {}).values()
    ]
    lines = [f"{file}: a model of {tensors} tensors", f"  sha256       {digest}", f"  header       {told}"]
    known = f"that of {' and '.join(same)} here: show {same[0]}" if same else "none, and none of the same bytes here"
    return "\n".join([*lines, f"  record       {known}"])
