"""What made a stage's outputs: a record for each run of the stages that take long, kept in git.

DVC does not hash the records, since commit and processor vary where the bytes must not. Each is tied to the files that
it describes by their SHA-256, and is written again only if what it records has changed.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from r2plus1d.system import arithmetic, code, paths
from r2plus1d.system.errors import UserError
from r2plus1d.system.files import read_json, sha256, write_json
from r2plus1d.system.git import git

CODE = ("src", "stages", "params.yaml", "dvc.yaml", "constraints.txt", "pyproject.toml")
SHARED = "data"  # stands in the place of a row for the stages that all rows share
ESSENTIAL = ("inputs", "outputs", "code", "libraries")
VARIES = ("commit", "machine")  # from machine to machine and from day to day, with the same result


@contextlib.contextmanager
def recorded(
    stage: str,
    row: str,
    inputs: list[Path],
    outputs: Callable[[], list[Path]],
    facts: Callable[[], dict[str, Any]] = dict,
) -> Iterator[None]:
    """Writes the record when the block ends without an error.

    Commit, code and inputs are those of the start, so that editing during a long run does not enter its record;
    `outputs` and `facts` are asked for at the end. A fact may take the place of what the record says by itself.
    """
    code.running()  # remembers the trees as they are now
    record: dict[str, Any] = {"row": row, "stage": stage, "commit": commit()}
    record["inputs"] = hashes([file for file in inputs if os.access(file, os.R_OK)])  # another is the work's own error
    yield
    record |= {"outputs": hashes(outputs()), "code": code.running(), "libraries": code.libraries(), **facts()}
    record["environment"] = {key: os.environ.get(key) for key in arithmetic.PINNED}
    file = paths.made_by(row, stage)
    if _lasting(read_json(file)) != _lasting(record):
        write_json(file, record)


def read(stage: str, row: str) -> dict[str, Any]:
    """The record, with what every record has; an empty one where there is none, or another file."""
    found = read_json(paths.made_by(row, stage))
    whole = isinstance(found, dict) and all(isinstance(found.get(key), dict) for key in ESSENTIAL)
    return found if whole else {}


def of_output(stage: str, row: str, file: Path) -> dict[str, Any]:
    """The record, if it is of the file that lies there; else an empty one, as where DVC took it from its cache."""
    found = read(stage, row)
    return found if file.is_file() and sha256(file) in found.get("outputs", {}).values() else {}


def of_what_runs_now(record: dict[str, Any]) -> bool:
    """Whether the same code, by its syntax trees, and the same versions would run again."""
    return bool(record) and not code.changed(record["code"]) and record["libraries"] == code.libraries()


def of_files_on_disk(record: dict[str, Any]) -> bool:
    """Whether what it was made from and what it made lie there as they were."""
    return all(_unchanged(Path(path), digest) for key in ("inputs", "outputs") for path, digest in record[key].items())


def same(stage: str, inputs: list[Path], facts: dict[str, Any], row: str) -> dict[str, Any]:
    """The record of another row whose stage was run on the same inputs, by what runs now, with the same facts, and
    whose outputs are still there; else an empty one."""
    now = hashes(inputs)
    for file in sorted(paths.RECORDS.glob(f"*/made_by_{stage}.json")):
        record = read(stage, file.parent.name)
        if file.parent.name == row or not of_what_runs_now(record) or record["inputs"] != now:
            continue
        if all(record.get(key) == value for key, value in facts.items()) and of_files_on_disk(record):
            return record
    return {}


def _unchanged(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def hashes(files: list[Path]) -> dict[str, str]:
    """SHA-256 by path."""
    return {file.as_posix(): sha256(file) for file in files}


def commit() -> dict | None:
    """{"id", "changed", "package"}: changed files of the project's code, and the folder that the package was loaded
    from. None where the project is no git clone."""
    try:
        git("ls-files", "--error-unmatch", "dvc.yaml")  # a clone around the project says nothing of its code
        found, status = git("rev-parse", "HEAD").strip(), git("status", "--porcelain", "--no-renames", "--", *CODE)
    except UserError:
        return None
    package, root = code.ROOT / code.PACKAGE, Path.cwd().resolve()
    inside = package.is_relative_to(root)
    return {
        "id": found,
        "changed": [line[3:] for line in status.splitlines()],
        "package": (package.relative_to(root) if inside else package).as_posix(),
    }


def commit_text(found: dict | None) -> str:
    """What `commit` found, in words."""
    if found is None:
        return "unknown: no git clone"
    changed = f"with changes in {', '.join(found['changed'])}" if found["changed"] else "clean"
    line = f"commit {found['id']}, {changed}"
    return line if found["package"] == "src/r2plus1d" else f"{line}; the package came from {found['package']}"


def _lasting(record: Any) -> Any:
    return {key: value for key, value in record.items() if key not in VARIES} if isinstance(record, dict) else None
