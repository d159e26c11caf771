"""A small project in a folder of its own, and what is in a folder."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from r2plus1d.config import files
from r2plus1d.config.schema import CUSTOM
from r2plus1d.system.files import sha256
from tests.support import warm

ROOT = Path(__file__).parents[2]
VIDEO_ROW = "r2plus1d_r34_video_8x8x1_180e_kinetics400_rgb"
PREPARING = (
    ("resolve",),
    ("scan",),
    ("download",),
    ("probe",),
    ("extract_frames", CUSTOM),
    ("extract_frames", VIDEO_ROW),
    ("build_lists",),
)
OFFLINE = ROOT / "tests" / "support" / "offline"  # on the PYTHONPATH, it ends what uses the network


def tiny_params() -> dict:
    """The project's parameters, shrunk until the whole pipeline takes seconds."""
    params = files.read_params(ROOT / "params.yaml")
    motion_set = params["datasets"]["motion"]
    motion_set["source"] |= {"train_videos": 1, "val_videos": 1, "test_videos": 1, "short_side": 256}
    motion_set["scale"] |= {"resolution": 0.125, "width": 0.0625, "depth": 10}
    motion_set["train"] |= {"epochs": 2, "videos_per_gpu": 4, "lr": 0.1, "log_interval": 2, "dropout": 0.5}
    motion_set["benchmark"] |= {"warmup_videos": 1, "videos": 2}
    motion_set["runtime"] |= {"threads": 1}  # two tests run beside each other on two cores
    params["machine"] |= {"workers": 0}
    return params


def smaller_params() -> dict:
    """Smaller still: a row trains in a second beside the start of Python, for four epochs."""
    params = tiny_params()
    motion_set = params["datasets"]["motion"]
    motion_set["train"] |= {"epochs": 4, "val_interval": 2}
    params["model"]["frames"] = 8
    params["recipe"]["test"] |= {"clips": 1, "crops": 1}
    return params


def tiniest_params() -> dict:
    """The row `custom` alone, trained for three updates, and every figure from a single clip."""
    params = tiny_params()
    motion_set = params["datasets"]["motion"]
    motion_set["scale"] |= {"resolution": 0.0625}
    motion_set["train"] |= {"epochs": 1}
    motion_set["benchmark"] |= {"warmup_videos": 0, "videos": 1}
    params["recipe"]["test"] |= {"clips": 1, "crops": 1}
    params["recipe"]["benchmark"] |= {"train_steps": 1, "clips": 1, "crops": 1}
    params["model"] |= {"frames": 4, "frame_interval": 2}
    params["zoo"] = {CUSTOM: params["zoo"][CUSTOM]}
    return params


class Project:
    """A copy of the project in a folder of its own; `run` calls a stage there."""

    def __init__(self, folder: Path, params: dict):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        # The committed records are of results that are not here.
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "made_by_*.json")
        for name in ("stages", "src", "dvc.yaml", "constraints.txt", "README.md", "docs", "metrics", "my_videos"):
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=ignored)
            else:
                shutil.copy(source, folder / name)
        self.set(params)

    @classmethod
    def at(cls, folder: Path) -> "Project":
        """One that is there already."""
        project = cls.__new__(cls)
        project.folder = folder
        return project

    def prepare(self) -> None:
        """Runs the stages that come before training, for `custom` and for a row that reads videos."""
        for stage in PREPARING:
            self.must(*stage)

    def clear(self, stage: str, row: str) -> None:
        """Removes the stage's outputs, as DVC does before it runs it."""
        stages = yaml.safe_load((self.folder / "dvc.yaml").read_text())["stages"]
        described = stages[stage].get("do", stages[stage])
        for entry in [*described["outs"], *described.get("metrics", []), *described.get("plots", [])]:
            name = entry if isinstance(entry, str) else next(iter(entry))
            path = self.folder / name.replace("${dataset}", "motion").replace("${key}", row)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def results(self) -> dict[str, str]:
        """The SHA-256 of every file below the folders of results, by its path: what was not meant to stay there too."""
        folders = [self.folder / name for name in ("configs", "data", "metrics", "models", "results")]
        files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): sha256(path) for path in sorted(files)}

    def whole(self) -> dict[str, str]:
        """`results` without the files that are plainly unfinished by their name."""
        return {name: digest for name, digest in self.results().items() if not name.endswith(".part")}

    def set(self, params: dict) -> None:
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    def run(self, stage: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        """Without network; OFFLINE="but-this-machine" leaves it servers on this machine."""
        environment = {**os.environ, "PYTHONPATH": f"{self.folder / 'src'}:{OFFLINE}", **environment}
        return warm.run([f"stages/{stage}.py", *arguments], self.folder, environment, timeout=240)

    def start(self, *command: str, **environment: str) -> subprocess.Popen:
        """A stage or another command of Python, in a session of its own, as a terminal starts it."""
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.folder / "src"), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def must(self, stage: str, *arguments: str, **environment: str) -> str:
        done = self.run(stage, *arguments, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout


def content(folder) -> dict:
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
