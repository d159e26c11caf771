"""The command `r2plus1d seeds`: what counts as trained with a seed, and real experiments, interrupted and gone on."""

import copy
import hashlib
import json
import signal

import pytest
import yaml

from r2plus1d.config import files, resolve, schema
from r2plus1d.config.schema import CUSTOM
from r2plus1d.results.seeds import SEEDS
from r2plus1d.system import paths
from r2plus1d.system.errors import ConfigError
from r2plus1d.system.files import write_text
from r2plus1d.zoo import seeds
from tests.support.commands import git, r2plus1d
from tests.support.project import Project, content

TEST = {"top1": 50.0, "mean_class_accuracy": 49.0, "single_clip": {"top1": 48.0}, "split": "val", "videos": 12}
FIGURES = {"top1": 50.0, "mean_class_accuracy": 49.0, "single_clip_top1": 48.0, "split": "val", "videos": 12}


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def lock_of(params: dict, seed: int, weights: str) -> dict:
    """A dvc.lock of the row `custom`, trained and tested with a seed, as far as `seeds` reads it."""
    configs = resolve.resolve(params | {"seed": seed}).files()
    read = {
        "features": ["data/motion/lists"],
        "train": ["data/motion/lists", "data/motion/features/custom", "src/r2plus1d/zoo"],
        "test": ["data/motion/lists", "models/custom/model.safetensors", "src/r2plus1d/zoo"],
    }
    made = {
        "features": {"data/motion/features/custom": "f"},
        "train": {"models/custom/model.safetensors": weights},
        "test": {"metrics/rows/custom/test.json": md5(json.dumps(TEST))},
    }
    own = {path: value for outs in made.values() for path, value in outs.items()}
    stages = {}
    for stage in seeds.CHAIN:
        deps = {path: own.get(path, f"md5 of {path}") for path in read[stage]}
        deps[f"configs/custom/{stage}.json"] = md5(files.dump(configs[f"custom/{stage}.json"]))
        stages[f"{stage}@custom"] = {
            "deps": [{"path": path, "md5": value} for path, value in deps.items()],
            "outs": [{"path": path, "md5": value} for path, value in made[stage].items()],
        }
    return {"schema": "2.0", "stages": stages}


@pytest.fixture
def here(tmp_path, monkeypatch, params):
    """A git clone with the configurations and a dvc.lock of seed 0, and no data."""
    monkeypatch.chdir(tmp_path)
    project = Project.at(tmp_path)
    for name, section in resolve.resolve(params).files().items():
        write_text(paths.CONFIGS / name, files.dump(section))
    write_text(tmp_path / ".gitignore", "/configs/\n")
    write(tmp_path, lock_of(params, 0, "w0"))
    git(project, "init", "--quiet")
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "start")
    return project


def write(folder, lock: dict, figures: str = json.dumps(TEST)) -> None:
    write_text(folder / seeds.LOCK, yaml.safe_dump(lock))
    write_text(folder / paths.metrics(CUSTOM, "test.json"), figures)


def experiment(project: Project, name: str, lock: dict, figures: str = json.dumps(TEST)) -> None:
    """A commit as DVC leaves one of a finished experiment."""
    head = git(project, "rev-parse", "HEAD")
    write(project.folder, lock, figures)
    git(project, "commit", "--quiet", "--all", "--allow-empty", "--message", name)
    git(project, "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{name}", "HEAD")
    git(project, "reset", "--quiet", "--hard", head)


def test_experiment_with_another_seed_and_the_same_rest_is_finished(here, params):
    experiment(here, "any-name", lock_of(params, 3, "w3"))
    assert seeds.finished([CUSTOM], [1, 3]) == {CUSTOM: {3: FIGURES | {"weights": "w3"}}}
    assert seeds.here(CUSTOM) == FIGURES | {"weights": "w0"}


def changed(lock: dict, stage: str, kind: str, path: str) -> dict:
    lock = copy.deepcopy(lock)
    (entry,) = (entry for entry in lock["stages"][f"{stage}@custom"][kind] if entry["path"] == path)
    entry["md5"] = "another"
    return lock


