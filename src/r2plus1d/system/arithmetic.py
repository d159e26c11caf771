"""The processor's arithmetic: the variables that pin it, for the pipeline's own processes and none else.

With them a CPU training gives the same bytes on any x86-64 machine with AVX2; without them the kernels differ from one
processor model to the next. torch, oneDNN and MKL read theirs at their first operation, so they may be set after
`import torch`; OpenMP reads its own when it is loaded, with torch.
"""

import os
import sys
from typing import Literal

from r2plus1d.system.machine import CPUINFO, flags

Arithmetic = Literal["exact", "native", "half"]  # what each is: docs/arithmetic.md

KERNELS = {  # the same on any x86-64 processor with AVX2, instead of the processor's own
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
}
PINNED = KERNELS | {
    "OMP_DYNAMIC": "false",  # true: OpenMP may start fewer threads than torch waits for, and a training stands still
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS is repeatable only with a fixed workspace
}
THREAD_LIMIT = "OMP_THREAD_LIMIT"  # below torch's number of threads, a training stands still for the same reason


def has_avx2(cpuinfo: str = CPUINFO) -> bool:
    return "avx2" in flags(cpuinfo)


def has_bfloat16(cpuinfo: str = CPUINFO) -> bool:
    """Whether the processor multiplies bfloat16 itself, by AMX or AVX-512."""
    return not flags(cpuinfo).isdisjoint({"amx_bf16", "avx512_bf16"})


if not has_avx2():
    del PINNED["ATEN_CPU_CAPABILITY"]  # torch would run into instructions that are not there


def choose(arithmetic: Arithmetic) -> None:
    """`exact` leaves this process, which `pin` has pinned, as it is; `native` and `half` take the processor's own
    kernels. Before the first operation."""
    for key in KERNELS if arithmetic != "exact" else ():
        os.environ.pop(key, None)


def pin() -> None:
    """Sets the variables for this process and those that it starts, before the first operation.

    Where OpenMP has already read others, the process begins once more, with these: the same command, in its place.
    """
    read_too_early = os.environ.get("OMP_DYNAMIC", "false") != "false" or THREAD_LIMIT in os.environ
    set_variables()
    if read_too_early and "torch" in sys.modules:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def set_variables() -> None:
    """The same for a process that must not begin once more, such as a worker of a cluster. OpenMP keeps what it read,
    which decides how many threads there are, and no result."""
    os.environ.update(PINNED)
    os.environ.pop(THREAD_LIMIT, None)
