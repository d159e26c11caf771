"""The records of the stages' seconds, and their table."""

import json
import re

import pytest

from r2plus1d.results import profile
from r2plus1d.system import paths, timing


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths.RESULTS.parent.mkdir()
    (paths.CONFIGS / "custom").mkdir(parents=True)
    paths.RESULTS.write_text("before\n<!-- profile -->\n<!-- /profile -->\nafter\n")
    return tmp_path


def record(stage: str, began: float, seconds: float, row: str | None = None) -> None:
    entry = {"stage": stage, "row": row, "began": began, "seconds": seconds, "start": 1.0, "reading": 2.0}
    path = paths.seconds(stage, row)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entry | {"processor": "CPU", "cores": 2}))


def seconds(table: str) -> list[tuple[str, str]]:
    return re.findall(r"^\| ([^|]+) \| [^|]* \| ([0-9.]+) \|", table, re.MULTILINE)


def test_stage_that_was_skipped_keeps_its_seconds(folder):
    record("train", 100.0, 10.0, "custom")
    record("resolve", 98.0, 1.5)
    first = profile.profile()
    assert seconds(first) == [
        ("resolve", "1.5"),
        ("train", "10.0"),
        (profile.BETWEEN, "0.5"),
        ("all", "12.0"),
    ]
    assert "began" not in paths.PROFILE.read_text(), "a time of day, which never repeats"
    for path in folder.glob("logs/seconds/*"):
        path.unlink()
    record("train", 300.0, 8.0, "custom")
    assert "not run here" not in first
    later = profile.profile()
    assert seconds(later) == [("resolve", "1.5"), ("train", "8.0"), ("all", "9.5")]
    assert "Stages that have not run here keep the seconds of the committed table." in later
    assert paths.RESULTS.read_text().startswith("before\n<!-- profile -->\n\n| stage |")


def test_table_stays_as_it_is_where_nothing_has_run(folder):
    record("resolve", 98.0, 1.5)
    record("train", 100.0, 10.0, "custom")
    profile.profile()
    before = [path.read_bytes() for path in (paths.PROFILE, paths.RESULTS)]
    for path in folder.glob("logs/seconds/*"):
        path.unlink()
    shown = profile.profile()
    assert (profile.BETWEEN, "0.5") in seconds(shown)
    assert "Nothing has run here yet" in shown
    assert [path.read_bytes() for path in (paths.PROFILE, paths.RESULTS)] == before


def test_row_that_is_gone_leaves_the_table(folder):
    record("train", 100.0, 10.0, "custom")
    record("train", 120.0, 10.0, "gone")
    (paths.CONFIGS / "gone").mkdir()
    assert len(seconds(profile.profile())) == 4
    (paths.CONFIGS / "gone").rmdir()
    assert len(seconds(profile.profile())) == 2


def test_stages_of_different_hours_are_told_from_one_run(folder):
    record("resolve", 0.0, 1.0)
    record("report", 3600.0, 1.0)
    assert profile.BETWEEN not in profile.profile()


def test_profile_without_a_record_names_the_way_out(folder):
    with pytest.raises(profile.ProfileError, match="run `dvc repro`"):
        profile.profile()


def test_finished_stage_alone_is_recorded_with_its_waiting(folder, monkeypatch):
    monkeypatch.setattr(timing, "_spent", timing.collections.Counter())
    with pytest.raises(ZeroDivisionError), timing.recorded("train", "custom"):
        raise ZeroDivisionError
    assert not paths.seconds("train", "custom").exists()
    with timing.recorded("train", "custom"):
        assert list(timing.reading(range(3))) == [0, 1, 2]
    found = json.loads(paths.seconds("train", "custom").read_text())
    assert 0 < found["reading"] < found["seconds"]
    assert 0 < found["start"] <= found["seconds"]
