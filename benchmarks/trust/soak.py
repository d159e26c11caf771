"""Every stage and whole `dvc repro` runs, ended at random moments again and again, on a tiny project.

    python benchmarks/trust/soak.py [--each N] [--seed SEED]

Each stage is ended 3 N times (N is 1) by each of SIGKILL and SIGTERM (to the stage alone) and SIGINT (to all its
processes, as Ctrl-C does), at moments drawn over the time that it takes undisturbed; `dvc repro` up to the tests of a
row N times, with signals to DVC alone and to all processes. Before the second run, every file under a final name must
have its final bytes, or those that it had; after it, all files of the undisturbed run must be there with the same
bytes, and nothing else. Files with timings are left out. Ten minutes on two cores.

Writes benchmarks/results/soak.json and .md, and the table in docs/results.md. The exit status is 1 if anything was lost
or left.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project's root

from benchmarks.common import ROOT, BenchmarkError, command_line, publish
from r2plus1d.config.schema import CUSTOM as ROW
from r2plus1d.results.markdown import markdown_table
from r2plus1d.results.profile import STAGES
from r2plus1d.system.progress import progress
from r2plus1d.system.stage import run
from tests.support.project import Project, smaller_params

OF_ROWS = ("extract_frames", "features", "one_frame", "train", "test", "benchmark", "card")
WHOLE = f"test@{ROW}"  # what `dvc repro` is asked for
COLUMNS = ("command", "signal", "ended while running", "resumed", "other bytes", "half-written", "left over")
TIMED = ("benchmark.json", "benchmark_machine.json", "made_by_benchmark.json")  # timings, and the hash of them
IDENTITY = ("-c", "user.name=Soak", "-c", "user.email=soak@localhost")
LONGEST = 600  # seconds


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--each", type=int, default=1, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        ready, took = prepare(Path(folder, "stages"))
        fresh, expected, seconds = prepare_dvc(Path(folder, "dvc"))
        trials = [(stage, sign, "stage") for stage in STAGES for sign in ("SIGKILL", "SIGTERM")]
        trials += [(stage, "SIGINT", "group") for stage in STAGES]
        whole = [("dvc repro", sign, to) for to in ("DVC alone", "group") for sign in ("SIGKILL", "SIGTERM", "SIGINT")]
        kinds = [kind for kind in [*trials * 3, *whole] for _ in range(arguments.each)]
        done = []
        for number, (name, sign, to) in enumerate(progress(kinds, len(kinds), "ending", "runs")):
            project = Project.at(Path(folder, f"trial{number}"))
            shutil.copytree((fresh if name == "dvc repro" else ready).folder, project.folder, symlinks=True)
            if name == "dvc repro":
                done.append(end(project, dvc_command(), seconds, sign, to, expected, rng))
            else:
                project.clear(name, ROW)
                command = [f"stages/{name}.py", *([ROW] if name in OF_ROWS else [])]
                done.append(end(project, command, took[name], sign, to, compared(ready), rng))
            done[-1] = {"command": name, "signal": sign, "to": to} | done[-1]
            print(json.dumps(done[-1]), file=sys.stderr, flush=True)
            shutil.rmtree(project.folder)
    table = markdown_table(COLUMNS, summary(done))
    total, running = len(done), sum(trial["running"] for trial in done)
    bad = [trial for trial in done if not trial["resumed"] or trial["other"] or trial["half"] or trial["left"]]
    text = (
        f"{total} runs ended, {running} of them while at work; {len(bad)} with anything lost, changed or left over. "
        f"Half-written: files under a final name without their final bytes before the second run.\n\n{table}"
    )
    print(text)
    publish("soak", {"seed": arguments.seed, "runs": done}, text)
    if bad:
        sys.exit(f"{len(bad)} of {total} runs were not as undisturbed ones")


def prepare(folder: Path) -> tuple[Project, dict[str, float]]:
    """A project after all stages, and the seconds that each took; the rows but one have the figures of the one."""
    project, seconds = Project(folder, smaller_params()), {}
    project.must("resolve")  # compiles the modules: a run after it is shorter
    for stage in STAGES:
        began = time.monotonic()
        project.must(stage, *([ROW] if stage in OF_ROWS else []))
        seconds[stage] = time.monotonic() - began
    return project, seconds


def prepare_dvc(folder: Path) -> tuple[Project, dict, float]:
    """A project under git and DVC in which nothing has run; its results after one run, and the seconds of that."""
    fresh = Project(folder, smaller_params())
    for name in (".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, folder / name)
    commands = [["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"], ["git", "add", "-A"]]
    for command in [*commands, ["git", *IDENTITY, "commit", "-qm", "all"]]:
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    once = Project.at(folder.with_name("once"))
    shutil.copytree(folder, once.folder)
    began = time.monotonic()
    finish(once, dvc_command())
    return fresh, compared(once), time.monotonic() - began


def dvc_command() -> list[str]:
    return ["-m", "dvc", "repro", WHOLE]


def environment() -> dict[str, str]:
    return {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}


def finish(project: Project, command: list[str]) -> str:
    """The output. Raises BenchmarkError where the command fails."""
    process = project.start(*command, **environment())
    said, _ = process.communicate(timeout=LONGEST)
    if process.returncode:
        raise BenchmarkError(f"{' '.join(command)} failed:\n{said[-3000:]}")
    return said


def end(
    project: Project, command: list[str], seconds: float, sign: str, to: str, expected: dict, rng: random.Random
) -> dict:
    """Ends the command at a random moment and runs it again; what came of it."""
    moment, before = rng.uniform(0.05, 0.95) * seconds, compared(project).items()
    process = project.start(*command, **environment())
    time.sleep(moment)
    running = process.poll() is None
    if running:
        (os.killpg if to == "group" else os.kill)(process.pid, getattr(signal, sign))
    said, _ = process.communicate(timeout=LONGEST)  # a child that lives on keeps the pipe open
    half = {name: digest for name, digest in compared(project).items() if not name.endswith(".part")}.items()
    found = {"moment": round(moment, 2), "running": running, "half": sorted(dict(half - expected.items() - before))}
    found["traceback"] = "Traceback" in said
    try:
        finish(project, command)
    except (BenchmarkError, subprocess.TimeoutExpired) as error:
        return found | {"resumed": False, "other": [], "left": [], "error": str(error)}
    after = compared(project)
    other = sorted(name for name in expected if after.get(name) != expected[name])
    left = [*(after.keys() - expected.keys()), *map(str, project.folder.glob("runs/*/"))]
    return found | {"resumed": True, "other": other, "left": sorted(left)}


def compared(project: Project) -> dict[str, str]:
    return {name: digest for name, digest in project.results().items() if Path(name).name not in TIMED}


def summary(done: list[dict]) -> list[list]:
    rows = []
    for kind in dict.fromkeys((trial["command"], trial["signal"], trial["to"]) for trial in done):
        own = [trial for trial in done if (trial["command"], trial["signal"], trial["to"]) == kind]
        counts = [sum(bool(trial[key]) for trial in own) for key in ("running", "resumed", "other", "half", "left")]
        rows.append([kind[0], f"{kind[1]}, {kind[2]}", f"{counts[0]} of {len(own)}", *counts[1:]])
    return rows


if __name__ == "__main__":
    run(main)
