"""From a folder of labelled videos to a trained row: params.yaml is set, and DVC runs the row `custom` alone."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from ruamel.yaml.error import YAMLError

from r2plus1d.config import strict_yaml
from r2plus1d.config.files import read_params
from r2plus1d.config.messages import nearest
from r2plus1d.config.origins import ROW, is_path
from r2plus1d.config.resolve import MODEL, paths_of_weights, published_weights, resolve
from r2plus1d.config.schema import CUSTOM
from r2plus1d.datasets import folder
from r2plus1d.datasets.manifest import DataError, read_table
from r2plus1d.system import dvc_command, paths
from r2plus1d.system.errors import ConfigError, UserError
from r2plus1d.system.files import held, replacing, sha256, write_text
from r2plus1d.system.git import git, need_clone

BEFORE = paths.PARAMS.with_name("params.before.yaml")
STARTS = Path("downloads/weights")  # copies of the row's own weights, to start from
GIVEN = STARTS / "given"  # of other files
OWN = {"dataset", "datasets.folder.path", "model.init", "model.checkpoint"}  # what this command sets
NOTHING = "none"  # the name of weights for a network that starts from nothing


class FinetuneError(UserError):
    """A fine-tuning that DVC could not end."""


def finetune(videos: Path, init: str, settings: Sequence[str]) -> None:
    """Trains, tests and benchmarks the row `custom` on a folder of videos.

    `init` names the weights to start from; "none" stands for the small network from nothing. `settings` are further
    values, KEY=VALUE as `dvc exp run -S` takes them. Raises DataError for a folder whose videos have no labels,
    ConfigError for values that cannot be, FetchError where the weights cannot be had, GitError outside of a git clone,
    BusyError beside another call, and FinetuneError where DVC fails. params.yaml is written when all this is in order.
    """
    folder_of_videos = videos.resolve()
    if "${" in str(folder_of_videos):
        raise DataError(f"{videos}: DVC would take what follows ${{ for the name of a parameter; rename the folder")
    found, classes = _labelled(folder_of_videos)
    print(f"{len(found)} videos of {len(classes)} classes: {', '.join(classes)}", flush=True)
    for place in folder.without_videos(folder_of_videos, classes):
        print(f"{place}: no video in it that can be taken, so no class", flush=True)
    before = read_params(paths.PARAMS)  # or an error that says what is wrong with it
    need_clone()
    with held(paths.lock("finetune", None), "r2plus1d finetune"):
        params = strict_yaml.to_edit(paths.PARAMS.read_text(encoding="utf-8-sig"))
        start = _kept_weights(init, params, folder_of_videos) or _copied_file(init) or _fetched_address(init)
        changes = _change(params, folder_of_videos, start, settings)
        plain = strict_yaml.load(strict_yaml.edited(params))
        kept = _set_before(plain, settings)
        _fetch(_with(plain, settings))
        if changes:
            if before["zoo"] != {CUSTOM: MODEL}:
                write_text(BEFORE, paths.PARAMS.read_text(encoding="utf-8-sig"))
                changes.append(f"zoo: {CUSTOM} alone; {BEFORE} is the file as it was")
            write_text(paths.PARAMS, strict_yaml.edited(params))
            print(f"{paths.PARAMS}: {'; '.join(changes)}", flush=True)
        if kept:
            print(f"{paths.PARAMS} has from before: {'; '.join(kept)}", flush=True)
        _run(settings)


def _labelled(videos: Path) -> tuple[list, list[str]]:
    if not videos.is_dir():
        raise DataError(f"{str(videos)!r}: there is no such folder")
    folder.check(videos)
    try:
        found, _, classes = folder.look(videos)
    except DataError as error:
        raise DataError(
            f"{error}. That is {videos}/CLASS/VIDEO.mp4, or {videos}/train/CLASS/VIDEO.mp4 and the same below val/ "
            "or test/"
        ) from error
    return found, classes


def _fetched_address(init: str) -> str | None:
    """What `model.init` is to be; of an address the file, which says what network it is of."""
    if init == NOTHING:
        return None
    return str(_file_of(init)) if "://" in init else init


def _copied_file(init: str) -> str | None:
    """Of the path of a file a copy, named for its content too: DVC would not see that the file is another by now."""
    file = Path(init)
    if not is_path(init) or not file.is_file() or file.resolve().is_relative_to(STARTS.resolve()):
        return None
    copy = _copied(file, GIVEN / file.stem[:100])
    return str(Path(copy).resolve()) if file.is_absolute() else copy  # which an experiment in another folder finds


def _copied(file: Path, name: Path) -> str:
    copy = name.with_name(f"{name.name}-{sha256(file)[:12]}{file.suffix}")
    if not copy.exists():
        with replacing(copy) as partial:
            shutil.copyfile(file, partial)
    print(f"starting from {copy}, a copy of {file}", flush=True)
    return str(copy)


def _kept_weights(init: str, params: Any, videos: Path) -> str | None:
    """Of an `init` that stands for the weights of the row itself, a copy of them: DVC removes the row's own before it
    trains. A row that was started from a copy before starts from that again, so that the same command goes on, unless
    it was trained since and there are other `videos` now."""
    own = paths.weights(CUSTOM)
    places = own.resolve(), own.parent.resolve()
    if "://" in init or not (init.removeprefix(ROW) == CUSTOM or Path(init).resolve() in places):
        return None
    before = _at(params, "model", "init")
    copied = isinstance(before, str) and Path(before).parent == STARTS and Path(before).is_file()
    if copied and not (own.is_file() and _other_videos(params, videos)):
        print(f"starting from {before} again; for what was trained since, give the path of a copy of {own}", flush=True)
        return before
    if not own.is_file():
        raise ConfigError(f"--init {init}: the row is not trained, there is no {own}; give other weights")
    return _copied(own, STARTS / CUSTOM)


def _other_videos(params: Any, videos: Path) -> bool:
    """Whether it is another folder than before, or has other files than when the row was trained."""
    scanned = paths.scan("folder")
    if _at(params, "datasets", "folder", "path") != str(videos):
        return True
    return scanned.is_file() and not read_table(scanned).equals(pd.DataFrame(folder.scan(str(videos))))


def _file_of(source: str) -> Path:
    from r2plus1d.zoo.weights import file_of  # noqa: PLC0415 (torch, for seconds)

    return file_of(source, f"give its path with --init, or start from nothing with --init {NOTHING}")


def _change(params: Any, videos: Path, init: str | None, settings: Sequence[str]) -> list[str]:
    """Sets in params.yaml what this needs, and nothing that stands there already; what was changed, in words.

    Without a GPU the last layer alone is trained on weights that were trained elsewhere: minutes instead of hours. A
    number of stages to freeze that the user has set stays.
    """
    wanted: dict[tuple[str, ...], Any] = {
        ("dataset",): "folder",
        ("datasets", "folder", "path"): str(videos),
        ("model", "init"): init,
        ("model", "checkpoint"): None,
    }
    frozen = _at(params, "train", "freeze")
    if init is None and frozen == "all":
        wanted["train", "freeze"] = None
    if init is not None and frozen is None and not any(one.startswith("train.freeze=") for one in settings):
        wanted["train", "freeze"] = None if _gpu(params) else "all"
    changes = []
    for place, value in wanted.items():
        if _at(params, *place) != value:
            changes.append(f"{'.'.join(place)}: {_text(value)}")
            parent = params if len(place) == 1 else _at(params, *place[:-1])
            parent[place[-1]] = value
    if _at(params, "zoo") != {CUSTOM: MODEL}:
        changes = changes or [f"dataset: {params['dataset']}"]
        params["zoo"] = {CUSTOM: MODEL}
    return changes


def _set_before(params: dict, settings: Sequence[str]) -> list[str]:
    """What is not as it was committed, and set neither by this call nor by `_change`, in words."""
    given = {one.removeprefix(f"{paths.PARAMS}:").lstrip("+~").partition("=")[0] for one in settings} | OWN
    try:
        committed = dict(_leaves(strict_yaml.load(git("show", f"HEAD:./{paths.PARAMS}"))))
    except (UserError, YAMLError):
        return []  # nothing to compare with
    others = ("zoo.", "machine.")  # replaced; of no result
    found = {place: value for place, value in _leaves(params) if place not in given and not place.startswith(others)}
    if found.get("train.freeze") == "all":  # as `_change` sets it
        del found["train.freeze"]
    return [
        f"{place}: {_text(value)} (committed: {_text(committed[place])})"
        for place, value in found.items()
        if place in committed and committed[place] != value
    ]


def _leaves(values: Mapping, above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _text(value: Any) -> str:
    return "null" if value is None else str(value)


def _at(params: Any, *place: str) -> Any:
    """Raises ConfigError where params.yaml has no such key."""
    for number, key in enumerate(place):
        if not (isinstance(params, Mapping) and key in params):
            raise ConfigError(f"{paths.PARAMS} has no {'.'.join(place[: number + 1])}; give it the project's own keys")
        params = params[key]
    return params


def _gpu(params: Any) -> bool:
    import torch  # noqa: PLC0415 (seconds)

    return _at(params, "runtime", "device") != "cpu" and torch.cuda.is_available()


def _with(params: dict, settings: Sequence[str]) -> dict:
    """The parameters with what -S says, as far as that is plain; DVC judges the rest. Raises ConfigError for a key that
    params.yaml has not, before that file is written."""
    for one in settings:
        place, equals, text = one.removeprefix(f"{paths.PARAMS}:").partition("=")
        if not place.lstrip("+~") or not (equals or place.startswith("~")):
            raise ConfigError(f"-S {one!r}: expected KEY=VALUE, such as train.epochs=20")
        keys: list[Any] = [int(key) if key.isdecimal() else key for key in place.lstrip("+~").split(".")]
        section: Any = params
        for number, key in enumerate(keys, 1):
            known = range(len(section)) if isinstance(section, list) else section if isinstance(section, dict) else ()
            if key not in known and not (place.startswith("+") and number == len(keys) and isinstance(section, dict)):
                hint = _nearest(key, section, keys[: number - 1])
                raise ConfigError(f"-S {one}: {paths.PARAMS} has no {'.'.join(map(str, keys[:number]))}; {hint}")
            section, parent = section[key] if number < len(keys) else None, section
        if equals and not place.startswith("~"):
            with contextlib.suppress(YAMLError):
                parent[keys[-1]] = strict_yaml.load(f"value: {text}")["value"]
    return params


def _nearest(key: Any, section: Any, above: Sequence[Any]) -> str:
    """What was meant with a key that `section`, which stands at `above`, has not."""
    if not isinstance(section, dict):
        return f"{above[-1]} has no keys"
    start = "".join(f"{one}." for one in above)
    return nearest(f"{start}{key}", [f"{start}{one}" for one in section], "key")


def _fetch(params: dict) -> None:
    """The weights first: without them nothing else is worth its time."""
    for row in resolve(params, published_weights(), _networks(params)).rows:
        if row.init is not None and not is_path(row.init):
            _file_of(row.init)


def _networks(params: dict) -> dict[str, dict[str, Any]]:
    """The network of the file to start from, by its path."""
    found = paths_of_weights(params)
    if not found:
        return {}
    from r2plus1d.model.checkpoint import network_of  # noqa: PLC0415 (torch, for seconds)

    return {path: network_of(Path(path)) for path in found}


def _run(settings: Sequence[str]) -> None:
    """DVC, in the folder of the project; what it says goes through."""
    words = [word for one in settings for word in ("-S", one)]
    code = dvc_command.run(["exp", "run", *words], Path.cwd(), os.environ)
    if code:
        raise FinetuneError(f"dvc exp run failed ({code}, see above); mend that, and the same command goes on")
