"""The device, and the settings that make it repeat itself."""

import ctypes
import functools
import platform
import resource
import sys
from typing import Literal, Protocol

import numpy as np
import torch

from r2plus1d.system import waiting
from r2plus1d.system.arithmetic import Arithmetic, has_bfloat16
from r2plus1d.system.errors import ConfigError
from r2plus1d.system.machine import processor

MIB = 2**20
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


class Runtime(Protocol):
    """The section of that name, of a row's configuration."""

    @property
    def device(self) -> str: ...  # cpu, cuda or auto
    @property
    def gpus(self) -> int: ...
    @property
    def threads(self) -> int | None: ...
    @property
    def lowered(self) -> bool | Literal["auto"]: ...
    @property
    def arithmetic(self) -> Arithmetic: ...


def prepare(runtime: Runtime) -> torch.device:
    """Fixes threads and kernels, so that the same inputs give the same bytes on the same machine, and returns the
    device. On CUDA that is promised of `exact` alone: the others leave the choice of kernels to cuDNN, which times
    them, and take TF32.

    The processor's kernels are fixed by `arithmetic.pin`, at the start of a stage. Raises ConfigError for `cuda` where
    torch sees no CUDA device, and for the networks for GPUs in another arithmetic than theirs.
    """
    if runtime.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("runtime.device is 'cuda', but torch finds no CUDA device; use cpu or auto")
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    use_cuda = runtime.device == "cuda" or (runtime.device == "auto" and torch.cuda.is_available())
    free = use_cuda and runtime.arithmetic != "exact" and runtime.lowered is not True
    # As use_deterministic_algorithms(True), which imports a second's worth of the compiler first.
    torch.set_deterministic_debug_mode("default" if free else "error")
    # A tenth of a step's time, and no kernel reads such memory. (Of a module, mypy does not see the property.)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    keep_freed_memory()
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = not free, free
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = free
    if use_cuda and runtime.lowered is True and runtime.arithmetic != "half":
        raise ConfigError(
            f"runtime.lowered is true, and runtime.arithmetic or inference is {runtime.arithmetic!r}: the networks for "
            "GPUs compute in half precision, so take half as well, or lowered: auto"
        )
    if not use_cuda:
        waiting.watch(torch.get_num_threads())
    if not use_cuda and runtime.arithmetic == "exact":
        _say_where_arithmetic_is_another()
    return torch.device("cuda" if use_cuda else "cpu")


@functools.cache
def _say_where_arithmetic_is_another() -> None:
    if (kernels := cpu_kernels()) != "AVX2":
        print(
            f"note: torch computes with {kernels} kernels on this {platform.machine()} processor: the results are not "
            "the bytes of an x86-64 machine with AVX2",
            file=sys.stderr,
            flush=True,
        )


def computed(arithmetic: Arithmetic, device: torch.device, training: bool = False) -> Arithmetic:
    """What is computed in, where `arithmetic` is asked for: `native` instead of `half` in trainings on a CPU, whose
    gradients can be wrong there (docs/arithmetic.md), and where the hardware has no bfloat16, which it then says."""
    if arithmetic != "half" or (device.type == "cpu" and training):
        return "native" if arithmetic == "half" else arithmetic
    if device.type == "cpu":
        able = has_bfloat16() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    else:
        able = not training or torch.cuda.is_bf16_supported(including_emulation=False)
    if not able:
        _say_that_half_is_native(device.type)
    return "half" if able else "native"


@functools.cache
def _say_that_half_is_native(kind: str) -> None:
    name = "processor" if kind == "cpu" else "GPU"
    print(f"note: this {name} has no bfloat16, so `half` is computed as `native`", file=sys.stderr, flush=True)


def cpu_kernels() -> str:
    """AVX2 on a machine where the bytes are the same as on others."""
    return torch.backends.cpu.get_cpu_capability()


def keep_freed_memory() -> None:
    """Tells glibc to reuse large blocks instead of returning each to the system and clearing new ones.

    On two CPU cores a training step at 32 frames took 0.91 of the time, and testing 0.6 to 0.8.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt and (mallopt(M_MMAP_THRESHOLD, 1 << 30) or mallopt(M_MMAP_THRESHOLD, 1 << 25)):  # older glibc: 32 MiB
        mallopt(M_TRIM_THRESHOLD, 1 << 30)


def seed_everything(*parts: int) -> None:
    """Seeds torch on all devices from several numbers, such as the seed and the epoch."""
    torch.manual_seed(int(np.random.SeedSequence(parts).generate_state(1)[0]))


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory_mib(device: torch.device) -> int:
    """On CUDA, the most that tensors took since the last `reset_peak_memory`; on the CPU, the most that the process
    held resident since its start."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / MIB)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / MIB if sys.platform == "darwin" else peak / 1024)


def reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def describe(device: torch.device) -> dict[str, str | int | None]:
    """What every timing is given with: device, threads, versions."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if device.type == "cuda" else "not used",
    }
