"""Decoding in a process of its own: a decoder that crashes, hangs or grows costs one video and nothing else."""

import errno
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from r2plus1d.datasets import motion
from r2plus1d.datasets.encode import write_h264
from r2plus1d.system.errors import explained
from r2plus1d.video import extraction, groups, probe, sandbox, shards
from r2plus1d.video.decoding import VideoError, decode
from r2plus1d.video.groups import Listed, Machines
from tests.support.cases import slow
from tests.support.cluster import local_cluster
from tests.support.project import ROOT

# Put before everything else in the process that decodes, by Python's own way in: the files' names say what happens.
FAULTS = """
import sys
if "r2plus1d.video.sandbox" in sys.orig_argv:
    import ctypes, os, signal, time
    import numpy as np
    from r2plus1d.video import decoding

    def fail(path):
        if path.stem == "segfault":
            ctypes.string_at(8)
        elif path.stem == "abort":
            os.abort()
        elif path.stem == "status":
            os._exit(3)
        elif path.stem == "bug":
            raise RuntimeError("nobody thought of this")
        elif path.stem == "hang":
            time.sleep(1000)
        elif path.stem == "spin":
            while True:
                pass
        elif path.stem == "eat":
            hoard = []
            while True:
                hoard.append(np.empty(2**28, np.uint8))
        elif path.stem == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif path.stem == "kill_once" and not path.with_suffix(".tried").exists():
            path.with_suffix(".tried").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def failing(true):
        def decode(path):
            for number, image in enumerate(true(path)):
                yield image
                if number == (0 if path.stem == "spin" else 2):
                    fail(path)
        return decode

    decoding.decode, decoding.measured = failing(decoding.decode), failing(decoding.measured)
    if os.environ.get("SHORT_BUDGET"):
        process_time = time.process_time
        time.process_time = lambda: process_time() - 59
    if name := os.environ.get("REFUSED_LIMIT"):
        import resource
        set_limit = resource.setrlimit

        def refuse(kind, limits):
            if kind == getattr(resource, name):
                raise ValueError("current limit exceeds maximum limit")  # as on macOS
            set_limit(kind, limits)
        resource.setrlimit = refuse
"""
REASONS = {
    "segfault": r"the decoder crashed \(SIGSEGV\)",
    "abort": r"the decoder crashed \(SIGABRT\)",
    "status": r"the decoder crashed \(exit status 3\)",
    "bug": r"the decoder crashed \(exit status (1|120)\)",  # 120: where it may not write to the file that stderr is
    "eat": "more than 4 GiB of memory",
    "spin": "more than 60 s and 1 s a frame of processor time",
    "hang": "the decoder hangs: nothing came for 0.05 minutes",
}


@pytest.fixture(autouse=True)
def _own_process():
    """What another test left would not see the faults, and the other way round."""
    sandbox._own.__dict__.clear()
    yield
    sandbox._own.__dict__.clear()


@pytest.fixture
def faulty(tmp_path, clip_path, monkeypatch):
    """A folder with healthy videos and a function that adds one with a fault."""
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults" / "sitecustomize.py").write_text(FAULTS)
    src = str(ROOT / "src")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "faults"), src]))
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a", "f", "z"):
        shutil.copy(clip_path, folder / f"{name}.mp4")

    def add(name: str) -> Path:
        return Path(shutil.copy(clip_path, folder / f"{name}.mp4"))

    return add


@pytest.mark.parametrize("fault", [slow(fault) if fault in ("spin", "hang") else fault for fault in REASONS])
def test_fault_of_the_decoder_costs_one_video_and_has_its_reason(fault, faulty, clip_path, monkeypatch):
    monkeypatch.setattr(sandbox, "SILENCE", 3 if fault == "hang" else 60)
    if fault == "spin":
        monkeypatch.setenv("SHORT_BUDGET", "1")
    path = faulty(fault)
    with pytest.raises(VideoError, match=REASONS[fault]):
        list(sandbox.decode(path))
    with pytest.raises(VideoError, match=REASONS[fault]):
        sandbox.measure(path)
    np.testing.assert_array_equal(copied(clip_path), list(decode(clip_path)))


