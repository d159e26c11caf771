"""`make verify`: the same again passes, anything else does not."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from r2plus1d.results import summary, verification
from r2plus1d.results import verify as verifying
from r2plus1d.system import paths
from r2plus1d.system.git import GitError
from tests.support.commands import copy_of, git, r2plus1d
from tests.support.project import Project

ROW = "custom"
NEW = {"input": "frames", "short_side": 256, "frames": 4, "frame_interval": 8}  # another row
TEST = str(paths.metrics(ROW, "test.json"))
BENCHMARK = str(paths.metrics(ROW, "benchmark.json"))
MADE = [str(paths.metrics(ROW, f"{name}.csv")) for name in ("curve", "predictions", "per_class")]
MADE += ["dvc.lock", str(paths.COVERAGE), TEST, BENCHMARK, str(paths.metrics(ROW, "mistakes.json"))]


@pytest.fixture(scope="module")
def verified(committed, tmp_path_factory) -> tuple[subprocess.CompletedProcess, Path]:
    """What `verify` says of the committed project, and the clone that it kept."""
    project, kept = copy_of(committed, tmp_path_factory.mktemp("verify") / "project"), tmp_path_factory.mktemp("kept")
    (project.folder / "my_videos" / "README.md").write_text("changed")  # no part of it
    (project.folder / "params.yaml").open("a").write("# a remark that is not committed\n")
    done = r2plus1d(project, "verify", ROW, KEEP="1", TMPDIR=str(kept))
    return done, next(kept.glob("r2plus1d-verify-*"))


@pytest.fixture
def verify(own, committed, tmp_path, monkeypatch):
    """The module, in a copy of the project that a test may spoil. Instead of making everything again, it takes what is
    committed."""
    (tmp_path / "temporary").mkdir()

    def repro(folder, _):
        for name in MADE:
            shutil.copy(committed.folder / name, folder / name)

    monkeypatch.setattr(verifying, "repro", repro)
    monkeypatch.setattr(verifying.tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(own.folder)
    return verifying


def commit(file: str, old: str, new: str) -> None:
    text = Path(file).read_text()
    assert old in text
    Path(file).write_text(text.replace(old, new))
    git(Project.at(Path()), "commit", "--quiet", "--all", "--message", "spoiled")


def clones(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "temporary").glob("r2plus1d-verify-*"))


@pytest.mark.slow
def test_same_again_is_identical(verified):
    done, clone = verified
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Not verified: 1 uncommitted changes (params.yaml)" in done.stdout
    assert "Running stage 'download'" in done.stdout
    assert f"| models/{ROW}/model.safetensors | identical |" in done.stdout
    assert f"| models/{ROW}/README.md | identical |" in done.stdout
    assert f"| {TEST} static.top1 | identical |" in done.stdout
    assert f"| {BENCHMARK} videos_per_second | not comparable |" in done.stdout
    assert f"| {BENCHMARK} macs | identical |" in done.stdout
    assert "DIFFERENT" not in done.stdout
    assert f"The clone is kept in {clone}" in done.stdout
    assert list((clone / ".dvc" / "cache").rglob("*")), "the outputs did not come from a cache of its own"


@pytest.mark.slow
def test_record_of_the_same_work_stays_as_it_was(verified):
    """On another day, from another commit."""
    changed = git(Project.at(verified[1]), "status", "--porcelain").splitlines()
    timed = {BENCHMARK, str(paths.metrics(ROW, "benchmark_machine.json")), str(paths.made_by(ROW, "benchmark"))}
    assert {line.split()[-1] for line in changed} <= {"dvc.lock", *timed}


def test_clone_that_nobody_asked_for_is_removed(verify, tmp_path):
    verify.verify(ROW)
    assert clones(tmp_path) == []


def test_other_output_than_the_committed_one_is_found(verify, tmp_path, capsys):
    outs = yaml.safe_load(Path("dvc.lock").read_text())["stages"][f"train@{ROW}"]["outs"]
    (real,) = (out["md5"] for out in outs if out["path"] == f"models/{ROW}/model.safetensors")
    spoiled = f"0123456789abcdef0123456789abcdef{real[32:]}"
    commit("dvc.lock", real, spoiled)
    with pytest.raises(verify.VerificationError, match="differs from what is committed"):
        verify.verify(ROW)
    said = capsys.readouterr().out
    assert f"| models/{ROW}/model.safetensors | DIFFERENT | {spoiled} | {real} |" in said
    assert "1 DIFFERENT" in said
    assert len(clones(tmp_path)) == 1


def test_other_figure_than_the_committed_one_is_found(verify, capsys):
    real = json.loads(Path(TEST).read_text())["top5"]
    commit(TEST, f'"top5": {real}', '"top5": 12.34')
    with pytest.raises(verify.VerificationError):
        verify.verify(ROW)
    assert f"| {TEST} top5 | DIFFERENT | 12.34 | {real} |" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["curve.csv", "predictions.csv"])
def test_committed_file_other_than_that_of_dvc_lock_is_found(name, verify, capsys):
    file = str(paths.metrics(ROW, name))
    commit(file, ",", ",9")
    with pytest.raises(verify.VerificationError):
        verify.verify(ROW)
    assert f"| {file} | DIFFERENT |" in capsys.readouterr().out


def test_machine_with_another_torch_is_judged_by_a_tolerance(verify, capsys):
    real = json.loads(Path(TEST).read_text())["top5"]
    near = real + 8.33
    commit(TEST, f'"top5": {real}', f'"top5": {near:.2f}')
    commit(str(paths.made_by(ROW, "train")), '"torch": "2', '"torch": "1')
    verify.verify(ROW)
    said = capsys.readouterr().out
    assert said.index("Not the same bytes here: torch ") < said.index("again in")
    assert f"| {TEST} top5 | within tolerance (± " in said
    assert "3 standard deviations of the difference" in said


def test_machine_of_every_row_counts_where_all_are_verified(verify):
    """Not that of `custom` alone, which need not be there."""
    assert verify.another_machine(None) == verify.another_machine(ROW) == []
    commit("params.yaml", "zoo:\n  custom: model\n", f"zoo:\n  mine: {json.dumps(NEW)}\n")
    record = paths.made_by("mine", "train")
    record.parent.mkdir()
    shutil.copy(paths.made_by(ROW, "train"), record)
    git(Project.at(Path()), "add", str(record))
    commit(str(record), '"torch": "2', '"torch": "1')
    (reason,) = verify.another_machine(None)
    assert reason.startswith("torch ")


@pytest.mark.parametrize(
    ("row", "spoil", "error", "words"),
    [
        ("no_such_row", "true", verifying.VerificationError, "dvc.lock has no row 'no_such_row'; there are custom"),
        (ROW, "git rm -q --cached dvc.lock && git commit -qm none", verifying.VerificationError, "no dvc.lock is comm"),
        (ROW, "rm -rf .git", GitError, "this needs a git clone"),
    ],
)
def test_nothing_to_compare_with_is_said(verify, monkeypatch, tmp_path, row, spoil, error, words):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "Tester")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "tester@localhost")
    subprocess.run(spoil, shell=True, check=True)
    with pytest.raises(error, match=words):
        verify.verify(row)
    assert clones(tmp_path) == []


def test_pipeline_that_fails_is_reported_as_failed(own, tmp_path):
    (own.folder / "stages" / "resolve.py").write_text("raise SystemExit('error: of the stage')")
    git(own, "commit", "--quiet", "--all", "--message", "spoiled")
    (tmp_path / "temporary").mkdir()
    failed = r2plus1d(own, "verify", ROW, TMPDIR=str(tmp_path / "temporary"))
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


def test_accuracy_of_another_number_of_videos_is_never_within_the_tolerance():
    old, new = {"top1": 50.0, "videos": 144}, {"top1": 50.5, "videos": 143}
    found = verification.compare_figures(TEST, old, new, exact=False)
    assert [finding.verdict for finding in found] == [verification.DIFFERENT] * 2


def test_exact_outputs_stay_exact_where_arithmetic_may_differ():
    assert verification.compare_output("resolve", "configs", "a", "b", exact=False).verdict == verification.DIFFERENT
    assert verification.compare_output("train@x", "m", "a", "b", exact=False).verdict == verification.NOT_COMPARED
    assert verification.compare_output("train@x", "m", "a", None, exact=False).verdict == verification.DIFFERENT
    counts = verification.compare_figures("metrics/rows/x/benchmark.json", {"macs": 1}, {"macs": 2}, exact=False)
    assert [f.verdict for f in counts] == [verification.DIFFERENT]


def test_figures_of_files_with_timings_are_compared_one_by_one():
    """The summary of all rows; the benchmark's counts."""
    names = dict.fromkeys(summary.FIGURES, 50.0)
    old = {"dataset": "motion", "videos": 144, "custom": names}
    new = old | {"custom": names | {"static": 60.0, "top1": 90.0, "video_s": 9.0, "mib": 9}}
    for exact, static in ((True, verification.DIFFERENT), (False, verification.WITHIN)):
        found = {f.what.split()[1]: f for f in verification.compare_figures("metrics/summary.json", old, new, exact)}
        assert found["custom.static"].verdict.startswith(static)
        assert found["custom.top1"].verdict == verification.DIFFERENT
        assert found["custom.video_s"].verdict == found["custom.mib"].verdict == verification.NOT_COMPARED
        assert found["custom.top5"].verdict == found["dataset"].verdict == verification.SAME


