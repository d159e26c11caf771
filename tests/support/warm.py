"""Processes that begin with the packages imported: a stage then starts in a fraction of the two or three seconds.

`run` is `subprocess.run` for Python. Behind it stands one process for each of pytest's that has imported torch and the
like, but nothing of this project, and has computed nothing. It forks; the fork takes the folder, variables, standard
files and command of the call, and ends as Python ends. So nothing is shared between two calls but what packages do when
they are imported. Variables that are read before that, and tests of how a process starts or is ended, need a fresh one:
`subprocess`.
"""

import atexit
import gc
import importlib
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
from pathlib import Path
from typing import NoReturn

PACKAGES = ("av", "cv2", "dvc.commands.repro", "dvc.commands.status", "dvclive", "jinja2", "markdown_it")
PACKAGES += ("matplotlib.figure", "numpy", "pandas", "pydantic", "requests", "ruamel.yaml", "safetensors.torch")
PACKAGES += ("scipy.stats", "simplejpeg", "torch", "torch._dynamo", "tqdm")
READ_BEFORE = ("PYTHON", "LC_", "LANG", "OMP_", "MKL_", "ATEN_", "ONEDNN_", "MPL", "LD_")  # the beginnings of names
LONGEST = 2**20  # bytes of a call

_lock = threading.Lock()
_channel: socket.socket | None = None


def run(words: list[str], cwd: str | Path, env: dict[str, str], timeout: float) -> subprocess.CompletedProcess:
    """What `python *words` prints, and its exit status: a script, or -m or -c and what stands behind it."""
    if _first_variables(env) != _first_variables(os.environ):
        return subprocess.run(
            [sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, check=False
        )
    call = json.dumps([words, str(cwd), dict(env)]).encode()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, open(os.devnull) as nothing, _lock:
        channel = _started()
        socket.send_fds(channel, [call], [nothing.fileno(), out.fileno(), err.fileno()])
        pid = int(channel.recv(64))
        channel.settimeout(timeout)
        try:
            status = os.waitstatus_to_exitcode(int(channel.recv(64)))
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            channel.settimeout(None)
            channel.recv(64)
            raise subprocess.TimeoutExpired(words, timeout) from None
        finally:
            channel.settimeout(None)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(words, status, out.read().decode(), err.read().decode())


def _first_variables(env) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(READ_BEFORE) and name != "PYTHONPATH"}


def _started() -> socket.socket:
    global _channel
    if _channel is None:
        _channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command, nothing = [sys.executable, __file__, str(other.fileno())], subprocess.DEVNULL
        subprocess.Popen(command, pass_fds=[other.fileno()], stdin=nothing, stdout=nothing)
        other.close()
    return _channel


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
    if isinstance(error, SystemExit) and not isinstance(error.code, str):
        status = error.code or 0
    elif error is not None:
        status = 1
        if isinstance(error, SystemExit):
            print(error.code, file=sys.stderr)
        else:
            traceback.print_exception(error)
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    if (asked := serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        try:
            become(*asked)
        except BaseException as raised:
            end(raised)
        end(None)