@pytest.mark.parametrize(
    ("stage", "kind", "path"),
    [
        ("train", "deps", "data/motion/lists"),
        ("test", "deps", "src/r2plus1d/zoo"),
        ("train", "deps", "configs/custom/train.json"),
        ("test", "deps", "models/custom/model.safetensors"),  # a test of other weights than those of the training
        ("features", "outs", "data/motion/features/custom"),
        ("test", "outs", "metrics/rows/custom/test.json"),  # figures of another test
    ],
)
def test_experiment_of_other_code_data_or_weights_is_not_finished(here, params, stage, kind, path):
    experiment(here, "other", changed(lock_of(params, 3, "w3"), stage, kind, path))
    assert seeds.finished([CUSTOM], [3]) == {CUSTOM: {}}


def test_experiment_that_did_not_train_the_row_is_not_finished(here, params):
    """Its dvc.lock has the row as it was before, with the seed of params.yaml."""
    experiment(here, "seed-3-of-another-row", lock_of(params, 0, "w0"))
    experiment(here, "without", {"schema": "2.0", "stages": {}})
    assert seeds.finished([CUSTOM], [3]) == {CUSTOM: {}}


def test_configuration_of_another_seed_is_the_one_that_resolve_writes(params):
    """Also where the last layer alone is trained, whose features depend on the seed."""
    params["model"]["init"] = "torchvision"
    params["train"]["freeze"] = "all"
    zero, seven = (resolve.resolve(params | {"seed": seed}).files() for seed in (0, 7))
    for stage in seeds.CHAIN:
        name = f"custom/{stage}.json"
        assert seeds._with_seed(files.dump(zero[name]), 7) == files.dump(seven[name])


def test_identity_is_that_of_configuration_and_data_whatever_the_seed_and_the_code(here, params):
    first = seeds.identity(CUSTOM)
    other_code = changed(lock_of(params, 0, "w0"), "train", "deps", "src/r2plus1d/zoo")
    write(here.folder, other_code)
    assert seeds.identity(CUSTOM) == first
    config = here.folder / paths.row_config(CUSTOM, "train")
    config.write_text(seeds._with_seed(config.read_text(), 5))
    assert seeds.identity(CUSTOM) == first
    config.write_text(config.read_text().replace('"lr": 0.3', '"lr": 0.2'))
    assert seeds.identity(CUSTOM) != first
    write(here.folder, changed(lock_of(params, 0, "w0"), "train", "deps", "data/motion/lists"))
    assert seeds.identity(CUSTOM) != first


def test_name_of_an_experiment_changes_with_seed_rows_code_and_data(here, params):
    names = {seeds._name(seed, [CUSTOM]) for seed in (1, 1, 2)}
    write(here.folder, changed(lock_of(params, 0, "w0"), "train", "deps", "src/r2plus1d/zoo"))
    names.add(seeds._name(1, [CUSTOM]))
    assert len(names) == 3
    assert all(name.startswith(("seed-1-", "seed-2-")) for name in names)


def test_rows_are_named_in_full_or_in_short():
    names = {"a_long_name": "8x8_256p", "custom": "custom"}
    assert seeds.chosen([], names) == ["a_long_name", "custom"]
    assert seeds.chosen(["custom", "8x8_256p"], names) == ["a_long_name", "custom"]
    assert seeds.chosen(["a_long_name"], names) == ["a_long_name"]
    with pytest.raises(ConfigError, match="--rows 8x8_256: did you mean '8x8_256p'"):
        seeds.chosen(["8x8_256"], names)