@pytest.mark.parametrize("path", ["metrics/summary.json", "metrics/rows/x/benchmark.json"])
def test_file_that_one_side_lacks_is_found(path):
    sides = {"stage": {path: "a"}}, {"stage": {}}
    for committed, made in (sides, sides[::-1]):
        (finding,) = verification.compare(committed, made, str, str, exact=False)
        assert (finding.what, finding.verdict) == (path, verification.DIFFERENT)


@pytest.mark.parametrize(
    ("made", "verdict"),
    [("- code: commit b", "identical but for the commit"), ("top-1 50", verification.DIFFERENT)],
)
def test_card_may_name_another_commit_that_made_the_same(made, verdict):
    """Code that was changed without a change of the weights leaves the card as it is."""
    path = "models/x/README.md"
    texts = {"old": "top-1 60\n- code: commit a\n", "new": f"top-1 60\n{made}\n"}
    sides = ({"card@x": {path: "1"}}, {"card@x": {path: "2"}})
    (found,) = verification.compare(*sides, lambda _: texts["old"], lambda _: texts["new"], exact=True)
    assert found.verdict == verdict


def test_stage_that_was_taken_out_of_the_pipeline_is_named_and_not_compared(verify, capsys):
    lock = yaml.safe_load(Path("dvc.lock").read_text())
    for name in ("sources", "train@gone"):
        lock["stages"][name] = {"cmd": "true", "outs": [{"path": name, "hash": "md5", "md5": "0" * 32, "size": 0}]}
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    git(Project.at(Path()), "commit", "--quiet", "--all", "--message", "left over")
    assert set(verify.locked(None)) == verify.described()
    assert "no longer has these stages of dvc.lock: sources, train@gone" in capsys.readouterr().out
