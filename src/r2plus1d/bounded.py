"""Decoding in a process of its own, within limits of memory and time: what FFmpeg makes of a hostile file, a crash or a
hang included, is that one video's end.

`decode` is `video.decode` with such a process behind it: one for each thread that decodes, kept from video to video. It
gets a path as a line of JSON and answers with messages: HEADER, then a frame's pixels or the text of a reason. It ends
when its input closes, so with the process that started it.
"""

import contextlib
import fcntl
import json
import os
import queue
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from r2plus1d import video
from r2plus1d.errors import UserError
from r2plus1d.video import VideoError

MEMORY = 4 * 2**30  # bytes of address space; an 8K video of 10 bits with 16 reference frames takes 2.5
SECONDS, SECONDS_A_FRAME = 60, 1  # of processor time, so other programs on the machine count for nothing
SILENCE = 600  # seconds on the clock without a frame, of a process that neither works nor ends
TRIES = 2  # the last in a fresh process: what came before, or whoever killed it by hand, decides nothing
HEADER = struct.Struct("<cIII")  # kind, height and width of a frame, bytes that follow
READY, FRAME, END, REASON, NO_MEMORY = b"R", b"F", b"E", b"V", b"M"
PIPE = 2**20  # bytes, the most that Linux gives a user; a small frame goes in one piece
# How a process ends that nothing in a video can end so, but the machine or a person.
FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}


class DecoderError(UserError):
    """A machine on which decoding fails, whatever the video."""


class _LostError(Exception):
    """The process is gone or of no more use, amid a video: the reason, and the exit status where it ended by itself."""

    def __init__(self, reason: str, status: int = 0):
        super().__init__(reason)
        self.status = status


def decode(path: Path) -> Iterator[np.ndarray]:
    """All frames in order, uint8 RGB [H, W, 3] of one size.

    Raises VideoError as `video.decode` does, and where the decoder crashes, hangs or needs more than the limits, twice;
    DecoderError where its process does not start, or is killed from outside each time. One video at a time in a thread.
    """
    given = 0
    for attempt in range(TRIES):
        try:
            for number, image in enumerate(_process().frames(path)):
                if number == given:
                    given += 1
                    yield image
        except _LostError as error:
            _own.process.end()
            if attempt == TRIES - 1:
                raise _verdict(path, error) from error
        else:
            return


def _verdict(path: Path, lost: _LostError) -> UserError:
    if -lost.status in FROM_OUTSIDE:
        return DecoderError(
            f"{path}: the process that decodes it was killed {TRIES} times ({signal.Signals(-lost.status).name}), as a "
            "machine out of memory does; run it again with fewer datasets.<name>.runtime.workers"
        )
    return VideoError(str(lost))


_own = threading.local()


def _process() -> "_Process":
    """This thread's; a new one where there is none or the last one stopped amid a video."""
    process = getattr(_own, "process", None)
    if process is None or process.busy:
        if process is not None:
            process.end()
        process = _own.process = _Process()
    return process


