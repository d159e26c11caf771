"""The arithmetic, fixed on every way in."""

import os
import subprocess
import sys

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
        cluster.scale(2)  # one that joins later
        with dask.Client(cluster.scheduler_address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
            assert list(client.run(seen).values()) == [EXPECTED] * 2


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    unpinned = {key: value for key, value in os.environ.items() if key not in PINS}
    return subprocess.run(
        [sys.executable, *arguments],
        env=unpinned | {"PYTHONPATH": str(ROOT / "src")} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


STAGE = """
import ctypes, os, sys, torch
from r2plus1d.system import arithmetic, stage

def main():
    print({key: os.environ.get(key) for key in (*arithmetic.PINNED, arithmetic.THREAD_LIMIT)})
    with open("/proc/self/maps") as maps:
        openmp = ctypes.CDLL(next(line.split()[-1] for line in maps if "libgomp" in line))
    print(torch.backends.cpu.get_cpu_capability(), openmp.omp_get_dynamic(), openmp.omp_get_thread_limit() > 1)
    print(sys.argv[1:])

if __name__ == "__main__":
    stage.run(main)
"""


@ON_AVX2
@pytest.mark.parametrize(
    "settings",
    [
        {"MKL_CBWR": "AUTO"},
        {"OMP_DYNAMIC": "true"},
        {"OMP_THREAD_LIMIT": "1"},
        {"OMP_DYNAMIC": "true", "OMP_THREAD_LIMIT": "1", "MKL_CBWR": "AUTO", "ATEN_CPU_CAPABILITY": "default"},
    ],
    ids="+".join,
)
def test_stage_pins_its_arithmetic_though_torch_was_loaded_before(settings, tmp_path):
    """OpenMP too, which reads its variables when torch is loaded."""
    (tmp_path / "stage.py").write_text(STAGE)
    done = python(str(tmp_path / "stage.py"), "a b", **settings)
    pinned = {**arithmetic.PINNED, arithmetic.THREAD_LIMIT: None}
    assert done.stdout == f"{pinned}\nAVX2 0 True\n['a b']\n", done.stderr


def test_import_of_the_package_leaves_the_process_as_it_was():
    code = (
        "import os, sys; variables, modules = dict(os.environ), set(sys.modules)\n"
        "import r2plus1d; r2plus1d.__version__, dir(r2plus1d)\n"
        "more = {name.split('.')[0] for name in set(sys.modules) - modules} - sys.stdlib_module_names\n"
        "print(os.environ == variables, more, 'torch' in sys.modules)"
    )
    done = python("-c", code, OMP_DYNAMIC="true", OMP_THREAD_LIMIT="1", MKL_CBWR="AUTO")
    assert done.stdout == "True {'r2plus1d'} False\n", done.stderr


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
