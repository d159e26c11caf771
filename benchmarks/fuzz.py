"""Feeds mutated files to all that reads files from outside: nice python benchmarks/fuzz.py [MINUTES] [SEED] [TARGET...]

The targets are those of tests/robustness/test_fuzz.py; each runs in a process of its own, so that a crash is a finding
too, and all for the same share of the minutes. Writes the targets' lines in metrics/fuzz.json, metrics/fuzz.md and the
README.
"""

import json
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402

from r2plus1d.results import markdown  # noqa: E402
from r2plus1d.system.files import read_json, write_json, write_text  # noqa: E402
from tests.support.fuzz_targets import TARGETS  # noqa: E402

MEMORY = 8 << 30  # bytes of data that a target may ask for
ROUND = 200  # inputs under one seed


def child(name: str, first: int, seconds: float) -> None:
    """Prints the number of inputs, and the first error where one was found."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    target, count, end, finding = TARGETS[name], 0, time.monotonic() + seconds, None

    def counted(value) -> None:
        nonlocal count
        count += 1
        target.check(value)

    options = {"max_examples": ROUND, "database": None, "deadline": None, "suppress_health_check": list(HealthCheck)}
    phases = (Phase.generate, Phase.shrink)
    while time.monotonic() < end and finding is None:
        try:
            seed(first)(settings(**options, phases=phases)(given(target.inputs)(counted)))()
        except BaseException as error:
            finding = "\n".join([repr(error)[:500], *getattr(error, "__notes__", [])])
        first += 1
    print(json.dumps({"inputs": count, "finding": finding}))


def main(minutes: float, first: int, names: list[str]) -> None:
    earlier = read_json(ROOT / "metrics/fuzz.json") or {}
    for name in names:
        seconds = minutes * 60 / len(names)
        command = [sys.executable, __file__, "--child", name, str(first), str(seconds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            found = json.loads(done.stdout.splitlines()[-1])
        else:
            found = {"inputs": None, "finding": f"ended with {done.returncode}: {done.stderr[-1000:]}"}
        earlier[name] = found | {"seconds": seconds, "seed": first}
        print(name, found, flush=True)
    rows = {name: earlier[name] for name in TARGETS if name in earlier}
    write_json(ROOT / "metrics/fuzz.json", rows)
    lines = ["| read from outside | mutated inputs | seconds | findings |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {name} | {row['inputs'] or 'crashed'} | {row['seconds']:.0f} | {int(row['finding'] is not None)} |"
        for name, row in rows.items()
    ]
    table = "\n".join(lines)
    write_text(ROOT / "metrics/fuzz.md", table + "\n")
    markdown.into_readme(ROOT / "README.md", "fuzz", table)
    sys.exit(any(row["finding"] for row in rows.values()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
    else:
        main(float((sys.argv[1:] or [20])[0]), int((sys.argv[2:] or [0])[0]), sys.argv[3:] or list(TARGETS))
