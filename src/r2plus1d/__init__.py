"""R(2+1)D action recognition, reproducible to the bit.

Importing the package pins the arithmetic: these three variables must be set before torch is loaded, and every entry
(stages, tests, worker processes) passes through here. With them a CPU training gives the same bytes on any x86-64
machine with AVX2; without them the kernels differ from one processor model to the next.
"""

import os

PINNED_ENVIRONMENT = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS is repeatable only with a fixed workspace
}
os.environ.update(PINNED_ENVIRONMENT)
