"""Makes everything again in a clone of HEAD and compares it with what is committed."""

import json
import os
import shutil
import tempfile
from pathlib import Path

from r2plus1d.config import strict_yaml
from r2plus1d.config.resolve import resolve
from r2plus1d.results import verification
from r2plus1d.results.markdown import markdown_table
from r2plus1d.system import dvc_command, paths, records
from r2plus1d.system.errors import UserError
from r2plus1d.system.git import git
from r2plus1d.zoo.records import differences

LOCK = "dvc.lock"


class VerificationError(UserError):
    """What is committed could not be made again, or came out different."""


def verify(row: str | None = None) -> None:
    """The whole pipeline, or one row; prints what was compared. Raises VerificationError where an output or a figure
    differs. With KEEP=1 in the environment the clone is kept."""
    committed = locked(row)
    if changes := git("status", "--porcelain", "--", *records.CODE, LOCK, "metrics").splitlines():
        say(f"Not verified: {len(changes)} uncommitted changes ({', '.join(line[3:] for line in changes[:5])})")
    for reason in (reasons := another_machine(row)):
        say(f"Not the same bytes here: {reason}")
    folder, keep = Path(tempfile.mkdtemp(prefix="r2plus1d-verify-")), bool(os.environ.get("KEEP"))
    try:
        say(f"Making commit {git('rev-parse', '--short', 'HEAD').strip()} again in {folder}")
        git("clone", "--quiet", ".", str(folder))
        (folder / LOCK).unlink()  # so that the new one names what was made, and no more
        repro(folder, [f"card@{row}", f"benchmark@{row}"] if row else [])
        findings = compared(committed, folder, row, exact=not reasons)
        differ = any(finding.verdict == verification.DIFFERENT for finding in findings)
        rows = [(f.what, f.verdict, f.committed, f.made) for f in findings]
        say("\n" + markdown_table(("output or figure", "result", "committed", "here"), rows))
        if reasons:
            say(f"\n{verification.HOW}")
        say(f"\n{verification.summary(findings)}")
        if differ:
            raise VerificationError("what was made differs from what is committed")
    except UserError as error:
        keep = True
        raise VerificationError(error) from error
    finally:
        if keep:
            say(f"The clone is kept in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def compared(committed: verification.Outputs, folder: Path, row: str | None, exact: bool) -> list[verification.Finding]:
    """The outputs of the committed dvc.lock, of a row those that the one in `folder` has too, beside what was made
    there."""
    made = outputs(strict_yaml.load((folder / LOCK).read_text(encoding="utf-8"))["stages"], folder)
    committed = {stage: outs for stage, outs in committed.items() if row is None or stage in made}
    readers = (lambda path: git("show", f"HEAD:{path}")), lambda path: (folder / path).read_text(encoding="utf-8")
    return verification.compare(committed, made, *readers, exact=exact)


def locked(row: str | None) -> verification.Outputs:
    """The outputs of the committed dvc.lock. Raises VerificationError where there is none, or none for the row."""
    if git("rev-parse", "--show-prefix").strip():
        raise VerificationError("run it in the project's root")
    if not git("ls-tree", "HEAD", LOCK):
        raise VerificationError(f"no {LOCK} is committed, so there is nothing to compare with; dvc repro makes one")
    stages = strict_yaml.load(git("show", f"HEAD:{LOCK}"))["stages"]
    current = described()
    if gone := [name for name in stages if name not in current]:
        say(f"Not compared, since dvc.yaml no longer has these stages of {LOCK}: {', '.join(gone)}")
    stages = {name: stage for name, stage in stages.items() if name in current}
    if row and f"test@{row}" not in stages:
        known = ", ".join(name.removeprefix("test@") for name in stages if name.startswith("test@"))
        raise VerificationError(f"{LOCK} has no row {row!r}; there are {known}")
    return outputs(stages)


def described() -> set[str]:
    """The stages of the committed dvc.yaml. DVC leaves those in its lock that were taken out of dvc.yaml."""
    stages = strict_yaml.load(git("show", "HEAD:dvc.yaml"))["stages"]
    rows = strict_yaml.load(git("show", f"HEAD:{paths.PARAMS}"))["zoo"]
    named = [[f"{name}@{row}" for row in rows] if "foreach" in stage else [name] for name, stage in stages.items()]
    return {name for names in named for name in names}


def outputs(stages: dict, folder: Path | None = None) -> verification.Outputs:
    """Of a dvc.lock: that in `folder`, or the committed one. The report's files each for itself, as git names them.

    Files that are in git have its name after DVC's: the committed file may not be that of the committed dvc.lock.
    """
    found = {name: {out["path"]: out["md5"] for out in stage.get("outs", [])} for name, stage in stages.items()}
    in_git = {line.split("\t")[1]: line.split()[2] for line in git("ls-tree", "-r", "HEAD", "metrics").splitlines()}
    for outs in found.values():
        for path in outs.keys() & in_git.keys():
            outs[path] += f", in git {_in_git(folder / path) if folder else in_git[path]}"
        if outs.pop(report := str(paths.REPORT), None):
            if folder:
                outs |= {f"{report}/{file.name}": _in_git(file) for file in (folder / report).iterdir()}
            else:
                outs |= {path: name for path, name in in_git.items() if path.startswith(f"{report}/")}
    return found


def _in_git(file: Path) -> str:
    return git("hash-object", str(file)).strip()


def another_machine(row: str | None) -> list[str]:
    """Why the bytes cannot be those that the committed records describe, of the row or of all rows."""
    params = strict_yaml.load(git("show", f"HEAD:{paths.PARAMS}"))
    reasons: dict[str, None] = {}  # in order, once each
    for config in resolve(params, _weights()).rows:
        for stage in ("train", "test") if row in (None, config.row) else ():
            if git("ls-tree", "HEAD", name := paths.made_by(config.row, stage).as_posix()):
                reasons |= dict.fromkeys(differences(json.loads(git("show", f"HEAD:{name}")), config.runtime))
            else:
                say(f"{name} is not committed: expecting the same bytes")
    return list(reasons)


def _weights() -> dict[str, str]:
    rows = json.loads(git("show", f"HEAD:{paths.PUBLISHED}"))["rows"]
    return {name: row["ckpt"] for name, row in rows.items()}


def repro(folder: Path, targets: list[str]) -> None:
    """Runs the pipeline with a cache of its own; what it says goes through."""
    (folder / ".dvc" / "config.local").write_text("[cache]\n    dir = cache\n", encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")} | {
        "PYTHONPATH": str(folder / "src"),  # not the package that is installed
    }
    code = dvc_command.run(["repro", "--force", *targets], folder, environment)
    if code:
        raise VerificationError(f"dvc repro failed ({code}, see above)")


def say(text: str) -> None:
    print(text, flush=True)
