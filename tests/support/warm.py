"""Python processes that begin with torch and the like imported, which takes a stage two to three seconds by itself.

`run` is `subprocess.run` for Python. Each of pytest's processes has one behind it, which has imported the packages, but
nothing of this project, and has computed nothing. It forks; the fork takes the folder, the variables, the standard
files and the command of the call. Two calls share what packages do when they are imported, and the seed of Python's
hashes. A call with other variables that are read at a start (READ_BEFORE) gets a fresh process. Tests of how a process
starts, is ended or ends by itself use `subprocess`.
"""

import atexit
import contextlib
import gc
import importlib
import io
import json
import multiprocessing.process
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

PACKAGES = ("av", "cv2", "dvc.commands.repro", "dvc.commands.status", "dvclive", "jinja2", "markdown_it")
PACKAGES += ("matplotlib.figure", "numpy", "pandas", "pydantic", "requests", "ruamel.yaml", "safetensors.torch")
PACKAGES += ("scipy.stats", "simplejpeg", "torch", "torch._dynamo", "tqdm")
# The beginnings of the names of variables that Python, the C library or a package reads when it is loaded.
READ_BEFORE = ("PYTHON", "LC_", "LANG", "TZ", "LD_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "ATEN_", "ONEDNN_")
READ_BEFORE += ("TORCH", "TRITON_", "MPL")
LONGEST = 2**20  # bytes of a call
STARTED_WITHIN = 120  # seconds


class Warm:
    """The process that forks, and the way to it. It begins with the first call, and anew after one that went wrong."""

    def __init__(self) -> None:
        self.server: subprocess.Popen | None = None
        self.child: int | None = None

    def run(
        self, words: list[str], cwd: str | Path, env: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess:
        """What `python *words` prints, and its exit status: a script, or -m or -c and what stands behind it."""
        if self.server is None:
            self._start()
        if _read_before(env) != self.variables:
            command, options = [sys.executable, *words], {"capture_output": True, "text": True}
            return subprocess.run(command, cwd=cwd, env=env, timeout=timeout, check=False, **options)
        try:
            return self._forked(words, cwd, env, timeout)
        except BaseException:  # its next answer would be to this call
            self._end()
            raise

    def _start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.variables = _read_before(environment)
        self.channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command, files = [sys.executable, __file__, str(other.fileno())], [other.fileno()]
        with other:
            nothing = subprocess.DEVNULL
            self.server = subprocess.Popen(command, env=environment, pass_fds=files, stdin=nothing, stdout=nothing)

    def _forked(
        self, words: list[str], cwd: str | Path, env: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess:
        call = json.dumps([words, str(cwd), dict(env)]).encode()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, open(os.devnull) as nothing:
            socket.send_fds(self.channel, [call], [nothing.fileno(), out.fileno(), err.fileno()])
            self.channel.settimeout(STARTED_WITHIN)
            self.child = self._answer()
            self.channel.settimeout(timeout)
            try:
                status = os.waitstatus_to_exitcode(self._answer())
            except TimeoutError:
                raise subprocess.TimeoutExpired(words, timeout, _text(out), _text(err)) from None
            self.child = None
            return subprocess.CompletedProcess(words, status, _text(out), _text(err))

    def _answer(self) -> int:
        answer = self.channel.recv(64)
        if not answer:
            raise RuntimeError("the process that forks has ended")
        return int(answer)

    def _end(self) -> None:
        if self.child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.child, signal.SIGKILL)
        assert self.server is not None
        self.server.kill()
        self.server.wait()
        self.channel.close()
        self.server = self.child = None


run = Warm().run


def _text(file) -> str:
    file.seek(0)
    return io.TextIOWrapper(io.BytesIO(file.read())).read()


def _read_before(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(READ_BEFORE) and name != "PYTHONPATH"}


def serve(channel: socket.socket) -> tuple[list[str], str, dict[str, str]] | None:
    """In the process that forks: None once nobody is left who calls; in a fork: its call."""
    for name in PACKAGES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    while True:
        call, files, *_ = socket.recv_fds(channel, LONGEST, 3)
        if not call:
            return None
        if (pid := os.fork()) == 0:
            channel.close()
            for number, file in enumerate(files):
                os.dup2(file, number)
                os.close(file)
            return json.loads(call)
        for file in files:
            os.close(file)
        channel.send(str(pid).encode())
        channel.send(str(os.waitpid(pid, 0)[1]).encode())


def become(words: list[str], cwd: str, env: dict[str, str]) -> None:
    """Runs what `python *words` runs, in this process."""
    os.environ.clear()
    os.environ.update(env)
    sys.modules["numpy"].random.seed()  # forks would draw the same; `random` sees to it by itself
    os.chdir(cwd)
    multiprocessing.process.ORIGINAL_DIR = cwd
    tempfile.tempdir = None  # which is in the variables, too
    sys.orig_argv = [sys.executable, *words]
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
    if (asked := serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        try:
            become(*asked)
        except BaseException as raised:
            end(raised)
        end(None)
