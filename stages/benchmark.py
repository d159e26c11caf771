"""Measures one row's videos per second and training memory: python stages/benchmark.py ROW."""

import sys

from r2plus1d.config.schema import BenchmarkedRow
from r2plus1d.model import checkpoint
from r2plus1d.system import arithmetic, paths
from r2plus1d.system.files import write_json
from r2plus1d.system.stage import run
from r2plus1d.zoo import benchmark, records
from r2plus1d.zoo.rows import Row, open_row


def main(name: str) -> None:
    row = open_row(name, BenchmarkedRow)
    arithmetic.choose(row.config.inference)  # on the CPU a process has one
    if not records.gives_back("benchmark", row):
        measure(row)


@records.recorded("benchmark")
def measure(row: Row) -> None:
    name = row.config.row
    model = checkpoint.restore(paths.weights(name))
    figures, measured_on = benchmark.benchmark(row.config, model, row.splits, row.reader)
    write_json(paths.metrics(name, "benchmark.json"), figures)
    write_json(paths.metrics(name, "benchmark_machine.json"), measured_on)
    print(f"{name}: {figures['videos_per_second']} video/s, {figures['memory_mib']} MiB on {measured_on['device']}")


if __name__ == "__main__":
    run(main, sys.argv)
