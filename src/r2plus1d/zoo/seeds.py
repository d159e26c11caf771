"""The rows trained with other seeds: each seed is a DVC experiment, so that the project's folder stays as it is.

DVC's queue runs them, each in a folder of its own. What is finished is read from the experiments' commits: the dvc.lock
in one says with which configuration, by which code and on which data a row was trained and tested.
"""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from r2plus1d.config import strict_yaml
from r2plus1d.config.files import read_data, read_row
from r2plus1d.config.messages import nearest
from r2plus1d.config.origins import is_path
from r2plus1d.config.schema import FolderSource, TestedRow
from r2plus1d.system import dvc_command, dvc_queue, paths, records
from r2plus1d.system.errors import ConfigError, UserError
from r2plus1d.system.git import GitError, git
from r2plus1d.system.machine import cores

LOCK = "dvc.lock"
CHAIN = ("features", "train", "test")  # the stages of a row that its figures come from
Stages = Mapping[str, Any]  # of a dvc.lock
Missing = Mapping[int, Sequence[str]]  # rows by seed
Figures = dict[str, Any]  # see `figures`


class SeedsError(UserError):
    """Trainings with other seeds that cannot be started, or did not end."""


# ---- What is there ----


def prepare(rows: Sequence[str]) -> None:
    """`dvc repro` of the rows' tests: data, frames, and the figures of params.yaml's seed. Raises SeedsError."""
    _repro([f"test@{row}" for row in rows])


def configurations() -> dict[str, TestedRow]:
    """All rows of params.yaml, in the order of the tables. Raises SeedsError, or what `resolve` says of params.yaml."""
    _repro(["resolve"])
    known = strict_yaml.load(paths.PARAMS.read_text(encoding="utf-8-sig"))["zoo"]
    return {row: read_row(paths.CONFIGS, row, TestedRow) for row in known}


