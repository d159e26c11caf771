"""DVC and git in the folder of a project."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

from tests.support import warm
from tests.support.project import ROOT, Project


def dvc(project, *arguments: str, **environment: str) -> str:
    environment |= {"PATH": f"{warm.python().parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment |= {"DVC_NO_ANALYTICS": "1", "PYTHONPATH": str(project.folder / "src")}
    done = warm.run(["-m", "dvc", *arguments], project.folder, os.environ | environment, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def git(project, *arguments: str) -> str:
    identity = ["-c", "user.name=Tester", "-c", "user.email=tester@localhost"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=project.folder, check=True, capture_output=True, text=True).stdout.strip()


def r2plus1d(project, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """A command of the package, run from the project's own code."""
    environment = {**os.environ, "PYTHONPATH": str(project.folder / "src"), **environment}
    return warm.run(["-m", "r2plus1d", *arguments], project.folder, environment, timeout=240)


def console(*words: str | Path | float, cwd: Path, env: Mapping[str, str] = os.environ) -> subprocess.CompletedProcess:
    """The console command `r2plus1d` of the environment, in any folder."""
    return warm.run(["-m", "r2plus1d", *map(str, words)], cwd, env, timeout=120)


def printed(code: str) -> str:
    """What a fresh Python prints that runs the code."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def commit_all(project, message: str = "all") -> None:
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", message)


def make_with_dvc(project: Project) -> None:
    """The project as a git clone whose outputs DVC holds as if `dvc repro` had made them; code and outputs are a commit
    each."""
    (project.folder / ".dvc").mkdir()
    for name in (".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore"):
        shutil.copy(ROOT / name, project.folder / name)
    shutil.rmtree(project.folder / "metrics" / "rows")  # of other parameters
    git(project, "init", "--quiet")
    commit_all(project, "code")
    stages = yaml.safe_load((project.folder / "dvc.yaml").read_text())["stages"]
    rows = yaml.safe_load((project.folder / "params.yaml").read_text())["zoo"]
    for stage, described in stages.items():
        for row in rows if "foreach" in described else [None]:
            project.must(stage, *([] if row is None else [row]))
    dvc(project, "commit", "--force")
    commit_all(project, "outputs")


def copy_of(project: Project, folder: Path) -> Project:
    shutil.copytree(project.folder, folder, symlinks=True)
    return Project.at(folder)


def clone_of(project: Project, folder: Path) -> Project:
    git(project, "clone", "--quiet", ".", str(folder))
    return Project.at(folder)


def ran(said: str) -> list[str]:
    """The stages that `dvc repro` ran."""
    return re.findall("Running stage '(.*)'", said)
