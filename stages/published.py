"""Makes the local git tag `published`: a commit whose metric files hold the published figures, for `dvc metrics diff`.

Not a stage: it writes no file of the project. The commit has no parent and fixed dates, so its name is the same in
every clone.
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path

from r2plus1d.system import paths
from r2plus1d.system.errors import UserError
from r2plus1d.system.stage import run

IDENTITY = {"NAME": "R(2+1)D model zoo", "EMAIL": "published@localhost", "DATE": "2020-12-01T00:00:00+0000"}


def main() -> None:
    rows = json.loads(paths.PUBLISHED.read_text(encoding="utf-8"))["rows"]
    files = {}
    for name, row in rows.items():
        for file, keys in (("test.json", ("top1", "top5")), ("benchmark.json", ("videos_per_second", "memory_mib"))):
            figures = {key: row[key] for key in keys if row[key] is not None}
            files[str(paths.metrics(name, file))] = json.dumps(figures, indent=2) + "\n"
    files["dvc.yaml"] = "metrics:\n" + "".join(f"  - {path}\n" for path in sorted(files))
    with tempfile.TemporaryDirectory() as folder:
        for path, text in files.items():
            Path(folder, path).parent.mkdir(parents=True, exist_ok=True)
            Path(folder, path).write_text(text, encoding="utf-8")
        environment = {f"GIT_{who}_{key}": value for who in ("AUTHOR", "COMMITTER") for key, value in IDENTITY.items()}
        environment |= {"GIT_DIR": git("rev-parse", "--absolute-git-dir"), "GIT_WORK_TREE": folder}
        environment |= {"GIT_INDEX_FILE": str(Path(folder, "index"))}
        git("add", "--all", "--force", "--", *sorted(files), cwd=folder, **environment)
        tree = git("write-tree", **environment)
        commit = git("commit-tree", tree, "-m", "The published figures, for comparison", **environment)
    git("tag", "--force", "published", commit)


def git(*arguments: str, cwd: str | None = None, **environment: str) -> str:
    done = subprocess.run(
        ["git", *arguments], check=False, capture_output=True, text=True, cwd=cwd, env=os.environ | environment
    )
    if done.returncode:
        raise UserError(f"git {arguments[0]} failed; DVC needs a git clone: {done.stderr.strip()}")
    return done.stdout.strip()


if __name__ == "__main__":
    run(main)
