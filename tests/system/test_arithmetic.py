"""The arithmetic, fixed on every way in."""

import os
import subprocess
import sys

import distributed
import pytest
import torch

from r2plus1d.clips import loader
from r2plus1d.config.schema import Runtime
from r2plus1d.system import arithmetic, device, pool
from r2plus1d.system.errors import ConfigError
from tests.support.cases import slow
from tests.support.cluster import local_cluster
from tests.support.project import ROOT

CPU = Runtime(device="cpu", gpus=1, threads=2, lowered=True, arithmetic="exact")
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


def test_kernels_of_torch_onednn_and_mkl_are_pinned():
    assert arithmetic.KERNELS == {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_CBWR": "COMPATIBLE",
    }
    assert arithmetic.KERNELS.keys() - arithmetic.PINNED.keys() <= {"ATEN_CPU_CAPABILITY"}  # without AVX2


@ON_AVX2
def test_tests_use_the_pinned_kernels():
    assert seen() == EXPECTED


@ON_AVX2
def test_reader_processes_use_the_pinned_kernels():
    (batch,) = loader.loader(Seen(), torch.device("cpu"), 1, batch_size=2, collate_fn=list)
    assert batch == [EXPECTED] * 2


@ON_AVX2
@pytest.mark.slow
def test_pool_processes_use_the_pinned_kernels():
    assert list(pool.spread(seen, range(2), 2)) == [EXPECTED] * 2


@ON_AVX2
@pytest.mark.slow
def test_cluster_workers_use_the_pinned_kernels(monkeypatch):
    for key in PINS:  # a worker that was not started from here
        monkeypatch.delenv(key)
    with local_cluster(1) as cluster:
        assert list(pool.spread(seen, range(2), 1, cluster.scheduler_address)) == [EXPECTED] * 2
        cluster.scale(2)  # one that joins later
        with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
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
        slow({"MKL_CBWR": "AUTO"}),
        slow({"OMP_DYNAMIC": "true"}),
        slow({"OMP_THREAD_LIMIT": "1"}),
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


CHOSEN = """
import os, sys
from r2plus1d.system import arithmetic, stage

def main():
    arithmetic.choose(os.environ["KIND"])
    import torch
    print(sorted(key for key in arithmetic.PINNED if key in os.environ), torch.backends.cpu.get_cpu_capability())

if __name__ == "__main__":
    stage.run(main)
"""


@pytest.fixture(scope="module")
def unpinned() -> str:
    """The kernels of torch where nothing is pinned."""
    return python("-c", "import torch; print(torch.backends.cpu.get_cpu_capability())").stdout.strip()


@pytest.mark.parametrize("kind", ["exact", "native", slow("half")])
def test_native_and_half_free_the_processor_s_own_kernels(tmp_path, unpinned, kind):
    """And nothing else: another number of threads than torch waits for would stop a training."""
    (tmp_path / "stage.py").write_text(CHOSEN)
    done = python(str(tmp_path / "stage.py"), KIND=kind)
    kept = sorted(arithmetic.PINNED if kind == "exact" else arithmetic.PINNED.keys() - arithmetic.KERNELS.keys())
    exact = "AVX2" if arithmetic.has_avx2() else unpinned
    assert done.stdout == f"{kept} {exact if kind == 'exact' else unpinned}\n", done.stderr


def test_processor_with_bfloat16_is_told_from_one_without(tmp_path):
    for name, flags in (("amx", "fpu avx2 amx_bf16"), ("avx", "avx512f avx512_bf16"), ("old", "avx2 avx512f")):
        (tmp_path / name).write_text(f"processor : 0\nflags\t\t: {flags}\n")
    found = {name: arithmetic.has_bfloat16(str(tmp_path / name)) for name in ("amx", "avx", "old", "missing")}
    assert found == {"amx": True, "avx": True, "old": False, "missing": False}


def test_half_is_computed_as_native_where_it_cannot_be_and_says_so_once(monkeypatch, capsys):
    cpu = torch.device("cpu")
    monkeypatch.setattr(device, "has_bfloat16", lambda: False)
    device._say_that_half_is_native.cache_clear()
    assert [device.computed("half", cpu) for _ in range(2)] == ["native"] * 2
    assert capsys.readouterr().err == "note: this processor has no bfloat16, so `half` is computed as `native`\n"
    for kind in ("exact", "native"):
        assert device.computed(kind, cpu) == kind


def test_trainings_on_a_cpu_are_never_computed_in_half(monkeypatch):
    monkeypatch.setattr(device, "has_bfloat16", lambda: True)
    assert device.computed("half", torch.device("cpu"), training=True) == "native"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    assert device.computed("half", torch.device("cuda"), training=True) == "half"


@pytest.fixture
def flags():
    """Puts back what `prepare` sets of torch."""
    before = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.get_deterministic_debug_mode()
    tf32 = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = before[:2]
    torch.set_deterministic_debug_mode(before[2])
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = tf32


@pytest.mark.parametrize(
    ("kind", "lowered", "free"),
    [("exact", "auto", False), ("native", "auto", True), ("half", "auto", True), ("half", True, False)],
)
def test_gpu_is_free_to_choose_kernels_unless_its_results_must_repeat(monkeypatch, flags, kind, lowered, free):
    """The networks for GPUs were measured with deterministic kernels, and lose next to nothing by them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    runtime = CPU.model_copy(update={"device": "cuda", "arithmetic": kind, "lowered": lowered})
    assert device.prepare(runtime).type == "cuda"
    cudnn = torch.backends.cudnn
    assert (cudnn.benchmark, cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (free,) * 3
    assert cudnn.deterministic is not free
    assert torch.get_deterministic_debug_mode() == (0 if free else 2)


def test_networks_for_gpus_are_refused_in_an_arithmetic_that_is_not_theirs(monkeypatch, flags):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    runtime = CPU.model_copy(update={"device": "cuda", "lowered": True})
    with pytest.raises(
        ConfigError, match=r"lowered is true, and runtime\.arithmetic or inference is 'exact': .* take half"
    ):
        device.prepare(runtime)
