"""The arithmetic, fixed on every way in."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import distributed as dask
import pytest
import torch

from r2plus1d.clips import loader
from r2plus1d.config.schema import Runtime
from r2plus1d.system import arithmetic, device, pool
from tests.support.project import ROOT

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
def test_tests_use_the_pinned_kernels():
    assert seen() == EXPECTED


@ON_AVX2
def test_reader_processes_use_the_pinned_kernels():
    (batch,) = loader.loader(Seen(), torch.device("cpu"), 1, batch_size=2, collate_fn=list)
    assert batch == [EXPECTED] * 2


@ON_AVX2
def test_pool_processes_use_the_pinned_kernels():
    assert list(pool.spread(seen, range(2), 2)) == [EXPECTED] * 2


@ON_AVX2
def test_cluster_workers_use_the_pinned_kernels(monkeypatch):
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


SCRIPTS = [*sorted((ROOT / "stages").glob("*.py")), ROOT / "tests" / "conftest.py", ROOT / "benchmarks/same_bytes.py"]


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_script_imports_the_package_before_torch(file):
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


def test_processor_without_avx2_is_told_from_one_with_it(tmp_path):
    (tmp_path / "old").write_text("processor : 0\nflags\t\t: fpu sse4_2 avx\n")
    (tmp_path / "new").write_text("processor : 0\nflags\t\t: fpu avx avx2\n")
    (tmp_path / "arm").write_text("processor : 0\nFeatures : fp asimd\n")
    found = {name: arithmetic.has_avx2(str(tmp_path / name)) for name in ("old", "new", "arm", "missing")}
    assert found == {"old": False, "new": True, "arm": False, "missing": False}


def test_machine_with_other_kernels_is_told_so_once(monkeypatch, capsys):
    monkeypatch.setattr(device, "cpu_kernels", lambda: "DEFAULT")
    device._say_where_arithmetic_is_another.cache_clear()
    for _ in range(2):
        device.prepare(CPU)
    torch.use_deterministic_algorithms(False)
    said = capsys.readouterr().err
    assert said.startswith("note: torch computes with DEFAULT kernels on this ")
    assert len(said.splitlines()) == 1
    device._say_where_arithmetic_is_another.cache_clear()