class _Process:
    def __init__(self):
        root = str(Path(__file__).parents[1])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._popen = subprocess.Popen(
            [sys.executable, "-P", "-m", "r2plus1d.bounded"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # numpy's library for matrices reserves memory for each of its threads
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"},
            process_group=0,  # Ctrl-C is for the process that asks
        )
        self.end = weakref.finalize(self, _end, self._popen)
        self._pipe = self._popen.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._pipe, select.POLLIN)
        self.busy = True
        try:
            self._header(READY)
        except _LostError as error:
            self.end()
            raise DecoderError(f"the process that decodes videos does not start: {error}; see above") from error
        self.busy = False

    def frames(self, path: Path) -> Iterator[np.ndarray]:
        self.busy = True
        with contextlib.suppress(BrokenPipeError):  # the header that does not come says why
            self._popen.stdin.write(json.dumps(str(path.absolute())).encode() + b"\n")
            self._popen.stdin.flush()
        while True:
            kind, height, width, size = self._header(FRAME + END + REASON + NO_MEMORY)
            if kind == NO_MEMORY:
                raise _LostError(f"decoding it takes more than {MEMORY / 2**30:g} GiB of memory")
            if kind == FRAME:
                image = np.empty((height, width, 3), np.uint8)
                self._fill(memoryview(image.reshape(-1)))
                yield image
            else:
                text = bytearray(size)
                self._fill(memoryview(text))
                self.busy = False
                if kind == REASON:
                    raise VideoError(text.decode())
                return

    def _header(self, kinds: bytes) -> tuple[bytes, int, int, int]:
        header = bytearray(HEADER.size)
        self._fill(memoryview(header))
        kind, height, width, size = HEADER.unpack(header)
        fits = height * width * 3 == size <= video.MAX_PIXELS * 3 if kind == FRAME else size <= PIPE
        if kind not in kinds or not fits:
            raise _LostError("the decoder crashed: what it sends is no frame")
        return kind, height, width, size

    def _fill(self, buffer: memoryview) -> None:
        while len(buffer):
            if not self._poll.poll(SILENCE * 1000):
                raise _LostError(f"the decoder hangs: no frame in {SILENCE / 60:g} minutes")
            count = os.readv(self._pipe, [buffer])
            if count == 0:
                status = self._popen.wait()
                raise _LostError(_why(status), status)
            buffer = buffer[count:]


def _why(status: int) -> str:
    if status == -signal.SIGXCPU:
        return f"decoding it takes more than {SECONDS} s and {SECONDS_A_FRAME} s a frame of processor time"
    if status < 0:
        return f"the decoder crashed ({signal.Signals(-status).name})"
    return f"the decoder crashed (exit status {status})"


def _end(popen: subprocess.Popen) -> None:
    popen.kill()
    popen.stdin.close()
    popen.stdout.close()
    popen.wait()


def main() -> None:
    """The process that decodes."""
    pipe = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not come between the frames
    with contextlib.suppress(AttributeError, OSError):  # Linux; less than PIPE where a user's pipes take too much
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard != resource.RLIM_INFINITY and hard < MEMORY:
        sys.exit(
            f"error: `ulimit -v` allows {hard / 2**30:.1f} GiB of address space; decoding needs {MEMORY / 2**30:g}"
        )
    for kind, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0)):
        _limit(kind, most)
    paths: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(paths,), daemon=True).start()
    _send(pipe, READY)
    while True:
        try:
            _serve(Path(paths.get()), pipe)
        except MemoryError:
            _send(pipe, NO_MEMORY)


def _listen(paths: queue.SimpleQueue) -> None:
    for line in sys.stdin.buffer:
        paths.put(json.loads(line))
    os._exit(0)  # whatever the decoder does


def _serve(path: Path, pipe: int) -> None:
    budget = time.process_time() + SECONDS
    _limit(resource.RLIMIT_CPU, int(budget))
    try:
        for image in video.decode(path):
            pixels = np.ascontiguousarray(image)
            _send(pipe, FRAME, memoryview(pixels.reshape(-1)), *image.shape[:2])
            budget += SECONDS_A_FRAME
            _limit(resource.RLIMIT_CPU, int(budget))
    except VideoError as error:
        _send(pipe, REASON, str(error).encode(errors="replace")[:PIPE])
    else:
        _send(pipe, END)


def _limit(kind: int, most: int) -> None:
    """The soft limit, which is what counts; where the machine's own is lower, that."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _send(pipe: int, kind: bytes, content: bytes | memoryview = b"", height: int = 0, width: int = 0) -> None:
    parts = [memoryview(HEADER.pack(kind, height, width, len(content))), memoryview(content)]
    while parts:
        count = os.writev(pipe, parts)
        while parts and count >= len(parts[0]):
            count -= len(parts.pop(0))
        if parts:
            parts[0] = parts[0][count:]


if __name__ == "__main__":
    main()
