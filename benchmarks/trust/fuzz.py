"""Feeds mutated files to all that reads files from outside.

    nice python benchmarks/trust/fuzz.py [MINUTES] [SEED] [TARGET ...]

The targets are those of tests/robustness/test_fuzz.py; each runs in a process of its own, so that a crash is a finding
too, and all for the same share of the minutes.

Writes the targets' lines in benchmarks/results/fuzz.json and .md, and in docs/results.md.
"""

import json
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project's root

from benchmarks.common import RESULTS, command_line, publish
from r2plus1d.results.markdown import markdown_table
from r2plus1d.system.files import read_json
from tests.support.fuzz_targets import TARGETS

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

    options = settings(
        max_examples=ROUND,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    while time.monotonic() < end and finding is None:
        try:
            seed(first)(options(given(target.inputs)(counted)))()
        except BaseException as error:
            finding = "\n".join([repr(error)[:500], *getattr(error, "__notes__", [])])
        first += 1
    print(json.dumps({"inputs": count, "finding": finding}))


def main(minutes: float, first: int, names: list[str]) -> None:
    for name in names:
        seconds = minutes * 60 / len(names)
        command = [sys.executable, __file__, "--child", name, str(first), str(seconds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            found = json.loads(done.stdout.splitlines()[-1])
        else:
            found = {"inputs": None, "finding": f"ended with {done.returncode}: {done.stderr[-1000:]}"}
        print(name, found, flush=True)
        known = (read_json(RESULTS / "fuzz.json") or {}) | {name: found | {"seconds": seconds, "seed": first}}
        rows = {name: known[name] for name in TARGETS if name in known}
        publish("fuzz", rows, table(rows))  # after each: what was tried stays if the rest is interrupted
    sys.exit(any(row["finding"] for row in rows.values()))


def table(rows: dict[str, dict]) -> str:
    columns = "read from outside", "mutated inputs", "seconds", "findings"
    cells = [
        (name, row["inputs"] or "crashed", f"{row['seconds']:.0f}", int(row["finding"] is not None))
        for name, row in rows.items()
    ]
    return markdown_table(columns, cells)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
    else:
        parser = command_line(__doc__)
        parser.add_argument("minutes", nargs="?", type=float, default=20, metavar="MINUTES")
        parser.add_argument("seed", nargs="?", type=int, default=0, metavar="SEED")
        parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(TARGETS)}")
        arguments = parser.parse_args()
        if unknown := [name for name in arguments.targets if name not in TARGETS]:
            parser.error(f"no target {unknown[0]!r}; there are {', '.join(TARGETS)}")
        main(arguments.minutes, arguments.seed, arguments.targets or list(TARGETS))
