"""The DVC graph against the code and the parameters: what runs again after a change, and what does not."""

import ast
import copy
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from r2plus1d.config import resolve
from r2plus1d.config.schema import CUSTOM
from r2plus1d.results import summary
from r2plus1d.results.profile import STAGES
from r2plus1d.system import paths
from tests.support import warm
from tests.support.cases import slow
from tests.support.commands import clone_of, commit_all, dvc, git, r2plus1d, ran
from tests.support.project import ROOT, Project, tiny_params

ZOO_ROW = "r2plus1d_r34_32x2x1_180e_kinetics400_rgb"
TRAINING = "src/r2plus1d/zoo/training.py"
KEPT = "the outputs are taken from the cache"
GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
NEW = {"input": "frames", "short_side": 256, "frames": 4, "frame_interval": 8}  # a row
EACH_ROW = ("extract_frames", "features", "one_frame", "train", "test", "benchmark")


def described(stage: str) -> dict:
    return GRAPH[stage].get("do", GRAPH[stage])


def change(project: Project, place: str, value: object) -> None:
    params = yaml.safe_load((project.folder / "params.yaml").read_text())
    project.set(changed(params, place, value))


def changed(params: dict, place: str, value: object) -> dict:
    """The parameters with another value at a place such as `model.frames`."""
    params = copy.deepcopy(params)
    *parents, last = place.split(".")
    section = params
    for key in parents:
        section = section[key]
    section[last] = value
    return params


# ---- Code ----


