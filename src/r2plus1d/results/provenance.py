"""What made a row's results: a record beside its metrics for each training, test and benchmark, and how it reads.

DVC does not hash the records, since commit and processor vary where the bytes must not. Each is tied to the files that
it describes by their SHA-256.
"""

import functools
import json
import os
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from r2plus1d.model import checkpoint
from r2plus1d.system import arithmetic, paths, processes
from r2plus1d.system.device import cpu_kernels, describe, prepare
from r2plus1d.system.errors import UserError
from r2plus1d.system.files import read_json, sha256, write_json
from r2plus1d.zoo.rows import Row

CODE = ("src", "stages", "params.yaml", "dvc.yaml", "constraints.txt", "pyproject.toml")
LIBRARIES = ("numpy", "av", "opencv-python-headless", "simplejpeg", "safetensors", "pandas")
STAGES = {"train": "training", "test": "test", "benchmark": "benchmark"}


class ProvenanceError(UserError):
    """Nothing is known of what was asked for; the message says what was looked for."""


def recorded(stage: str) -> Callable:
    """Decorates what a stage does with a row: when it ends without an error, the record is written.

    The code and the inputs are those of the start, so that editing during a long training does not enter its record.
    """

    def decorate(work: Callable[[Row], None]) -> Callable[[Row], None]:
        @functools.wraps(work)
        def with_record(row: Row) -> None:
            name, taken = row.config.row, row.config.checkpoint if stage == "train" else None
            sources = row.sources() if stage == "train" else [*row.sources(), paths.weights(name)]
            record = {"row": name, "stage": stage, "seed": row.config.seed, "weights_of": taken, "code": code()}
            readable = [file for file in sources if os.access(file, os.R_OK)]  # another is the work's own error
            record["inputs"] = hashes(readable) if processes.first() else {}
            work(row)
            if not processes.first():
                return
            record["outputs"] = hashes(outputs(name, stage))
            record["machine"] = None if taken else machine(prepare(row.config.runtime))
            record["libraries"] = libraries()
            record["environment"] = {key: os.environ.get(key) for key in arithmetic.PINNED}
            write_json(paths.made_by(name, stage), record)

        return with_record

    return decorate


def outputs(row: str, stage: str) -> list[Path]:
    if stage == "train":
        return [paths.weights(row)]
    if stage == "test":
        return [paths.metrics(row, "test.json"), paths.scores(row)]
    return [paths.metrics(row, "benchmark.json")]


def hashes(files: list[Path]) -> dict[str, str]:
    """SHA-256 by path."""
    return {file.as_posix(): sha256(file) for file in files}


def code() -> dict | None:
    """{"commit", "changed", "package"}: changed files of the project's code, and the folder that the package was loaded
    from. None where the project is no git clone."""
    try:
        git("ls-files", "--error-unmatch", "dvc.yaml")  # a clone around the project says nothing of its code
        commit, status = git("rev-parse", "HEAD").strip(), git("status", "--porcelain", "--no-renames", "--", *CODE)
    except (OSError, subprocess.CalledProcessError):
        return None
    package, root = Path(__file__).resolve().parents[1], Path.cwd().resolve()
    inside = package.is_relative_to(root)
    return {
        "commit": commit,
        "changed": [line[3:] for line in status.splitlines()],
        "package": (package.relative_to(root) if inside else package).as_posix(),
    }


