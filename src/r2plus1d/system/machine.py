"""What this machine is: its processor and how many cores this process may use."""

import contextlib
import math
import os
import platform
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
CPUINFO = "/proc/cpuinfo"


def cores() -> int:
    """Processors that this process may use: those that it is bound to, and no more than its container's quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(bound, _quota())))


def _quota() -> float:
    """Processors' worth of time that the control groups of this process get; infinite where nothing limits it.

    Of version 2 a file in its group and each one above says `QUOTA PERIOD` or `max PERIOD`, of version 1 two files.
    """
    found = [math.inf]
    for group in (CGROUPS, *_own_groups()):
        with contextlib.suppress(OSError, ValueError):
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
            found.append(int(quota) / int(period))
        with contextlib.suppress(OSError, ValueError):
            quota, period = ((group / f"cpu.cfs_{key}_us").read_text(encoding="ascii") for key in ("quota", "period"))
            found.append(int(quota) / int(period))
    return min(share for share in found if share > 0)


def _own_groups() -> list[Path]:
    """The groups of this process and those above, of both versions."""
    groups = []
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            root = CGROUPS / controllers if controllers else CGROUPS
            place = root / path.lstrip("/")
            groups += [root, place, *(above for above in place.parents if above.is_relative_to(root))]
    return groups


def flags(cpuinfo: str = CPUINFO) -> set[str]:
    """What the processor can do, as Linux names it; empty where nothing tells."""
    try:
        with open(cpuinfo, encoding="utf-8") as lines:
            return next((set(line.split()[2:]) for line in lines if line.startswith("flags")), set())
    except OSError:
        return set()


def instructions() -> str:
    """Those that arithmetic is made of: of two processors with one name, such as that of a virtual machine, it tells
    apart those that compute by other kernels."""
    return " ".join(sorted(flag for flag in flags() if flag.startswith(("avx", "amx", "fma", "sse"))))


def processor() -> str:
    try:
        with open(CPUINFO, encoding="utf-8") as info:
            names = [line.split(":", 1)[1].strip() for line in info if line.startswith("model name")]
    except OSError:
        names = []
    return f"CPU {names[0]}" if names else f"CPU {platform.processor() or platform.machine()}"
