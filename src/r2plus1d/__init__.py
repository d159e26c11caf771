"""R(2+1)D action recognition, reproducible to the bit.

Importing the package pins the arithmetic: these variables must be set before torch is loaded, and every entry (stages,
tests, worker processes) passes through here. With them a CPU training gives the same bytes on any x86-64 machine with
AVX2; without them the kernels differ from one processor model to the next.
"""

import os
import sys

PINNED_ENVIRONMENT = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "OMP_DYNAMIC": "false",  # true: OpenMP may start fewer threads than torch waits for, and a training stands still
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS is repeatable only with a fixed workspace
}


def _has_avx2(cpuinfo: str = "/proc/cpuinfo") -> bool:
    try:
        with open(cpuinfo, encoding="utf-8") as lines:
            return any(line.startswith("flags") and "avx2" in line.split() for line in lines)
    except OSError:
        return False


if not _has_avx2():
    del PINNED_ENVIRONMENT["ATEN_CPU_CAPABILITY"]  # torch would run into instructions that are not there

TORCH_CAME_FIRST = "torch" in sys.modules and any(os.environ.get(k) != v for k, v in PINNED_ENVIRONMENT.items())
os.environ.update(PINNED_ENVIRONMENT)
os.environ.pop("OMP_THREAD_LIMIT", None)  # below torch's number of threads, a training stands still for the same reason
