"""The records of a row's training, test and benchmark: with the device that they ran on."""

import functools
from collections.abc import Callable
from pathlib import Path

import torch

from r2plus1d.config.origins import is_path
from r2plus1d.config.schema import BenchmarkedRow, RowConfig
from r2plus1d.system import code, kept, paths, processes, records
from r2plus1d.system.device import Runtime, computed, cpu_kernels, describe, prepare
from r2plus1d.system.errors import redacted
from r2plus1d.system.files import digest
from r2plus1d.system.machine import instructions
from r2plus1d.zoo.rows import Row

OUTPUTS: dict[str, Callable[[RowConfig], list[Path]]] = {
    "features": lambda row: [paths.features(row.dataset, row.row) / "features.safetensors"],
    "one_frame": lambda row: [paths.metrics(row.row, "one_frame.csv")],
    "train": lambda row: [paths.weights(row.row)],
    "test": lambda row: [paths.metrics(row.row, "test.json"), paths.scores(row.row)],
    "benchmark": lambda row: [paths.metrics(row.row, "benchmark.json")],
}
MAKING = ("features", "one_frame", "train")  # the stages that need no trained weights


def recorded(stage: str) -> Callable:
    """Decorates what a stage does with a row: when it ends without an error, the first process writes the record."""

    def decorate(work: Callable[[Row], None]) -> Callable[[Row], None]:
        @functools.wraps(work)
        def with_record(row: Row) -> None:
            if not processes.first():
                return work(row)
            name, taken = row.config.row, row.config.checkpoint if stage == "train" else None
            taken = taken and redacted(taken)
            inputs = [*row.sources(), *(_given(row.config) if stage in MAKING else [paths.weights(name)])]

            def facts() -> dict:
                device = None if taken else machine(prepare(row.config.runtime))
                started = {"started_from": row.config.init and redacted(row.config.init)} if stage in MAKING else {}
                told = {"arithmetic": None if taken else _computed(stage, row.config)}
                return {"seed": row.config.seed, "weights_of": taken, **started, **told, "machine": device}

            with records.recorded(stage, name, inputs, lambda: OUTPUTS[stage](row.config), facts):
                return work(row)

        return with_record

    return decorate


def _computed(stage: str, config: RowConfig) -> str:
    """The arithmetic that the stage computed in."""
    asked = config.inference if isinstance(config, BenchmarkedRow) else config.runtime.arithmetic
    return computed(asked, prepare(config.runtime), training=stage in ("train", "one_frame"))


def unfinished(row: Row, what: str = "") -> Path:
    """The folder of a training, or of `what` else, that is not finished: another for other data, configuration, code,
    versions or device, since only what began the work may go on with it."""
    decides = deciding(row.config.runtime)
    trees = code.running() | (code.below("model/cuda") if decides["type"] == "cuda" else {})
    texts = (repr(sorted(trees.items())), repr(code.libraries()), repr(decides))
    key = digest([*row.sources(), *_given(row.config)], *texts)
    return paths.work(f"{what}-{row.config.row}" if what else row.config.row, key)


def key(row: Row) -> str:
    """Differs whenever the configuration, the data or a file to start from differ."""
    return digest([*row.sources(), *_given(row.config)])


def _given(config: RowConfig) -> list[Path]:
    """The file on this machine that a row starts from, or takes its weights from, if any."""
    taken = config.checkpoint or config.init
    return [Path(taken)] if taken is not None and is_path(taken) and Path(taken).is_file() else []


def gives_back(stage: str, row: Row) -> bool:
    """See `kept.gives_back`."""

    def elsewhere(record: dict) -> bool:
        then = record.get("machine")
        return then is not None and any(then.get(key) != value for key, value in deciding(row.config.runtime).items())

    return kept.gives_back(stage, row.config.row, elsewhere)


def machine(device: torch.device) -> dict[str, str | int | None]:
    described = describe(device)
    kept_facts = {key: described[key] for key in ("device", "threads", "cuda")}
    kernels = {"cpu_kernels": cpu_kernels(), "instructions": instructions()}
    return kept_facts | {"type": device.type, **kernels, "processes": processes.processes()}


def deciding(runtime: Runtime) -> dict:
    """What of a machine decides the bytes: the GPU, or the kernels and the number of threads on the CPU, and in its own
    arithmetic the processor."""
    now = machine(prepare(runtime))
    own = ["device"] if now["type"] == "cuda" else ["cpu_kernels", "threads"]
    if now["type"] == "cpu" and runtime.arithmetic != "exact":
        own += ["device", "instructions"]
    return {key: now[key] for key in ("type", "cuda", *own)}


def differences(record: dict, runtime: Runtime) -> list[str]:
    """Why this machine, with this `runtime`, cannot make the bytes of a record's outputs, if so."""
    here, there = code.libraries(), record["libraries"]
    found = [f"{n} {here.get(n)} here, {v} there" for n, v in there.items() if n != "python" and here.get(n) != v]
    if (then := record["machine"]) is None:
        return found
    if then["type"] == "cpu" and (kind := record.get("arithmetic", "exact")) != "exact":
        here_is = describe(torch.device("cpu"))["device"]
        if (here_is, instructions()) != (then["device"], then.get("instructions")):
            found.append(f"computed in the {kind} arithmetic of {then['device']}, and here is another: {here_is}")
    elif (kernels := cpu_kernels()) != then["cpu_kernels"]:
        found.append(f"torch's {kernels} kernels on this processor, {then['cpu_kernels']} there")
    if "cuda" in (then["type"], runtime.device) or (runtime.device == "auto" and torch.cuda.is_available()):
        found.append("a CUDA device computes, where it is not shown that bytes repeat")
    elif runtime.threads is None and torch.get_num_threads() != then["threads"]:
        found.append(f"{torch.get_num_threads()} threads here, {then['threads']} there, and params.yaml sets none")
    return found
