"""How many processors a process may use."""

import os
from pathlib import Path

import pytest

from r2plus1d.system import machine


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "400000 100000\n", "job/cpu.max": "150000 100000\n"}, 2),
        ({"cpu/job/cpu.cfs_quota_us": "200000\n", "cpu/job/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/job/cpu.cfs_quota_us": "-1\n", "cpu/job/cpu.cfs_period_us": "100000\n"}, 64),
        ({"cpu.max": "no number\n"}, 64),
    ],
)
def test_quota_of_a_container_bounds_the_processors(tmp_path, monkeypatch, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    own = tmp_path / "own"
    own.write_text("0::/job\n3:cpu:/job\n")
    real = Path.read_text
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    monkeypatch.setattr(
        Path, "read_text", lambda self, **how: real(own if str(self) == "/proc/self/cgroup" else self, **how)
    )
    assert machine.cores() == expected