def chosen(asked: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """The rows that `asked` names in full or in short, all where it names none; `names` are the short ones by row.
    Raises ConfigError."""
    known = {short: row for row, short in names.items()} | {row: row for row in names}
    if unknown := [name for name in asked if name not in known]:
        raise ConfigError(f"--rows {unknown[0]}: " + nearest(unknown[0], known, "row"))
    rows = {known[name] for name in asked}
    return [row for row in names if row in rows or not asked]


def _repro(targets: list[str]) -> None:
    if code := dvc_command.run(["repro", *targets], Path.cwd(), os.environ):
        raise SeedsError(f"dvc repro failed ({code}, see above); mend that, and the same command goes on")


def refuse(configs: Iterable[TestedRow]) -> None:
    """Raises ConfigError for rows that no seed changes, and for files that an experiment's own folder has not."""
    source = read_data(paths.DATA_CONFIG)
    if isinstance(source.source, FolderSource) and source.path is not None and not Path(source.path).is_absolute():
        _elsewhere(f"datasets.{source.dataset}.path", source.path)
    for config in configs:
        if config.checkpoint is not None:
            raise ConfigError(f"row {config.row} tests finished weights, so no seed changes it; give --rows without it")
        packed = config.clip.input == "frames" and config.clip.storage == "packed"
        reads = not packed or config.loose_frames is not None
        if reads and config.in_place is not None and not Path(config.in_place).is_absolute():
            _elsewhere(f"datasets.{config.dataset}.path", config.in_place)


def _elsewhere(key: str, path: str) -> None:
    raise ConfigError(f"{key}: {path!r} is not in an experiment's own folder; give the absolute path in params.yaml")


def identity(row: str) -> str:
    """Names the row's configuration without the seed, and its data, as they stand in the project's folder."""
    stages = _stages_here()
    data = {path: md5 for (_, path), md5 in _sources(stages, row).items() if path.startswith("data/")}
    configs = [_with_seed(paths.row_config(row, stage).read_text(encoding="utf-8"), 0) for stage in CHAIN]
    return hashlib.sha256(json.dumps([configs, sorted(data.items())]).encode()).hexdigest()[:12]


def here(row: str) -> Figures:
    """The figures of the seed in params.yaml. Raises SeedsError where they are not those of dvc.lock."""
    found = figures(_stages_here(), row, lambda path: path.read_text(encoding="utf-8"))
    if found is None:
        raise SeedsError(f"{paths.metrics(row, 'test.json')} is not that of {LOCK}; run dvc repro test@{row}")
    return found


def finished(rows: Iterable[str], seeds: Iterable[int]) -> dict[str, dict[int, Figures]]:
    """By row and seed: the figures of experiments whose training and test had the same code and data, and the same
    configuration but for the seed, as the project's folder. Experiments of the user's own count as well."""
    base = _stages_here()
    found: dict[str, dict[int, Figures]] = {row: {} for row in rows}
    wanted = {(row, seed): expected(base, row, seed) for row in found for seed in seeds}
    for commit in dvc_queue.experiments().values():
        try:
            lock = git("show", f"{commit}:{LOCK}")
        except GitError:
            continue
        for (row, seed), sources in wanted.items():
            if seed in found[row] or sources["test", paths.row_config(row, "test").as_posix()] not in lock:
                continue  # reading a dvc.lock takes seconds
            stages = _parsed(lock)
            if _sources(stages, row) == sources and (one := figures(stages, row, functools.partial(_show, commit))):
                found[row][seed] = one
    return found


def figures(stages: Stages, row: str, read: Callable[[Path], str]) -> Figures | None:
    """Accuracies (percent), split and videos of a row's test.json, and the MD5 of the weights; None where the stages of
    the dvc.lock do not belong together, or test.json is not theirs."""
    chain = [stages[f"{stage}@{row}"] for stage in CHAIN if f"{stage}@{row}" in stages]
    if len(chain) < len(CHAIN):
        return None
    made = {out["path"]: out["md5"] for stage in chain for out in stage.get("outs", [])}
    if any(made.get(dep["path"], dep["md5"]) != dep["md5"] for stage in chain for dep in stage["deps"]):
        return None
    file = paths.metrics(row, "test.json")
    try:
        text = read(file)
    except (OSError, GitError):
        return None
    if _md5(text) != made[file.as_posix()]:
        return None
    values = json.loads(text)
    return {
        "top1": values["top1"],
        "mean_class_accuracy": values["mean_class_accuracy"],
        "single_clip_top1": values["single_clip"]["top1"],
        "weights": made[paths.weights(row).as_posix()],
        "split": values["split"],
        "videos": values["videos"],
    }


def expected(stages: Stages, row: str, seed: int) -> dict[tuple[str, str], str]:
    """What the row's stages would read with another seed: MD5 by stage and path, of code, data and configuration."""
    found = _sources(stages, row)
    for stage in CHAIN:
        config = paths.row_config(row, stage)
        found[stage, config.as_posix()] = _md5(_with_seed(config.read_text(encoding="utf-8"), seed))
    return found


def _sources(stages: Stages, row: str) -> dict[tuple[str, str], str]:
    """MD5 by stage and path of what the row's stages read, but for what they make themselves."""
    chain = {stage: stages.get(f"{stage}@{row}", {}) for stage in CHAIN}
    made = {out["path"] for entry in chain.values() for out in entry.get("outs", [])}
    return {
        (stage, dep["path"]): dep["md5"]
        for stage, entry in chain.items()
        for dep in entry.get("deps", [])
        if dep["path"] not in made
    }


def _with_seed(text: str, seed: int) -> str:
    """A file of configs/ as `resolve` writes it for another seed."""
    values = json.loads(text)
    for section in (values, values.get("of")):
        if isinstance(section, dict) and "seed" in section:
            section["seed"] = seed
    return json.dumps(values, indent=2) + "\n"


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def _stages_here() -> Stages:
    return _parsed(Path(LOCK).read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=16)
def _parsed(lock: str) -> Stages:
    return strict_yaml.load(lock)["stages"]


def _show(commit: str, path: Path) -> str:
    return git("show", f"{commit}:{path.as_posix()}")


# ---- What is run ----


def train(missing: Missing, configs: Mapping[str, TestedRow], news: Callable[[], object]) -> list[str]:
    """Queues an experiment for each seed and lets DVC's queue run them, as many at a time as there are cores for; calls
    `news` when one ended well. What went wrong, in words.

    One that is queued already, as by a command that was killed, is not queued again. Ended from outside, this takes its
    own experiments out of the queue and ends those that run; those of the user stay. Raises QueueError.
    """
    seeds = {_name(seed, rows): seed for seed, rows in missing.items()}
    dvc_queue.clear_lost(seeds)
    states, _ = dvc_queue.states()
    others = [name for name, state in states.items() if name not in seeds and state in dvc_queue.ACTIVE]
    if others:
        dvc_queue.say(f"DVC's queue also holds {', '.join(others)}, and runs them in their turn, too")
    try:
        for name, seed in seeds.items():
            if states.get(name) not in dvc_queue.ACTIVE:
                _queue(name, seed, [configs[row] for row in missing[seed]])
        jobs = min(len(seeds), _jobs([configs[row] for rows in missing.values() for row in rows]))
        dvc_queue.say(f"{len(seeds)} experiments, {jobs} at a time; to look on: dvc queue logs --follow NAME")
        failed = dvc_queue.run({name: f"seed {seed} ({name})" for name, seed in seeds.items()}, jobs, news)
    except BaseException:
        dvc_queue.drop(seeds)
        if others:
            dvc_queue.say(f"{', '.join(others)}: stays in DVC's queue; if it waits, dvc queue start goes on with it")
        raise
    wrong = [f"seed {seeds[name]} failed, and `dvc queue logs {name}` says why" for name in failed]
    for name, seed in seeds.items():
        wrong += [] if name in failed else _of_other(name, seed, missing)
    return wrong


def _name(seed: int, rows: Sequence[str]) -> str:
    """Of the experiment; another name for other rows, configurations, code or data."""
    base = _stages_here()
    content = [sorted((*key, md5) for key, md5 in expected(base, row, seed).items()) for row in sorted(rows)]
    return f"seed-{seed}-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]}"


def _queue(name: str, seed: int, configs: Sequence[TestedRow]) -> None:
    starts = {str(config.init) for config in configs if config.init and is_path(config.init)}
    outside_git = sorted(path for path in starts if not Path(path).is_absolute())
    dvc_queue.put(name, [f"seed={seed}"], [f"test@{config.row}" for config in configs], outside_git)
    dvc_queue.say(f"seed {seed}: queued as {name}")


def _jobs(configs: Iterable[TestedRow]) -> int:
    """How many at a time: one where a GPU, or all cores, work for one training."""
    threads = 1
    for config in configs:
        machine = records.read("test", config.row).get("machine") or {}
        if machine.get("type") != "cpu" or config.runtime.threads is None:
            return 1
        threads = max(threads, config.runtime.threads * config.runtime.gpus)
    return max(1, cores() // threads)


def _of_other(name: str, seed: int, missing: Missing) -> list[str]:
    """Says where an experiment that ended well is of other code or data than what lies here."""
    if (commit := dvc_queue.experiments().get(name)) is None:
        return [f"seed {seed}: no experiment {name} is left"]
    stages, base = _parsed(_show(commit, Path(LOCK))), _stages_here()
    for row in missing[seed]:
        made = _sources(stages, row)
        for (stage, path), md5 in expected(base, row, seed).items():
            if made.get((stage, path)) != md5:
                return [f"seed {seed} ({name}) read another {path} in {stage}@{row} than lies here"]
    return []
