"""The same bytes under other circumstances: one tiny row made many times, and compared with a plain run.

    python benchmarks/trust/same_bytes.py

Each run makes videos, frames, lists, a model and its scores in a new folder with the real stages. Other processors
are emulated by qemu-x86_64, where it is installed (Debian: qemu-user); all but the first of them start from the plain
run's frames, since this is slow. The table's last lines show the opposite: training without the settings of
src/r2plus1d/system/arithmetic.py. 40 minutes on two busy cores.

Writes benchmarks/results/same_bytes.json and .md, and the table in docs/results.md.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project's root

from benchmarks.common import ROOT, BenchmarkError, command_line, publish, unpinned
from r2plus1d.config import files, schema
from r2plus1d.results.markdown import markdown_table
from r2plus1d.system import paths
from r2plus1d.system.files import read_json, sha256, write_text
from r2plus1d.system.machine import cores
from r2plus1d.system.stage import run

ROW = schema.CUSTOM
DATA = (["resolve"], ["scan"], ["download"], ["probe"], ["extract_frames", ROW], ["build_lists"])
TRAINING = (["train", ROW], ["test", ROW])
MODELS = ("Haswell", "EPYC", "Skylake-Server")  # with AVX2; qemu 7.2 has no AVX-512
METRICS = paths.metrics(ROW, "test.json").parent
PLAIN = "plain"
PIN = "    os.environ.update(PINNED)\n"  # of arithmetic.pin


@dataclass(frozen=True)
class Condition:
    name: str
    workers: int | str = 0
    environment: dict[str, str] = field(default_factory=dict)
    wrapper: tuple[str, ...] = ()  # a command that runs the rest of its line
    folder: str = "project"
    busy: bool = False
    pinned: bool = True
    umask: int = 0o022
    data: bool = True  # or from the plain run


def conditions() -> Iterator[Condition]:
    """Those that this machine can bring about."""
    for count in (1, 2, 4):
        yield Condition(f"{count} reader process{'es' if count > 1 else ''}", workers=count)
    yield Condition(f"{2 * cores()} other processes computing", busy=True)
    yield Condition("another time zone", environment={"TZ": "Asia/Kathmandu"})
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    yield Condition("the C locale, with ASCII file names", environment=ascii_only)
    yield Condition("umask 077", umask=0o077)
    yield Condition("PYTHONHASHSEED=7", environment={"PYTHONHASHSEED": "7"})
    yield Condition("a folder with a blank and a letter beyond ASCII", folder="Übung zwei")
    if os.getuid() == 0 and shutil.which("setpriv"):
        nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        again = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', '']))"
        if subprocess.call([*nobody, sys.executable, "-c", again], cwd="/", stderr=subprocess.DEVNULL) == 0:
            yield Condition("another user", wrapper=nobody, environment={"HOME": "/nonexistent"})
        else:
            print(f"left out: another user, who may not run {sys.executable}", file=sys.stderr)
    if shutil.which("taskset"):
        yield Condition("one processor core", wrapper=("taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))))
    threads = {"OMP_NUM_THREADS": "7", "MKL_NUM_THREADS": "3", "OMP_DYNAMIC": "true", "OMP_THREAD_LIMIT": "1"}
    threads["MKL_DYNAMIC"] = "TRUE"
    yield Condition("other threads in the environment (OMP_*, MKL_*)", environment=threads)
    kernels = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "AUTO"}
    yield Condition("other kernels in the environment", environment=kernels)
    if shutil.which("qemu-x86_64"):
        for model in MODELS:
            name = f"emulated processor {model}" + ("" if model == MODELS[0] else ", from the frames on")
            yield Condition(name, wrapper=("qemu-x86_64", "-cpu", model), data=model == MODELS[0])


def main() -> None:
    command_line(__doc__).parse_args()
    compared = []
    with tempfile.TemporaryDirectory() as base:
        os.chmod(base, 0o755)
        plain = make(Path(base), Condition("plain", folder=PLAIN))
        record = read_json(Path(base, PLAIN) / paths.made_by(ROW, "train"))
        for condition in conditions():
            compared.append(report(condition.name, plain, make(Path(base), condition)))
        native = make(Path(base), Condition("native", pinned=False, data=False))
        compared.append(report("without the settings, this processor", plain, native))
        if shutil.which("qemu-x86_64"):
            emulated = Condition("emulated", wrapper=("qemu-x86_64", "-cpu", MODELS[0]), pinned=False, data=False)
            name = f"without the settings, emulated {MODELS[0]} against this processor"
            compared.append(report(name, native, make(Path(base), emulated)))
    figures = {"machine": record["machine"] | {"libraries": record["libraries"]}, "conditions": compared}
    print(table(figures))
    publish("same_bytes", figures, table(figures))


def make(base: Path, condition: Condition) -> dict[str, str]:
    """Content hashes by path of all that the stages wrote."""
    project = base / condition.folder
    project.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "made_by_*")
    for name in ("stages", "src", "metrics", "my_videos"):
        shutil.copytree(ROOT / name, project / name, ignore=ignored)
    shutil.rmtree(project / METRICS)
    for name in () if condition.data else ("configs", "data"):
        shutil.copytree(base / PLAIN / name, project / name)
    if not condition.pinned:
        pins = project / "src" / "r2plus1d" / "system" / "arithmetic.py"
        if PIN not in (code := pins.read_text(encoding="utf-8")):
            raise BenchmarkError(f"{pins} no longer has the line that this takes out: {PIN.strip()}")
        write_text(pins, code.replace(PIN, ""))
    (project / "params.yaml").write_text(yaml.safe_dump(tiny(condition.workers), sort_keys=False), encoding="utf-8")
    if condition.wrapper[:1] == ("setpriv",):
        for path in (project, *project.rglob("*")):
            os.chown(path, 65534, 65534)
    environment = unpinned() | {"PYTHONPATH": str(project / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= condition.environment
    with load(2 * cores() if condition.busy else 0):
        for stage, *arguments in (DATA if condition.data else ()) + TRAINING:
            command = [*condition.wrapper, sys.executable, f"stages/{stage}.py", *arguments]
            done = subprocess.run(
                command,
                cwd=project,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                umask=condition.umask,
            )
            if done.returncode:
                raise BenchmarkError(f"{condition.name}: {stage} failed: {done.stderr[-2000:]}")
    written = [f for name in ("configs", "data", "models", "results", METRICS) for f in (project / name).rglob("*")]
    files = sorted(f for f in written if f.is_file())
    hashes = {str(file.relative_to(project)): sha256(file) for file in files}
    if condition.folder != PLAIN:
        shutil.rmtree(project)
    return hashes


def tiny(workers: int | str) -> dict:
    """This clone's parameters, at a sixteenth of the resolution and with few, short clips: emulation is slow."""
    params = files.read_params(ROOT / "params.yaml")
    params["dataset"], motion = "motion", params["datasets"]["motion"]
    motion["source"] |= {"train_videos": 1, "val_videos": 1, "test_videos": 1, "short_side": 256}
    motion["scale"] |= {"resolution": 0.0625, "width": 0.0625, "depth": 18}
    motion["train"] |= {"epochs": 2, "videos_per_gpu": 4, "log_interval": 2, "dropout": 0.5}
    motion["runtime"] |= {"device": "cpu", "threads": 2}
    params["machine"]["workers"] = workers
    params["model"] |= {"frames": 8, "frame_interval": 2, "depth": 10}
    params["test"] |= {"clips": 1, "crops": 3}
    return params


@contextlib.contextmanager
def load(count: int) -> Iterator[None]:
    """So many processes that compute while the block runs."""
    others = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def report(name: str, expected: dict[str, str], found: dict[str, str]) -> dict:
    differing = sorted(path for path in {**expected, **found} if expected.get(path) != found.get(path))
    line = {"condition": name, "files": len(expected), "different": differing}
    print(f"{name}: {len(differing)} of {len(expected)} files differ", flush=True)
    return line


def table(figures: dict) -> str:
    rows = [(entry["condition"], entry["files"], len(entry["different"]) or "none") for entry in figures["conditions"]]
    machine, libraries = figures["machine"], figures["machine"]["libraries"]
    note = (
        f"One row of 24 generated videos, 2 epochs: videos, frames, lists, model, log, scores and figures, compared "
        f"with a plain run on {machine['device']}, torch {libraries['torch']}. The lines without the settings show "
        "what they are for."
    )
    return f"{markdown_table(('circumstances', 'files', 'different'), rows)}\n\n{note}"


if __name__ == "__main__":
    run(main)
