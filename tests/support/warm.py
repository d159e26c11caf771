"""Python processes that begin with torch and the like imported, which takes a stage two to three seconds by itself.

`run` is `subprocess.run` for Python, and `python` is a `python` for PATH, which DVC calls for its stages. Behind
pytest's processes stands one that has imported the packages, but nothing of this project, and has computed
nothing. It forks; the fork takes the folder, the variables, the standard files and the command of the call, and gets
the signals that end it. Its parent, group and session are those of the forking process, and two calls share what
packages do when they are imported, and the seed of Python's hashes. A call from the leader of a session, with options
of Python, or with other variables that are read at a start (READ_BEFORE) gets a fresh process. Tests of how a process
starts, is ended or ends by itself use `subprocess`.
"""

import atexit
import contextlib
import fcntl
import functools
import gc
import importlib
import io
import json
import multiprocessing.process
import os
import runpy
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

PACKAGES = ("av", "cv2", "dvc.commands.repro", "dvc.commands.status", "dvclive", "jinja2", "markdown_it")
PACKAGES += ("matplotlib.figure", "numpy", "pandas", "pydantic", "requests", "ruamel.yaml", "safetensors.torch")
PACKAGES += ("scipy.stats", "simplejpeg", "torch", "torch._dynamo", "tqdm")
# The beginnings of the names of variables that Python, the C library or a package reads when it is loaded.
READ_BEFORE = ("PYTHON", "LC_", "LANG", "TZ", "LD_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "ATEN_", "ONEDNN_")
READ_BEFORE += ("TORCH", "TRITON_", "MPL")
READ_LATER = ("PYTHONPATH", "TORCH_HOME")
LONGEST = 2**20  # bytes of a call


class Warm:
    """The process that forks, begun by the first call of pytest's processes, and the folder with the `python` that asks
    it."""

    @functools.cached_property
    def folder(self) -> Path:
        run = os.environ.get("PYTEST_XDIST_TESTRUNUID")  # which processes of one run of pytest have in common
        folder = Path(tempfile.gettempdir(), f"warm-{run or uuid.uuid4().hex}")
        folder.mkdir(mode=0o700, exist_ok=True)
        with open(folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "python").exists():
                self._start(folder, os.getpid() if run is None else os.getppid())
        return folder

    def python(self) -> Path:
        """A `python` for PATH, in a folder of its own."""
        return self.folder / "python"

    def run(
        self, words: list[str], cwd: str | Path, env: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess:
        """What `python *words` prints, and its exit status: a script, or -m or -c and what stands behind it."""
        command = [str(self.python()), *words]
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:  # a pipe ends with the last who holds it
            files = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
            try:
                status = subprocess.run(command, cwd=cwd, env=env, timeout=timeout, check=False, **files).returncode
            except subprocess.TimeoutExpired:
                raise subprocess.TimeoutExpired(words, timeout, _text(out), _text(err)) from None
            return subprocess.CompletedProcess(words, status, _text(out), _text(err))

    def _start(self, folder: Path, served: int) -> None:
        """The forking process ends, and removes the folder, after the process `served`."""
        address, python = folder / "address", folder / "python"
        ask = [sys.executable, "-IS", str(Path(__file__).with_name("ask.py")), str(address)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(address))
        listener.listen(64)
        end = os.pidfd_open(served)
        command = [sys.executable, __file__, str(end), str(listener.fileno()), str(python)]
        files = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "pass_fds": [end, listener.fileno()]}
        with listener:
            subprocess.Popen(command, env=environment, start_new_session=True, **files)
        os.close(end)
        python.write_text(f'#!/bin/sh\nexec {shlex.join(ask)} "$@"\n')
        python.chmod(0o755)


_warm = Warm()
run, python = _warm.run, _warm.python


def _text(file) -> str:
    file.seek(0)
    return io.TextIOWrapper(io.BytesIO(file.read())).read()


def _read_before(env: Mapping[str, str]) -> dict[str, str]:
    return {name: env[name] for name in env if name.startswith(READ_BEFORE) and name not in READ_LATER}


class Forking:
    """What the process does that forks."""

    def __init__(self, served: int, listener: socket.socket):
        self.listener, self.variables = listener, _read_before(os.environ)
        self.selector = selectors.DefaultSelector()
        self.selector.register(served, selectors.EVENT_READ, self._left)
        self.selector.register(listener, selectors.EVENT_READ, self._accept)
        self.asked: tuple[list[str], str, dict[str, str]] | None = None
        self.over = False

    def serve(self) -> tuple[list[str], str, dict[str, str]] | None:
        """None once nobody is left who calls; in a fork: its call."""
        while not self.over and self.asked is None:
            for key, _ in self.selector.select():
                if self.selector.get_map().get(key.fd) is key:  # not ended by another of these
                    key.data()
                if self.asked is not None:
                    break
        return self.asked

    def _left(self) -> None:
        self.over = True

    def _accept(self) -> None:
        channel, _ = self.listener.accept()
        call, files, *_ = socket.recv_fds(channel, LONGEST, 3)
        asked = json.loads(call) if call else None
        if asked is None or not self._can(*asked):
            channel.close()
        elif (pid := os.fork()) == 0:
            self._take(channel, files)
            self.asked = asked
            return
        else:
            end = os.pidfd_open(pid)
            self.selector.register(end, selectors.EVENT_READ, lambda: self._ended(pid, end, channel))
            self.selector.register(channel, selectors.EVENT_READ, lambda: self._forsaken(end, channel))
            with contextlib.suppress(OSError):  # the caller is gone: see _forsaken
                channel.send(str(pid).encode())
        for file in files:
            os.close(file)

    def _can(self, words: list[str], _: str, env: dict[str, str]) -> bool:
        """Whether a fork is what a fresh process would be."""
        plain = words and (not words[0].startswith("-") or words[0] in ("-m", "-c"))
        return bool(plain) and _read_before(env) == self.variables

    def _take(self, channel: socket.socket, files: list[int]) -> None:
        """In a fork: the files of the call, and none of those of this process."""
        others = [key.fileobj for key in self.selector.get_map().values()]
        self.selector.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
        for file in (channel, *others, *files):
            if isinstance(file, socket.socket):
                file.close()
            else:
                os.close(file)

    def _forsaken(self, end: int, channel: socket.socket) -> None:
        """Who called was killed, and so is its fork."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(end, signal.SIGKILL)
        self.selector.unregister(channel)

    def _ended(self, pid: int, end: int, channel: socket.socket) -> None:
        self.selector.unregister(end)
        os.close(end)
        status = os.waitpid(pid, 0)[1]
        if channel in self.selector.get_map():
            self.selector.unregister(channel)
            with contextlib.suppress(OSError):
                channel.send(str(status).encode())
        channel.close()


def become(python: str, words: list[str], cwd: str, env: dict[str, str]) -> None:
    """Runs what `python *words` runs, in this process."""
    os.environ.clear()
    os.environ.update(env)
    sys.modules["numpy"].random.seed()  # forks would draw the same; `random` sees to it by itself
    os.chdir(cwd)
    multiprocessing.process.ORIGINAL_DIR = cwd
    tempfile.tempdir = None  # which is in the variables, too
    sys.executable = python
    sys.orig_argv = [python, *words]
    places = [place for place in env.get("PYTHONPATH", "").split(":") if place]
    sys.path[:1] = [str(Path(words[0]).resolve().parent) if words[0][0] != "-" else cwd, *places]
    for place in places:
        if (site := Path(place, "sitecustomize.py")).is_file():
            runpy.run_path(str(site))
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = list(words)
        runpy.run_path(words[0], run_name="__main__")


def end(error: BaseException | None) -> NoReturn:
    """As Python does, without taking all that was imported apart first, which takes half a second."""
    status = 0
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if not isinstance(error.code, int | None):
            print(error.code, file=sys.stderr)
    elif error is not None:
        status = 1
        traceback.print_exception(error)
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if isinstance(error, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status)


if __name__ == "__main__":
    served, listener, shown = sys.argv[1:]
    forking = Forking(int(served), socket.socket(fileno=int(listener)))
    for name in PACKAGES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    if (asked := forking.serve()) is not None:
        try:
            become(shown, *asked)
        except BaseException as raised:
            end(raised)
        end(None)
    shutil.rmtree(Path(shown).parent, ignore_errors=True)
