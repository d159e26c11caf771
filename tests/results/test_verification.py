"""`make verify`: the same again passes, anything else does not. One pipeline is run for all of it."""

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from r2plus1d.results import provenance, verification
from r2plus1d.system import paths
from tests.support.commands import dvc, git
from tests.support.project import ROOT, Project, tiny_params

ROW = "custom"
TEST = str(paths.metrics(ROW, "test.json"))


def tiniest() -> dict:
    params = tiny_params()
    motion = params["datasets"]["motion"]
    motion["scale"] |= {"resolution": 0.0625}
    motion["train"] |= {"epochs": 1}
    motion["runtime"] |= {"workers": 0}
    params["model"] |= {"frames": 8, "frame_interval": 2, "depth": 10}
    params["test"] |= {"clips": 1, "crops": 1}
    return params


@pytest.fixture(scope="module")
def committed(tmp_path_factory) -> Project:
    """One row made by its stages and committed."""
    project = Project(tmp_path_factory.mktemp("verify") / "project", tiniest())
    for name in (".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, project.folder / name)
    git(project, "init", "--quiet")
    dvc(project, "init", "--quiet")
    for stage in ("sources", "resolve", "download", "extract_frames", "build_lists"):
        project.must(stage)
    for stage in ("train", "test", "benchmark"):
        project.must(stage, ROW)
    stages = (
        "sources",
        "resolve",
        "download",
        "extract_frames",
        "build_lists",
        *(f"{s}@{ROW}" for s in provenance.STAGES),
    )
    dvc(project, "commit", "--quiet", "--force", *stages)
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "all")
    return project


@pytest.fixture(scope="module")
def verified(committed, tmp_path_factory) -> tuple[subprocess.CompletedProcess, Path]:
    """What `verify` says of it, and the clone that it kept."""
    kept = tmp_path_factory.mktemp("kept")
    (committed.folder / "my_videos" / "README.md").write_text("changed")  # no part of it
    (committed.folder / "params.yaml").open("a").write("# a remark that is not committed\n")
    done = committed.run("verify", ROW, KEEP="1", TMPDIR=str(kept), PYTHONDONTWRITEBYTECODE="1")
    git(committed, "checkout", "--quiet", ".")
    return done, next(kept.glob("r2plus1d-verify-*"))


@pytest.fixture
def verify(committed, verified, tmp_path, monkeypatch):
    """The script as a module, in a copy of the project that a test may spoil. Instead of making everything again, it
    takes what was made."""
    spec = importlib.util.spec_from_file_location("verify", ROOT / "stages" / "verify.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shutil.copytree(committed.folder, tmp_path / "project", symlinks=True)
    (tmp_path / "temporary").mkdir()

    def repro(folder, _):
        for name in ("dvc.lock", "metrics/coverage.json", *(f"metrics/{ROW}/{f}.json" for f in ("test", "benchmark"))):
            shutil.copy(verified[1] / name, folder / name)
        for name in ("curve", "confusion"):
            shutil.copy(verified[1] / f"metrics/{ROW}/{name}.csv", folder / f"metrics/{ROW}/{name}.csv")

    monkeypatch.setattr(module, "repro", repro)
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "project")
    return module


def commit(file: str, old: str, new: str) -> None:
    text = Path(file).read_text()
    assert old in text
    Path(file).write_text(text.replace(old, new))
    project = Project.__new__(Project)
    project.folder = Path()
    git(project, "commit", "--quiet", "--all", "--message", "spoiled")


def clones(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "temporary").glob("r2plus1d-verify-*"))


def test_same_again_is_identical(verified):
    done, clone = verified
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Not verified: 1 uncommitted changes (params.yaml)" in done.stdout
    assert "Running stage 'download'" in done.stdout
    assert f"| models/{ROW} | identical |" in done.stdout
    assert f"| {TEST} static.top1 | identical |" in done.stdout
    assert f"| metrics/{ROW}/benchmark.json videos_per_second | not comparable |" in done.stdout
    assert f"| metrics/{ROW}/benchmark.json macs | identical |" in done.stdout
    assert "DIFFERENT" not in done.stdout
    assert f"The clone is kept in {clone}" in done.stdout
    assert list((clone / ".dvc" / "cache").rglob("*")), "the outputs did not come from a cache of its own"


def test_clone_that_nobody_asked_for_is_removed(verify, tmp_path):
    verify.main(ROW)
    assert clones(tmp_path) == []


