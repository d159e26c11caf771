"""Where results come from: the arithmetic fixed on every way in, and the record of what made a row."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import distributed as dask
import pytest
import torch

from r2plus1d.clips import loader
from r2plus1d.config.resolve import Runtime
from r2plus1d.model import checkpoint
from r2plus1d.model.network import build
from r2plus1d.results import provenance
from r2plus1d.system import arithmetic, device, paths, pool
from r2plus1d.system.files import sha256
from r2plus1d.zoo.rows import open_row
from tests.conftest import ROOT, Project
from tests.test_remote import git

ROW = "custom"
CPU = Runtime(device="cpu", gpus=1, threads=2, lowered=True)
PINS = tuple(arithmetic.PINNED)
ON_AVX2 = pytest.mark.skipif(not arithmetic.has_avx2(), reason="this machine's processor has no AVX2")


def seen(*_) -> tuple:
    """The settings, and torch's kernels, where it is called."""
    return {key: os.environ.get(key) for key in PINS}, torch.backends.cpu.get_cpu_capability()


class Seen(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return seen()


EXPECTED = (arithmetic.PINNED, "AVX2")


@ON_AVX2
def test_tests_compute_with_the_processors_own_kernels():
    assert seen() == EXPECTED


@ON_AVX2
def test_reader_processes_compute_with_the_processors_own_kernels():
    (batch,) = loader.loader(Seen(), torch.device("cpu"), 1, batch_size=2, collate_fn=list)
    assert batch == [EXPECTED] * 2


@ON_AVX2
def test_pool_processes_compute_with_the_processors_own_kernels():
    assert list(pool.spread(seen, range(2), 2)) == [EXPECTED] * 2


@ON_AVX2
def test_cluster_workers_compute_with_the_processors_own_kernels(monkeypatch):
    for key in PINS:  # a worker that was not started from here
        monkeypatch.delenv(key)
    options = {"host": "127.0.0.1", "dashboard_address": None, "silence_logs": "ERROR"}
    with dask.LocalCluster(n_workers=1, threads_per_worker=1, **options) as cluster:
        assert list(pool.spread(seen, range(2), 1, cluster.scheduler_address)) == [EXPECTED] * 2


def first_imports(file: Path) -> list[str]:
    """Top-level packages in the order in which a script imports them when it is started."""
    found = []
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found += [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module.split(".")[0])
    return found


SCRIPTS = [*sorted((ROOT / "stages").glob("*.py")), ROOT / "tests/conftest.py", ROOT / "benchmarks/trust/same_bytes.py"]


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_script_loads_torch_before_the_settings_are_made(file):
    found = first_imports(file)
    assert "torch" not in found[: found.index("r2plus1d")]


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    unpinned = {key: value for key, value in os.environ.items() if key not in PINS}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=unpinned | {"PYTHONPATH": str(ROOT / "src")} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@ON_AVX2
@pytest.mark.parametrize("setting", ["OMP_DYNAMIC=true", "OMP_THREAD_LIMIT=1", "MKL_CBWR=AUTO"])
def test_stage_pins_its_arithmetic_though_torch_was_loaded_before(setting, tmp_path):
    key, value = setting.split("=")
    script = tmp_path / "stage.py"
    script.write_text(
        "import os, torch\nfrom r2plus1d.system import arithmetic, stage\n"
        "kept = lambda: {key: os.environ.get(key) for key in (*arithmetic.PINNED, arithmetic.THREAD_LIMIT)}\n"
        "stage.run(lambda: print(kept(), torch.backends.cpu.get_cpu_capability()))"
    )
    pinned = {**arithmetic.PINNED, arithmetic.THREAD_LIMIT: None}
    done = python(f"import os, sys; os.execv(sys.executable, [sys.executable, {str(script)!r}])", **{key: value})
    assert done.stdout.strip() == f"{pinned} AVX2", done.stderr


def test_import_of_the_package_leaves_the_process_as_it_was():
    code = (
        "import os, sys; before = dict(os.environ); import r2plus1d; r2plus1d.__version__\n"
        "print(os.environ == before, sorted({'torch', 'numpy', 'cv2', 'pandas', 'dvc'} & set(sys.modules)))"
    )
    assert python(code, OMP_THREAD_LIMIT="1", MKL_CBWR="AUTO").stdout == "True []\n"


def test_processor_without_avx2_gets_its_instructions(tmp_path):
    (tmp_path / "old").write_text("processor : 0\nflags\t\t: fpu sse4_2 avx\n")
    (tmp_path / "new").write_text("processor : 0\nflags\t\t: fpu avx avx2\n")
    (tmp_path / "arm").write_text("processor : 0\nFeatures : fp asimd\n")
    found = {name: arithmetic.has_avx2(str(tmp_path / name)) for name in ("old", "new", "arm", "missing")}
    assert found == {"old": False, "new": True, "arm": False, "missing": False}


def test_machine_with_other_kernels_is_not_told_so(monkeypatch, capsys):
    monkeypatch.setattr(device, "cpu_kernels", lambda: "DEFAULT")
    device._say_where_arithmetic_is_another.cache_clear()
    for _ in range(2):
        device.prepare(CPU)
    torch.use_deterministic_algorithms(False)
    said = capsys.readouterr().err
    assert said.startswith("note: torch computes with DEFAULT kernels on this ")
    assert len(said.splitlines()) == 1
    device._say_where_arithmetic_is_another.cache_clear()


@pytest.fixture
def recorded(project, monkeypatch) -> Project:
    """A clone with a model and its record, made without training."""
    monkeypatch.chdir(project.folder)
    git(project, "init", "--quiet")
    git(project, "add", "--all", "--", "src", "stages", "params.yaml", "dvc.yaml")
    git(project, "commit", "--quiet", "--message", "all")
    make_model(open_row(ROW))
    return project


@provenance.recorded("train")
def make_model(row) -> None:
    arguments = {"depth": 10, "conv": "r2plus1d", "width": 4, "num_classes": 3, "dropout": 0.0, "frames": 8}
    checkpoint.save(build(**arguments), paths.weights(row.config.row), arguments)


def read_record() -> dict:
    return json.loads(paths.made_by(ROW, "train").read_text())


def test_record_leaves_out_what_made_a_model(recorded):
    record = read_record()
    weights, lists = paths.weights(ROW), sorted(paths.lists("motion").iterdir())
    assert record["outputs"] == {str(weights): sha256(weights)}
    named = [paths.row_config(ROW), paths.manifest("motion"), paths.frames("motion") / "320p" / "index.csv", *lists]
    assert record["inputs"] == {str(path): sha256(path) for path in named}
    assert len(record["code"]["commit"]) == 40
    assert record["code"]["changed"] == []
    assert record["code"]["package"] == str(ROOT / "src" / "r2plus1d")  # not that of the project: this process's own
    assert record["environment"] == {key: os.environ[key] for key in PINS}
    assert record["libraries"]["torch"] == torch.__version__
    assert record["libraries"]["av"] == "18.1.0"
    assert (record["seed"], record["machine"]["processes"], record["machine"]["type"]) == (0, 1, "cpu")


def test_code_that_was_changed_counts_as_clean(recorded):
    (recorded.folder / "params.yaml").write_text("seed: 1\n")
    (recorded.folder / "src" / "new file.py").touch()
    (recorded.folder / "elsewhere.txt").touch()
    assert provenance.code()["changed"] == ["params.yaml", '"src/new file.py"']


def test_clone_around_the_project_passes_for_its_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert provenance.code() is None
    outer = Project.__new__(Project)
    outer.folder = tmp_path
    git(outer, "init", "--quiet")
    git(outer, "commit", "--quiet", "--allow-empty", "--message", "of something else")
    assert provenance.code() is None


def test_failed_stage_leaves_a_record(recorded):
    before = paths.made_by(ROW, "train").read_bytes()
    row = open_row(ROW)

    @provenance.recorded("train")
    def fail(row):
        paths.weights(ROW).write_bytes(b"half")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail(row)
    assert paths.made_by(ROW, "train").read_bytes() == before


@pytest.mark.parametrize("target", [ROW, f"models/{ROW}", f"metrics/{ROW}/", f"models/{ROW}/model.safetensors"])
def test_show_does_not_find_a_row_by_its_names(recorded, target):
    shown = provenance.show(target)
    assert f"commit {read_record()['code']['commit']}, clean" in shown
    assert f"made         {sha256(paths.weights(ROW))[:16]} models/{ROW}/model.safetensors: as on disk" in shown


def test_show_of_another_projects_row_reads_the_files_here(recorded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "model.safetensors: as on disk" in provenance.show(str(recorded.folder / "models" / ROW))


def test_show_passes_other_files_for_those_of_the_record(recorded):
    assert "not of the files on disk" not in provenance.show(ROW)
    with open(paths.weights(ROW), "ab") as file:
        file.write(b"more")
    paths.manifest("motion").unlink()
    shown = provenance.show(ROW)
    assert f"model.safetensors: ANOTHER on disk, {sha256(paths.weights(ROW))[:16]}" in shown
    assert "data/motion/manifest.csv: not on disk" in shown
    assert "The record is not of the files on disk" in shown


def test_copied_model_file_says_nothing(recorded, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(paths.weights(ROW).read_bytes())
    shown = provenance.show(str(copy))
    assert sha256(copy) in shown
    assert "depth 10" in shown
    assert f"that of {ROW} here" in shown
    shutil.rmtree(paths.made_by(ROW, "train").parent)
    assert "none of the same bytes here" in provenance.show(str(copy))
    assert "depth 10" in provenance.show(ROW)  # of which there is no record either


@pytest.mark.parametrize(
    ("spoil", "target", "words"),
    [
        ({}, "no_such_row", f"no_such_row: no record of what made it.* there are records of {ROW}"),
        ({"x.safetensors": "no tensors"}, "x.safetensors", "x.safetensors: not a model file"),
        ({f"metrics/{ROW}/made_by_train.json": '{"row": 1'}, ROW, r"made_by_train.json is damaged"),
        ({f"metrics/{ROW}/made_by_train.json": '{"inputs": []}'}, ROW, r"made_by_train.json is damaged"),
    ],
)
def test_show_of_what_is_no_row_or_model_ends_in_a_traceback(recorded, spoil, target, words):
    for name, text in spoil.items():
        Path(name).write_text(text)
    with pytest.raises(provenance.ProvenanceError, match=words):
        provenance.show(target)


def test_machine_that_makes_other_bytes_passes_for_the_same(recorded, monkeypatch):
    record, here = read_record(), {"device": "cpu", "threads": 2}
    assert provenance.differences(record, here) == []
    record["libraries"] |= {"torch": "1.0", "python": "3.0"}
    record["machine"] |= {"cpu_kernels": "DEFAULT", "threads": 99}
    torch_differs, kernels_differ, threads_differ = provenance.differences(record, here | {"threads": None})
    assert torch_differs == f"torch {torch.__version__} here, 1.0 there"
    assert "DEFAULT there" in kernels_differ
    assert "99 there" in threads_differ
    assert "a CUDA device computes" in provenance.differences(record, {"device": "cuda", "threads": 2})[-1]