def test_rows_and_data_that_no_experiment_could_train_are_refused(here, params):
    (row,) = (row for row in resolve.resolve(params).rows if row.row == CUSTOM)
    config = schema.TestedRow(**{key: getattr(row, key) for key in schema.TestedRow.model_fields})
    seeds.refuse([config])
    with pytest.raises(ConfigError, match="row custom tests finished weights"):
        seeds.refuse([config.model_copy(update={"checkpoint": "any.pth"})])
    read = {"in_place": "downloads/k/videos", "clip": config.clip.model_copy(update={"input": "video"})}
    with pytest.raises(ConfigError, match=r"datasets\.motion\.path: 'downloads/k/videos' is not in an"):
        seeds.refuse([config.model_copy(update=read)])
    mine = resolve.resolve(params | {"dataset": "folder"}).data
    write_text(paths.DATA_CONFIG, files.dump(mine))
    with pytest.raises(ConfigError, match=r"datasets\.folder\.path: 'my_videos' .* give the absolute path"):
        seeds.refuse([config])


def test_as_many_run_at_a_time_as_the_cores_hold(monkeypatch, params):
    (row,) = (row for row in resolve.resolve(params).rows if row.row == CUSTOM)
    monkeypatch.setattr(seeds, "cores", lambda: 8)
    monkeypatch.setattr(seeds.records, "read", lambda stage, row: {"machine": {"type": "cpu"}})
    assert seeds._jobs([row]) == 4  # of two threads
    two = row.model_copy(update={"runtime": row.runtime.model_copy(update={"gpus": 2})})
    assert seeds._jobs([row, two]) == 2  # of two processes
    every = row.model_copy(update={"runtime": row.runtime.model_copy(update={"threads": None})})
    assert seeds._jobs([row, every]) == 1
    monkeypatch.setattr(seeds.records, "read", lambda stage, row: {"machine": {"type": "cuda"}})
    assert seeds._jobs([row]) == 1


def refs(project: Project) -> str:
    return git(project, "for-each-ref", "refs/exps")


def written(project: Project) -> dict[str, bytes]:
    names = (SEEDS, SEEDS.with_suffix(".md"), SEEDS.with_suffix(".png"), paths.RESULTS)
    return {str(name): (project.folder / name).read_bytes() for name in names}


def until(process, words: str) -> None:
    """Reads what the command says up to these words."""
    for line in process.stdout:
        if words in line:
            return
    pytest.fail(f"the command ended without saying {words!r}")


@pytest.mark.slow
def test_seeds_go_on_after_a_kill_and_do_nothing_the_second_time(own):
    before = content(own.folder / "models")
    command = ("-m", "r2plus1d", "seeds", "--rows", CUSTOM, "--seeds", "0", "1")
    killed = own.start(*command)
    until(killed, ": running")
    killed.send_signal(signal.SIGKILL)  # DVC's worker goes on without it
    killed.wait()
    said, _ = own.start(*command).communicate(timeout=600)
    assert "| custom | " in said, said
    assert "queued as" not in said
    found = json.loads((own.folder / SEEDS).read_text())["rows"][CUSTOM]
    assert list(found["seeds"]) == ["0", "1"]
    assert found["seeds"]["0"]["weights"] != found["seeds"]["1"]["weights"]
    assert hashlib.md5((own.folder / paths.weights(CUSTOM)).read_bytes()).hexdigest() == found["seeds"]["0"]["weights"]
    assert content(own.folder / "models") == before
    assert git(own, "diff", "--stat", "--", "params.yaml") == ""
    first, known = written(own), refs(own)
    again = r2plus1d(own, *command[2:])
    assert again.returncode == 0, again.stderr
    assert "running" not in again.stdout
    assert (written(own), refs(own)) == (first, known)


@pytest.mark.slow
def test_interrupted_seeds_end_their_experiments_and_leave_those_of_the_user(own):
    said = own.start("-m", "dvc", "exp", "run", "--queue", "--name", "mine", "-S", "seed=9", "resolve").communicate()[0]
    assert "Queued experiment 'mine'" in said
    process = own.start("-m", "r2plus1d", "seeds", "--seeds", "0", "1", "2")
    until(process, "(seed-1-")
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert "interrupted; what is finished is kept, run the same command again to go on" in said
    assert process.returncode == 1
    status, _ = own.start("-m", "dvc", "queue", "status").communicate()
    states = [line.split()[-1] for line in status.splitlines() if "seed-" in line]
    assert not {"Queued", "Running"} & set(states), status
    assert "mine" in status