def test_other_output_than_the_committed_one_is_found(verify, tmp_path, capsys):
    outs = yaml.safe_load(Path("dvc.lock").read_text())["stages"][f"train@{ROW}"]["outs"]
    (real,) = (out["md5"] for out in outs if out["path"] == f"models/{ROW}")
    spoiled = f"0123456789abcdef0123456789abcdef{real[32:]}"
    commit("dvc.lock", real, spoiled)
    with pytest.raises(verify.VerificationError, match="differs from what is committed"):
        verify.main(ROW)
    said = capsys.readouterr().out
    assert f"| models/{ROW} | DIFFERENT | {spoiled} | {real} |" in said
    assert "1 DIFFERENT" in said
    assert len(clones(tmp_path)) == 1


def test_other_figure_than_the_committed_one_is_found(verify, capsys):
    real = json.loads(Path(TEST).read_text())["top5"]
    commit(TEST, f'"top5": {real}', '"top5": 12.34')
    with pytest.raises(verify.VerificationError):
        verify.main(ROW)
    assert f"| {TEST} top5 | DIFFERENT | 12.34 | {real} |" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["curve.csv", "confusion.csv"])
def test_committed_file_other_than_that_of_dvc_lock_is_found(name, verify, capsys):
    file = str(paths.metrics(ROW, name))
    commit(file, ",", ",9")
    with pytest.raises(verify.VerificationError):
        verify.main(ROW)
    assert f"| {file} | DIFFERENT |" in capsys.readouterr().out


def test_machine_with_another_torch_is_judged_by_a_tolerance(verify, capsys):
    real = json.loads(Path(TEST).read_text())["top5"]
    near = real + 8.33
    commit(TEST, f'"top5": {real}', f'"top5": {near:.2f}')
    commit(f"metrics/{ROW}/made_by_train.json", '"torch": "2', '"torch": "1')
    verify.main(ROW)
    said = capsys.readouterr().out
    assert said.index("Not the same bytes here: torch ") < said.index("anew in")
    assert f"| {TEST} top5 | within tolerance (± " in said
    assert "3 standard deviations of the difference" in said


@pytest.mark.parametrize(
    ("row", "spoil", "words"),
    [
        ("no_such_row", "true", "dvc.lock has no row 'no_such_row'; there are custom"),
        (ROW, "git rm -q --cached dvc.lock && git commit -qm none", "no dvc.lock is committed"),
        (ROW, "rm -rf .git", "needs a git clone"),
    ],
)
def test_nothing_to_compare_with_is_said(verify, monkeypatch, tmp_path, row, spoil, words):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "Tester")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "tester@localhost")
    subprocess.run(spoil, shell=True, check=True)
    with pytest.raises(verify.VerificationError, match=words):
        verify.main(row)
    assert clones(tmp_path) == []


def test_pipeline_that_fails_is_reported_as_failed(committed, tmp_path):
    shutil.copytree(committed.folder, tmp_path / "project", symlinks=True)
    project = Project.__new__(Project)
    project.folder = tmp_path / "project"
    (project.folder / "stages" / "resolve.py").write_text("raise SystemExit('error: of the stage')")
    git(project, "commit", "--quiet", "--all", "--message", "spoiled")
    (tmp_path / "temporary").mkdir()
    failed = project.run("verify", ROW, TMPDIR=str(tmp_path / "temporary"))
    assert failed.returncode == 1
    assert "error: of the stage" in failed.stderr
    assert "dvc repro failed" in failed.stderr.splitlines()[-1]
    assert len(clones(tmp_path)) == 1


@pytest.mark.parametrize(
    ("first", "second", "videos", "within"),
    [(50, 67, 144, True), (50, 67.3, 144, False), (100, 95, 144, True), (100, 94, 144, False), (100, 100, 9, True)],
)
def test_tolerance_is_three_standard_deviations_of_the_difference(first, second, videos, within):
    assert (abs(first - second) <= verification.tolerance(first, second, videos)) == within


def test_exact_outputs_stay_exact_where_arithmetic_may_differ():
    assert verification.compare_output("resolve", "configs", "a", "b", exact=False).verdict == verification.DIFFERENT
    assert verification.compare_output("train@x", "m", "a", "b", exact=False).verdict == verification.NOT_COMPARED
    assert verification.compare_output("train@x", "m", "a", None, exact=False).verdict == verification.DIFFERENT
    counts = verification.compare_figures("metrics/x/benchmark.json", {"macs": 1}, {"macs": 2}, exact=False)
    assert [f.verdict for f in counts] == [verification.DIFFERENT]