def copied(path: Path) -> list[np.ndarray]:
    return [image.copy() for image in sandbox.decode(path)]


@pytest.mark.parametrize("workers", [0, slow(2), slow("cluster")])
def test_crash_leaves_the_neighbours_their_bytes_and_the_extraction_running(workers, faulty, tmp_path, monkeypatch):
    monkeypatch.setattr(groups, "VIDEOS_PER_GROUP", 4)
    folder = faulty("segfault").parent
    healthy = packed(["a.mp4", "f.mp4", "z.mp4"], folder, tmp_path / "healthy", Machines(0))[0]
    for fault in ("abort", "eat", "kill_once"):
        faulty(fault)
    names = sorted(path.name for path in folder.glob("*.mp4"))
    if workers == "cluster":
        with local_cluster(1, threads=2) as cluster:
            found, aside = packed(names, folder, tmp_path / "all", Machines(0, cluster.scheduler_address))
    else:
        found, aside = packed(names, folder, tmp_path / "all", Machines(workers))
    assert sorted(aside) == ["abort.mp4", "eat.mp4", "segfault.mp4"]
    assert "SIGSEGV" in aside["segfault.mp4"]
    assert {name: found[name] for name in healthy} == healthy
    assert {name.split("/")[0] for name in found} == {"a.mp4", "f.mp4", "kill_once.mp4", "z.mp4"}


def packed(names, folder, out, machines) -> tuple[dict[str, str], dict[str, str]]:
    """(SHA-256 of every packed JPEG by its name, reasons of the videos set aside)"""
    listed = [Listed(name) for name in names]
    readable, _, aside = probe.probe(folder, listed, out / "looking", machines)
    counts = {row.path: row.frames for row in readable}
    extraction.extract(folder, listed, counts, 32, out / "work", out / "frames", machines)
    found = {}
    for shard in sorted((out / "frames").glob("*.tar")):
        with tarfile.open(shard) as tar:
            found |= {m.name: hashlib.sha256(tar.extractfile(m).read()).hexdigest() for m in tar}
    assert sorted(shards.read_index(out / "frames").index) == sorted({n.split("/")[0] for n in found})
    return found, dict(aside)


def test_decoder_killed_by_hand_once_costs_no_video(faulty, clip_path):
    path = faulty("kill_once")
    np.testing.assert_array_equal(copied(path), list(decode(clip_path)))
    assert path.with_suffix(".tried").exists()


def test_machine_out_of_memory_stops_the_run_and_sets_no_video_aside(faulty):
    """Its killer is not to be told from a person; a video cannot end its decoder so."""
    with pytest.raises(sandbox.DecoderError, match=r"kill\.mp4: .*killed 2 times \(SIGKILL\)"):
        list(sandbox.decode(faulty("kill")))


