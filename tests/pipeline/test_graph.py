"""The DVC graph against the code and the parameters."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from r2plus1d.config import schema
from r2plus1d.system import paths
from tests.support import commands
from tests.support.project import ROOT, Project, tiny_params

STAGES = ("resolve", "download", "extract_frames", "build_lists", "train", "test", "benchmark", "report")


@pytest.fixture(scope="module")
def stages() -> dict:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


@pytest.fixture
def listed(tmp_path):
    """Calls the stage `sources` in a copy of the project and gives the lists of code, by stage."""
    project = Project(tmp_path / "project", tiny_params())

    def lists(**changes: str) -> dict[str, str]:
        for name, text in changes.items():
            with open(project.folder / f"src/r2plus1d/{name}.py", "a") as module:
                module.write(text)
        project.must("sources")
        return {name: (project.folder / paths.sources(name)).read_text() for name in STAGES}

    return lists


def test_stage_depends_on_the_list_of_its_code(stages):
    for name in STAGES:
        assert str(paths.sources(name)) in stages[name].get("do", stages[name])["deps"]


def test_stage_depends_on_the_code_it_reaches(listed):
    lists = listed()
    for name in STAGES:
        script = f"stages/{name}.py"
        print_files = f"""
import runpy, sys
runpy.run_path({script!r})
print(*(m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "r2plus1d"), sep="\\n")
"""
        command = [sys.executable, "-c", print_files]
        loaded = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
        code = {str(Path(file).relative_to(ROOT)) for file in loaded} | {script}
        assert code <= {line.split("  ")[1] for line in lists[name].splitlines()}


def test_change_of_one_module_runs_the_stages_that_reach_it_again(listed):
    before = listed()
    after = listed(**{"zoo/evaluation": "\nfrom r2plus1d.datasets import kinetics\n", "datasets/archives": "\n"})
    changed = {name for name in STAGES if before[name] != after[name]}
    assert changed == {"download", "extract_frames", "build_lists", "test", "benchmark"}
    assert "src/r2plus1d/datasets/kinetics.py" in after["test"]


def test_every_row_of_the_parameters_is_in_the_pipeline(stages, params):
    rows = [*params["zoo"], schema.CUSTOM]
    for name in ("train", "test", "benchmark"):
        assert list(stages[name]["foreach"]) == rows
    for row in rows:
        for file in ("curve.csv", "test.json", "confusion.csv", "benchmark.json", "benchmark_machine.json"):
            assert str(paths.metrics(row, file)) in stages["report"]["deps"]


def test_number_of_workers_or_machines_leaves_stages_finished(stages):
    tracked = stages["resolve"]["params"]
    assert not any(word in key for key in tracked for word in ("workers", "connections", "scheduler"))
    assert "datasets" not in tracked
    assert "datasets.${dataset}.runtime" not in tracked


def test_every_parameter_of_the_dataset_is_tracked(stages, params):
    tracked = set(stages["resolve"]["params"])
    for dataset in params["datasets"].values():
        for key in dataset:
            keys = {f"datasets.${{dataset}}.{key}"}
            if key == "runtime":
                names = dataset[key].keys() - {"workers", "connections", "scheduler"}
                keys = {f"datasets.${{dataset}}.runtime.{name}" for name in names}
            assert keys <= tracked
    assert set(params) - {"datasets"} <= tracked


def test_published_rows_are_those_of_the_zoo(params):
    published = json.loads((ROOT / paths.PUBLISHED).read_text())["rows"]
    assert list(published) == list(params["zoo"])
    assert [row["top1"] for row in published.values()] == [67.30, 67.3, 68.68, 74.60]


def test_tag_with_the_published_figures_repeats_and_leaves_the_clone_as_it_is(tmp_path):
    project = Project(tmp_path / "project", tiny_params())
    git = functools.partial(commands.git, project)
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "all")
    before = git("rev-parse", "HEAD")
    commits = set()
    for timezone in ("UTC", "Asia/Tokyo"):
        project.must("published", TZ=timezone, GIT_AUTHOR_NAME="Somebody Else", PYTHONDONTWRITEBYTECODE="1")
        commits.add(git("rev-parse", "published"))
    assert len(commits) == 1
    assert (git("rev-parse", "HEAD"), git("status", "--porcelain")) == (before, "")
    row = "metrics/r2plus1d_r34_32x2x1_180e_kinetics400_rgb"
    assert json.loads(git("show", f"published:{row}/test.json")) == {"top1": 74.6, "top5": 91.59}
    assert json.loads(git("show", f"published:{row}/benchmark.json")) == {"videos_per_second": 0.5, "memory_mib": 12975}


def test_missing_git_clone_is_told_in_one_line(tmp_path):
    project = Project(tmp_path / "project", tiny_params())
    failed = project.run("published", GIT_CEILING_DIRECTORIES=str(tmp_path))
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: git rev-parse failed; DVC needs a git clone")