def git(*arguments: str) -> str:
    """Takes no lock: DVC may be at work in the same clone."""
    command = ["git", "--no-optional-locks", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def machine(device: torch.device) -> dict[str, str | int]:
    described = describe(device)
    kept = {key: described[key] for key in ("device", "threads", "cuda")}
    return kept | {"type": device.type, "cpu_kernels": cpu_kernels(), "processes": processes.processes()}


def libraries() -> dict[str, str]:
    """Versions of what computes, decodes and writes."""
    described = describe(torch.device("cpu"))
    return {key: str(described[key]) for key in ("python", "torch")} | {name: _version(name) for name in LIBRARIES}


def differences(record: dict, runtime: dict) -> list[str]:
    """Why this machine, with the `runtime` of params.yaml, cannot make the bytes of a record's outputs, if so."""
    here, there = libraries(), record["libraries"]
    found = [f"{n} {here.get(n)} here, {v} there" for n, v in there.items() if n != "python" and here.get(n) != v]
    if (machine := record["machine"]) is None:
        return found
    if (kernels := cpu_kernels()) != machine["cpu_kernels"]:
        found.append(f"torch's {kernels} kernels on this processor, {machine['cpu_kernels']} there")
    if "cuda" in (machine["type"], runtime["device"]) or (runtime["device"] == "auto" and torch.cuda.is_available()):
        found.append("a CUDA device computes, where it is not shown that bytes repeat")
    elif runtime["threads"] is None and torch.get_num_threads() != machine["threads"]:
        found.append(f"{torch.get_num_threads()} threads here, {machine['threads']} there, and params.yaml sets none")
    return found


def show(target: str) -> str:
    """What is known of a row's files, as text. `target`: a row, its folder below models/, metrics/ or results/, its
    model.safetensors, or a model file anywhere, of which only the header speaks. Raises ProvenanceError."""
    root, row = _place(target)
    weights = root / paths.weights(row)
    parts = [_told(root, row, stage) for stage in STAGES if (root / paths.made_by(row, stage)).is_file()]
    if parts:
        return "\n\n".join(parts)
    file = Path(target) if Path(target).is_file() else weights
    if file.suffix == ".safetensors" and file.is_file():
        return _header(file)
    known = ", ".join(sorted({path.parent.name for path in Path("metrics").glob("*/made_by_*.json")}))
    raise ProvenanceError(
        f"{target}: no record of what made it, and no model file there; give a row, models/ROW, metrics/ROW or a "
        f".safetensors file; {f'there are records of {known}' if known else 'there are no records here: dvc repro'}"
    )


def _place(target: str) -> tuple[Path, str]:
    """(the project's root, the row) that a target would belong to."""
    path = Path(target)
    folder = path.parent if path.suffix else path
    if folder.absolute().parent.name in ("models", "metrics", "results"):
        return Path(os.path.relpath(folder.absolute().parents[1])), folder.absolute().name
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
    facts = {"code": _code_line(record["code"]), "seed": record["seed"]}
    if record["weights_of"]:
        facts["weights"] = f"not trained here: those of {record['weights_of']}"
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


def _code_line(code: dict | None) -> str:
    if code is None:
        return "unknown: no git clone"
    line = f"commit {code['commit']}, " + (
        f"with changes in {', '.join(code['changed'])}" if code["changed"] else "clean"
    )
    return line if code["package"] == "src/r2plus1d" else f"{line}; the package came from {code['package']}"


def _state(path: Path, digest: str) -> str:
    if not path.is_file():
        return "not on disk"
    found = sha256(path)
    return "as on disk" if found == digest else f"ANOTHER on disk, {found[:16]}"


def _header(file: Path) -> str:
    """What a model file says of itself, and the row of this project that it is, if any."""
    try:
        with safe_open(file, "pt") as opened:
            built_with = json.loads((opened.metadata() or {}).get(checkpoint.METADATA, "{}"))
            tensors = len(list(opened.keys()))
        told = ", ".join(f"{key} {value}" for key, value in built_with.items()) or "nothing"
    except (OSError, SafetensorError, ValueError, AttributeError) as error:
        raise ProvenanceError(f"{file}: not a model file: {' '.join(str(error).split())}") from error
    digest = sha256(file)
    same = [
        record["row"]
        for path in sorted(Path("metrics").glob("*/made_by_train.json"))
        if isinstance(record := read_json(path), dict) and digest in record.get("outputs", {}).values()
    ]
    lines = [f"{file}: a model of {tensors} tensors", f"  sha256       {digest}", f"  header       {told}"]
    known = (
        f"that of {' and '.join(same)} here: show {same[0]}"
        if same
        else "none beside it, and none of the same bytes here"
    )
    return "\n".join([*lines, f"  record       {known}"])


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