def test_decoder_ends_with_the_process_that_asked(faulty, tmp_path):
    code = (
        "import sys, pathlib\nfrom r2plus1d.video import sandbox\n"
        "for number, _ in enumerate(sandbox.decode(pathlib.Path(sys.argv[1]))):\n"
        "    if number == 0:\n        print(sandbox._own.process._popen.pid, flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(faulty("hang"))], stdout=subprocess.PIPE, text=True
    ) as asking:
        child = psutil.Process(int(asking.stdout.readline()))
        asking.kill()
    psutil.wait_procs([child], timeout=20)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_decoder_is_silent_at_ctrl_c(faulty):
    code = (  # and leaves the decoder time to print
        "import sys, pathlib, time\nfrom r2plus1d.video import sandbox\n"
        "try:\n    for image in sandbox.decode(pathlib.Path(sys.argv[1])):\n        print('frame', flush=True)\n"
        "except KeyboardInterrupt:\n    time.sleep(1)\n    sys.exit('interrupted')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(faulty("hang"))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as asking:
        for _ in range(3):
            asking.stdout.readline()
        time.sleep(0.2)
        os.killpg(asking.pid, signal.SIGINT)
        assert asking.communicate(timeout=20)[1] == "interrupted\n"


def test_video_left_half_decoded_leaves_the_next_as_it_is(clip_path, tmp_path):
    images = sandbox.decode(clip_path)
    for _ in range(6):
        next(images)
    np.testing.assert_array_equal(copied(clip_path), list(decode(clip_path)))


def test_frames_of_two_sizes_come_whole_from_one_decoder(clip_path, tmp_path):
    other = tmp_path / "other.mp4"
    write_h264(other, motion.render(0, 0, 2, 0, 48)[:7], motion.FPS)
    process = None
    for path in (clip_path, other, clip_path, other):
        np.testing.assert_array_equal(copied(path), list(decode(path)))
        process = process or sandbox._own.process
        assert sandbox._own.process is process


def test_memory_of_large_frames_is_given_back(clip_path, monkeypatch):
    monkeypatch.setattr(sandbox, "KEPT", 0)
    images = sandbox.decode(clip_path)
    first = next(images)
    assert first.any()
    for _ in images:
        pass
    assert not first.any(), "its pages are still there"


def test_decoder_runs_under_limits(clip_path):
    images = sandbox.decode(clip_path)
    next(images)
    process = psutil.Process(sandbox._own.process._popen.pid)
    assert process.rlimit(resource.RLIMIT_AS)[0] == sandbox.MEMORY + sandbox.SHARED
    assert process.rlimit(resource.RLIMIT_CORE)[0] == process.rlimit(resource.RLIMIT_FSIZE)[0] == 0
    assert 60 <= process.rlimit(resource.RLIMIT_CPU)[0] <= 60 + 40 + 5


def test_decoder_that_fails_to_start_is_an_error_of_its_own(clip_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(sandbox.DecoderError, match="does not start"):
        list(sandbox.decode(clip_path))


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_CPU"])
def test_system_that_forbids_the_limits_is_named_and_sets_no_video_aside(limit, faulty, monkeypatch):
    monkeypatch.setenv("REFUSED_LIMIT", limit)
    with pytest.raises(sandbox.DecoderError, match=rf"\({limit}: current limit .* Linux on x86-64 is supported"):
        list(sandbox.decode(faulty("plain")))


def test_limit_of_memory_that_is_too_low_is_named(clip_path):
    code = (
        "import pathlib, resource, sys\nfrom r2plus1d.video import sandbox\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))\n"
        "try:\n    list(sandbox.decode(pathlib.Path(sys.argv[1])))\n"
        "except sandbox.DecoderError as error:\n    print(error)\n"
    )
    found = subprocess.run([sys.executable, "-c", code, str(clip_path)], capture_output=True, text=True, check=True)
    assert found.stdout == "`ulimit -v` is 4194304; decoding needs at least 5767168\n"


def test_fault_of_the_machine_is_none_of_the_video(clip_path, monkeypatch):
    """Else the video would be set aside for good."""
    assert sandbox.measure(clip_path).frames == 40
    limits = resource.prlimit(sandbox._own.process._popen.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(sandbox._own.process._popen.pid, resource.RLIMIT_NOFILE, (0, limits[1]))
    with pytest.raises(OSError, match="Too many open files") as error:
        probe._look(0, [Listed(clip_path.name)], clip_path.parent)
    assert (error.value.errno, error.value.filename) == (errno.EMFILE, str(clip_path))
    assert "raise the limit of open files" in str(explained(error.value))
    resource.prlimit(sandbox._own.process._popen.pid, resource.RLIMIT_NOFILE, limits)
    assert sandbox.measure(clip_path).frames == 40

    def failing(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(groups, "sha256", failing)
    with pytest.raises(OSError, match="Input/output"):
        groups.check_content(clip_path, Listed(clip_path.name, "0" * 64))