def imported(file: Path) -> Iterator[Path]:
    """The package's modules that a file imports, at its head or later."""
    for node in ast.walk(ast.parse(file.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [f"{node.module}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            place = Path(ROOT, "src", *name.split("."))
            found = [p.with_suffix(".py") for p in (place, place.parent) if p.with_suffix(".py").is_file()]
            yield from found[:1]


def reached(file: Path) -> set[Path]:
    found, waiting = set(), [file]
    while waiting:
        if (next_one := waiting.pop()) not in found:
            found.add(next_one)
            waiting += imported(next_one)
    return found


@pytest.mark.parametrize("stage", GRAPH)
def test_stage_depends_on_its_script_and_on_the_wings_of_all_code_that_it_reaches(stage):
    code = {file.relative_to(ROOT) for file in reached(ROOT / f"stages/{stage}.py")}
    wings = {str(file.parent.relative_to(".")) for file in code if file.parts[0] == "src"}
    wings = {"/".join(wing.split("/")[:3]) for wing in wings if wing != "src/r2plus1d"}
    named = {dep for dep in described(stage)["deps"] if dep.startswith(("src/", "stages/"))}
    assert named == wings | {f"stages/{stage}.py"}


def test_records_name_no_code_beyond_the_dependencies_of_their_stage(committed):
    """What was loaded in a run, by whatever way."""
    records = list(committed.folder.glob("metrics/records/*/made_by_*.json"))
    assert len(records) == 9
    for file in records:
        record = json.loads(file.read_text())
        code = [name if name.startswith("stages/") else f"src/{name}" for name in record["code"]]
        deps = described(record["stage"])["deps"]
        assert f"stages/{record['stage']}.py" in code
        assert all(any(name == dep or name.startswith(f"{dep}/") for dep in deps) for name in code)


# ---- Data ----


def at_or_below(path: str, deps: list[str]) -> bool:
    return any(path == dep or path.startswith(f"{dep}/") for dep in deps)


def test_records_name_no_input_beyond_the_dependencies_of_their_stage(committed):
    records = [json.loads(file.read_text()) for file in committed.folder.glob("metrics/records/*/made_by_*.json")]
    assert len(records) == 9
    for record in records:
        stages = [record["stage"], *(["features"] if record["stage"] == "one_frame" else [])]  # which read the same
        for stage in stages:
            names = {"${dataset}": "motion", "${key}": record["row"]}
            deps = described(stage)["deps"]
            for name, value in names.items():
                deps = [dep.replace(name, value) for dep in deps]
            inputs = {path.replace(f"/{record['stage']}.json", f"/{stage}.json") for path in record["inputs"]}
            assert inputs
            assert {path for path in inputs if not at_or_below(path, deps)} == set(), stage


@pytest.mark.parametrize(
    ("folder", "readers"),
    [
        ("data/${dataset}/videos", {"probe", "extract_frames", "build_lists", "baselines"}),
        ("data/${dataset}/features/${key}", {"train"}),
    ],
)
def test_folder_that_no_record_names_is_a_dependency_of_those_that_read_it(folder, readers):
    assert {stage for stage in GRAPH if folder in described(stage)["deps"]} == readers


OPENED = """
import os, runpy, sys
from r2plus1d.results import page, plots
page.page = lambda *_: ""  # drawing takes seconds
plots.save_figure = lambda *_: None
files = set()

def hook(event, values):
    if event == "open" and isinstance(values[0], str) and not values[2] & (os.O_WRONLY | os.O_RDWR):
        files.add(values[0])

sys.addaudithook(hook)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print(*files, sep="\\n")
"""


@pytest.mark.parametrize(("stage", "row"), [("card", ["custom"]), ("report", [])])
def test_stage_without_a_record_reads_the_figures_among_its_dependencies_and_no_others(own, stage, row):
    """But for records, which are of the very bytes that the stage depends on."""
    script = [f"stages/{stage}.py", *row]
    done = warm.run(["-c", OPENED, *script], own.folder, {**os.environ, "PYTHONPATH": str(own.folder / "src")}, 60)
    assert done.returncode == 0, done.stderr
    opened = {path for path in done.stdout.splitlines() if path.startswith("metrics/")}
    opened -= {path for path in opened if path.startswith("metrics/records/") or path.endswith(".part")}
    deps = [dep.replace("${key}", "custom") for dep in described(stage)["deps"] if dep.startswith("metrics/")]
    assert [path for path in opened if not at_or_below(path, deps)] == []
    assert [dep for dep in deps if not any(at_or_below(path, [dep]) for path in opened)] == []


def test_every_stage_that_computes_runs_again_with_other_versions():
    assert {stage for stage in GRAPH if "constraints.txt" not in described(stage)["deps"]} == {"resolve", "scan"}


# ---- Order ----


def test_every_stage_stands_after_those_that_make_what_it_reads():
    """Tests that run the stages by hand take the order of dvc.yaml."""
    made: dict[str, int] = {}
    for number, stage in enumerate(GRAPH):
        entries = [entry for kind in ("outs", "metrics", "plots") for entry in described(stage).get(kind, [])]
        made |= {entry if isinstance(entry, str) else next(iter(entry)): number for entry in entries}
    assert len(made) > 30
    for number, stage in enumerate(GRAPH):
        for dep in described(stage)["deps"]:
            makers = [n for out, n in made.items() if f"{dep}/".startswith(f"{out}/") or out.startswith(f"{dep}/")]
            assert all(maker < number for maker in makers), f"{stage} reads {dep}"


# ---- Parameters ----


def test_stages_are_told_in_the_order_of_the_pipeline():
    assert list(GRAPH) == list(STAGES)


def test_every_section_of_the_parameters_but_machine_is_tracked(params):
    assert set(GRAPH["resolve"]["params"]) == set(params) - {"machine"}


def test_every_row_of_the_parameters_is_in_the_pipeline(params):
    for name in EACH_ROW:
        assert GRAPH[name]["foreach"] == "${zoo}"
    assert CUSTOM in params["zoo"]


def run_again(before: dict, after: dict) -> set[str]:
    """The stages for which a change of the parameters makes another configuration, by row; `all` stands for all rows.

    Those that run after them, because they read what those make, are not counted.
    """
    if not {key for key in before if before[key] != after[key]} & set(GRAPH["resolve"]["params"]):
        return set()
    found = {"resolve"}
    old, new = ({f"configs/{n}": f for n, f in resolve.resolve(p).files().items()} for p in (before, after))
    files = {name for name in {**old, **new} if old.get(name) != new.get(name)}
    for stage in GRAPH:
        deps = described(stage)["deps"]
        if stage not in EACH_ROW:
            found |= {stage} if files & set(deps) or (files and "configs" in deps) else set()
            continue
        rows = [row for row in after["zoo"] if files & {dep.replace("${key}", row) for dep in deps}]
        found |= {f"{stage}@all"} if rows == list(after["zoo"]) else {f"{stage}@{row}" for row in rows}
    return found


SHARED = "scan download probe build_lists baselines report"
EACH_BUT_ONE_FRAME = "train@all test@all benchmark@all report"
EACH = f"one_frame@custom {EACH_BUT_ONE_FRAME}"
OF_CUSTOM = "train@custom test@custom benchmark@custom report"
WITH_ONE_FRAME = f"one_frame@custom {OF_CUSTOM}"
OF_ONE = f"train@{ZOO_ROW} test@{ZOO_ROW} benchmark@{ZOO_ROW} report"


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        ("dataset", "folder", f"resolve {SHARED} extract_frames@all features@all one_frame@all {EACH_BUT_ONE_FRAME}"),
        ("seed", 1, f"resolve {EACH}"),
        ("datasets.motion.source.seed", 2, f"resolve {SHARED}"),
        ("datasets.motion.source.test_seed", 2, f"resolve {SHARED}"),
        ("model.frames", 32, f"resolve {OF_CUSTOM}"),
        ("model.depth", 18, f"resolve {WITH_ONE_FRAME}"),
        ("model.short_side", 300, f"resolve extract_frames@custom {WITH_ONE_FRAME}"),
        ("model.input", "video", f"resolve extract_frames@custom {WITH_ONE_FRAME}"),
        ("train.epochs", 7, f"resolve {WITH_ONE_FRAME}"),
        ("train.freeze", 3, f"resolve {WITH_ONE_FRAME}"),
        ("test.clips", 7, "resolve test@custom report"),
        ("benchmark.clips", 7, "resolve one_frame@custom benchmark@custom report"),
        ("benchmark.videos", 7, "resolve benchmark@custom report"),
        ("runtime.threads", 3, f"resolve {EACH}"),
        ("machine.workers", 3, ""),
        ("machine.scheduler", "tcp://host:8786", ""),
        ("machine.connections", 3, ""),
        ("scale.width", 0.5, f"resolve {EACH}"),
        ("scale.resolution", 0.5, f"resolve {SHARED} extract_frames@all {EACH}"),  # of the generated videos, too
        ("datasets.motion.source.val_videos", 7, f"resolve {SHARED}"),
        ("datasets.motion.train.epochs", 7, f"resolve {EACH}"),
        ("datasets.motion.benchmark.videos", 7, "resolve benchmark@all report"),
        ("datasets.folder.train.epochs", 7, "resolve"),
        ("datasets.ucf101.source.split", 2, "resolve"),
        ("recipe.train.momentum", 0.8, f"resolve {EACH}"),
        ("recipe.test.clips", 7, "resolve test@all report"),
        ("recipe.benchmark.clips", 7, "resolve one_frame@custom benchmark@all report"),
        (f"zoo.{ZOO_ROW}.frames", 16, f"resolve {OF_ONE}"),
        (f"zoo.{ZOO_ROW}.short_side", 300, f"resolve extract_frames@{ZOO_ROW} {OF_ONE}"),
        (
            "zoo.mine",
            NEW,
            f"resolve {' '.join(f'{stage}@mine' for stage in EACH_ROW)} report",
        ),
    ],
)
def test_changed_parameter_runs_the_stages_that_read_it_and_no_others(params, place, value, expected):
    assert run_again(params, changed(params, place, value)) == set(expected.split())


def test_other_limit_runs_the_stages_of_the_data_alone(params):
    params = changed(params, "dataset", "ucf101")
    assert run_again(params, changed(params, "limit.classes", 3)) == {"resolve", *SHARED.split()}


def test_limit_of_a_dataset_that_is_not_in_use_is_refused(params):
    with pytest.raises(resolve.ConfigError, match="limit"):
        resolve.resolve(changed(params, "limit.classes", 3))


@pytest.mark.slow
def test_other_number_of_test_clips_makes_dvc_test_the_row_and_report_it_alone(own):
    change(own, "test.clips", 2)
    assert ran(dvc(own, "repro")) == ["resolve", "test@custom", "card@custom", "report"]


@pytest.mark.slow
def test_changed_comment_is_named_by_dvc_and_gives_all_outputs_back(own):
    before = own.results()
    with open(own.folder / TRAINING, "a") as file:
        file.write("# a remark\n")
    status = json.loads(dvc(own, "status", "--json"))
    of_row = {f"{stage}@custom" for stage in ("features", "one_frame", "train", "test", "benchmark")}
    assert set(status) == {"baselines", *of_row}
    took = own.folder / paths.seconds("train", "custom")
    seconds = took.read_bytes()
    said = dvc(own, "repro")
    assert sorted(ran(said)) == sorted(status)
    assert took.read_bytes() == seconds, "the profile is of the run that made the weights"
    assert said.count(KEPT) == len(status) - 1  # all but `features`, which has nothing to give back here
    assert own.results() == before
    assert git(own, "status", "--porcelain").splitlines() == ["M dvc.lock", f" M {TRAINING}"]


def test_changed_statement_trains_again(own):
    with open(own.folder / TRAINING, "a") as file:
        file.write("MORE = 1\n")
    said = dvc(own, "repro", "--single-item", "train@custom")
    assert KEPT not in said
    assert "Epoch(val) [1]" in said


@pytest.mark.parametrize(
    ("stage", "words"),
    [("probe", "36 of 36 videos can be read"), slow("train@custom", "Epoch(val) [1]")],
)
def test_force_makes_everything_again(own, stage, words):
    said = dvc(own, "repro", "--single-item", "--force", stage)
    assert KEPT not in said
    assert words in said


def test_result_of_older_code_is_never_given_back(own):
    """Other code was run by hand, or DVC was ended before it noted the run: the record is newer than DVC's outputs."""
    probe = own.folder / "src/r2plus1d/video/probe.py"
    probe.write_text(probe.read_text().replace("Probed(*row)", "Probed(*row[:3], 7, 25.0)"))
    own.must("probe")
    said = dvc(own, "repro", "--single-item", "probe")
    assert KEPT not in said
    lines = (own.folder / paths.probe("motion")).read_text().splitlines()
    assert {line.split(",")[3] for line in lines} == {"width", "7"}


def test_everything_is_made_again_where_that_is_asked_for(own):
    with open(own.folder / "src/r2plus1d/video/probe.py", "a") as file:
        file.write("# a remark\n")
    assert KEPT not in dvc(own, "repro", "--single-item", "--force", "probe", R2PLUS1D_AGAIN="1")


def test_configuration_stays_where_params_cannot_be_resolved_and_goes_with_its_row(own):
    """So that a trained row is still shown videos as before."""
    configs = {path: path.read_bytes() for path in (own.folder / "configs").rglob("*.json")}
    before = (own.folder / "params.yaml").read_text()
    change(own, "dataset", "foldr")
    with pytest.raises(AssertionError, match="did you mean 'folder'"):
        dvc(own, "repro", "resolve")
    assert {path: path.read_bytes() for path in (own.folder / "configs").rglob("*.json")} == configs
    (own.folder / "params.yaml").write_text(before)
    change(own, "zoo.mine", NEW)
    dvc(own, "repro", "resolve")
    assert (own.folder / "configs" / "mine").is_dir()
    (own.folder / "params.yaml").write_text(before)
    dvc(own, "repro", "resolve")
    assert {path: path.read_bytes() for path in (own.folder / "configs").rglob("*") if path.is_file()} == configs
    assert not (own.folder / "configs" / "mine").exists()


def test_new_entry_of_the_zoo_gets_its_stages_and_its_place_in_tables_and_summary(own):
    change(own, "zoo.mine", NEW)
    listed = dvc(own, "stage", "list", "--all", "--name-only").split()
    assert {f"{stage}@mine" for stage in EACH_ROW} <= set(listed)
    own.must("resolve")
    shutil.copytree(own.folder / "metrics/rows/custom", own.folder / "metrics/rows/mine")
    own.must("report")
    for document, lines in ((paths.REPORT / "measured.md", 1), (paths.REPORT / "details.md", 2)):
        table = (own.folder / document).read_text()
        assert sum(line.startswith("| 4x8_256p |") for line in table.splitlines()) == lines
    assert (own.folder / paths.REPORT / "measured.md").read_text() in (own.folder / paths.README).read_text()
    assert "4x8_256p" in json.loads((own.folder / paths.SUMMARY).read_text())
    assert (own.folder / paths.REPORT / "confusion_mine.png").is_file()


def test_file_among_the_users_own_videos_is_looked_at_and_brings_no_other_dataset_again(own):
    (own.folder / "my_videos" / "a").mkdir()
    (own.folder / "my_videos" / "a" / "x.mp4").write_bytes(b"x")
    said = dvc(own, "repro")
    assert ran(said) == ["scan"]
    assert "Stage 'download' didn't change, skipping" in said


@pytest.mark.slow
def test_pipeline_in_a_fresh_clone_leaves_git_nothing_to_say(committed, tmp_path):
    """Without a cache all is made again: the same bytes, and the committed records and timings stay as they were."""
    clone = clone_of(committed, tmp_path / "clone")
    assert ran(dvc(clone, "repro")) == [
        "resolve",
        "scan",
        "download",
        "probe",
        "extract_frames@custom",
        "build_lists",
        "features@custom",
        "train@custom",
        "test@custom",
    ]
    assert git(clone, "status", "--porcelain") == ""
    assert clone.results() == committed.results()


# ---- The published figures ----


def test_published_rows_are_those_of_the_zoo(params):
    published = json.loads((ROOT / paths.PUBLISHED).read_text())["rows"]
    assert published.keys() < params["zoo"].keys()
    assert [row["top1"] for row in published.values()] == [67.30, 67.3, 68.68, 74.60]


@pytest.fixture
def cloned(tmp_path) -> Project:
    """A clone of the code in which nothing was made."""
    project = Project(tmp_path / "project", tiny_params())
    git(project, "init", "--quiet")
    commit_all(project)
    return project


def test_tag_with_the_published_figures_repeats_and_leaves_the_clone_as_it_is(cloned):
    before = git(cloned, "rev-parse", "HEAD")
    commits = set()
    for timezone in ("UTC", "Asia/Tokyo"):
        environment = {"TZ": timezone, "GIT_AUTHOR_NAME": "Somebody Else", "PYTHONDONTWRITEBYTECODE": "1"}
        done = r2plus1d(cloned, "published", **environment)
        assert done.returncode == 0, done.stderr
        commits.add(git(cloned, "rev-parse", "published"))
    assert len(commits) == 1
    assert (git(cloned, "rev-parse", "HEAD"), git(cloned, "status", "--porcelain")) == (before, "")
    figures = json.loads(git(cloned, "show", f"published:{paths.SUMMARY}"))
    assert (figures["dataset"], figures["videos"]) == ("kinetics400", 19796)
    assert figures["32x2_320p"] == {"top1": 74.6, "top5": 91.59, "video_s": 0.5, "mib": 12975}


def test_difference_to_the_published_figures_is_short_and_names_the_dataset(cloned, params):
    published = json.loads((ROOT / paths.PUBLISHED).read_text())
    params["zoo"] = {row: params["zoo"][row] for row in (*published["rows"], CUSTOM)}
    names = summary.short_names(resolve.resolve(params).rows, published)
    figures = {"dataset": "motion", "videos": 144}
    figures |= {name: dict.fromkeys(summary.FIGURES, 12.34) for name in names.values()}
    (cloned.folder / paths.SUMMARY).write_text(json.dumps(figures))
    dvc(cloned, "init", "--quiet")
    assert r2plus1d(cloned, "published").returncode == 0
    lines = dvc(cloned, "metrics", "diff", "published").splitlines()
    assert len(lines) <= 40
    (dataset,) = (line.split() for line in lines if " dataset " in line)
    assert {"kinetics400", "motion"} <= set(dataset)
    assert len([line for line in lines if ".top1 " in line]) == len(names)


def test_missing_git_clone_is_told_in_one_line(tmp_path):
    project = Project(tmp_path / "project", tiny_params())
    failed = r2plus1d(project, "published", GIT_CEILING_DIRECTORIES=str(tmp_path))
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: git rev-parse failed; this needs a git clone")
    assert len(failed.stderr.splitlines()) == 1
