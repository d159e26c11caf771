"""Extraction on a Dask cluster: the same bytes as here, whatever becomes of its workers."""

import os
import signal
import threading
import time

import dask
import distributed
import pytest

from r2plus1d.system import pool
from r2plus1d.system.files import replacing, write_json
from r2plus1d.video import extraction, groups, probe, shards
from r2plus1d.video.groups import Listed, Machines
from tests.support.cluster import local_cluster
from tests.support.project import content

SHARDS = 16
COUNTS = {f"{number:02d}.mp4": 40 for number in range(SHARDS)}


@pytest.fixture(scope="module")
def cluster():
    """Two worker processes."""
    with local_cluster(2) as cluster:
        yield cluster


@pytest.fixture
def videos(tmp_path, clip_path, monkeypatch):
    """As many shards as videos, each long enough to be interrupted."""
    monkeypatch.setattr(groups, "VIDEOS_PER_GROUP", 1)
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(SHARDS):
        (folder / f"{number:02d}.mp4").write_bytes(clip_path.read_bytes())
    return folder


def extract(videos, out, scheduler=None):
    listed = [Listed(file.name) for file in videos.iterdir()]
    extraction.extract(videos, listed, COUNTS, 256, out / "work", out / "frames", Machines(0, scheduler))


@pytest.mark.slow
def test_extraction_gives_the_same_bytes_after_a_worker_is_killed(cluster, videos, tmp_path, monkeypatch):
    extract(videos, tmp_path / "here")
    killed = []

    def kill_one():
        with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
            pids = client.run(os.getpid)
            while not list((tmp_path / "there").glob("work.notes/*")):
                time.sleep(0.005)
            os.kill(next(iter(pids.values())), signal.SIGKILL)
            killed.append(len(list((tmp_path / "there").glob("work.notes/*"))))

    thread = threading.Thread(target=kill_one)
    thread.start()
    monkeypatch.chdir(tmp_path)  # not the folder that the workers started in
    extract(videos.relative_to(tmp_path), tmp_path / "there", cluster.scheduler_address)
    thread.join()
    assert 1 <= killed[0] < SHARDS - 1, "the extraction ended before the worker could be killed"
    assert content(tmp_path / "there" / "frames") == content(tmp_path / "here" / "frames")
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["frames"]


@pytest.mark.slow
def test_worker_that_runs_other_code_is_refused(cluster, videos, tmp_path, monkeypatch):
    monkeypatch.setattr(groups, "CODE", "another")
    with pytest.raises(groups.MachineError, match="start the workers again"):
        extract(videos, tmp_path, cluster.scheduler_address)
    assert not (tmp_path / "frames").exists()
    with pytest.raises(groups.MachineError, match="start the workers again"):
        probe.probe(videos, [Listed("00.mp4")], tmp_path / "looking", Machines(0, cluster.scheduler_address))


def test_cluster_finds_in_videos_what_this_machine_does(cluster, videos, tmp_path):
    (videos / "00.mp4").write_bytes(b"no video")
    listed = [Listed(file.name) for file in videos.iterdir()]
    here = probe.probe(videos, listed, tmp_path / "here", Machines(0))
    there = probe.probe(videos, listed, tmp_path / "there", Machines(0, cluster.scheduler_address))
    assert here == there
    assert [row.path for row in here[2]] == ["00.mp4"]
    assert [row.path for row in here[1]] == [row.path for row in here[0]]
    assert len(here[0]) == SHARDS - 1


def test_worker_without_the_package_is_told_with_the_way_out(cluster, monkeypatch):
    monkeypatch.setattr(pool, "__name__", "no_such_package")
    with pytest.raises(pool.ClusterError, match="in this project's environment"):
        list(pool.spread(len, ["task"], 0, cluster.scheduler_address))


def test_machine_outside_the_shared_folder_is_refused(tmp_path):
    tasks = {"do": print, "complete": print, "work": tmp_path / "elsewhere", "asked": groups.CODE}
    with pytest.raises(groups.MachineError, match="must share the project's folder"):
        groups._one((0, [Listed("a.mp4")]), **tasks)
    assert not (tmp_path / "elsewhere").exists()


def test_note_without_its_shard_counts_for_nothing(videos, tmp_path):
    """As a worker leaves it that was taken for lost and ends after the frames were moved to their place."""
    write_json(groups._note(tmp_path / "work", 0), [])
    extract(videos, tmp_path)
    assert "00.mp4" in shards.read_index(tmp_path / "frames").index


def test_two_machines_that_write_one_file_use_partial_names_of_their_own(tmp_path):
    shard = tmp_path / "shard.tar"
    with replacing(shard, rivals=True) as one, replacing(shard, rivals=True) as other:
        assert one != other
        one.touch()
        other.touch()
    assert [path.name for path in tmp_path.iterdir()] == ["shard.tar"]


def test_address_without_a_scheduler_is_named_with_the_way_out():
    with dask.config.set({"distributed.comm.timeouts.connect": "0.2s"}), pytest.raises(pool.ClusterError) as error:
        list(pool.spread(len, ["task"], 0, "tcp://127.0.0.1:1"))
    assert "scheduler tcp://127.0.0.1:1" in str(error.value)
    assert "start `dask scheduler` there" in str(error.value)
