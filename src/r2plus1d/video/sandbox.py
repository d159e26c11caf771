"""Decoding in a process of its own, within limits of memory and time: what FFmpeg makes of a hostile file, a crash or a
hang included, is that one video's end.

`decode` is `decoding.decode` with such a process behind it: one for each thread that decodes, kept from video to video.
It gets a path as a line of JSON, and whether pixels are wanted, and answers with messages: HEADER, then the text of a
reason, or of what was measured. Frames lie in shared memory, in SLOTS places in turn; for each that is free again it
gets a byte, FREED at a time. It ends when its input closes, so with the process that started it.
"""

import contextlib
import json
import mmap
import os
import queue
import resource
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from r2plus1d.system.errors import UserError, one_line
from r2plus1d.video import decoding
from r2plus1d.video.decoding import Measured, VideoError

MEMORY = 4 * 2**30  # bytes of address space; an 8K video of 10 bits with 16 reference frames takes 2.4
SECONDS, SECONDS_A_FRAME = 60, 1  # of processor time, so other programs on the machine count for nothing
SILENCE = 600  # seconds on the clock without a frame, of a process that neither works nor ends
START = 300  # seconds on the clock for it to begin
TRIES = 2  # the last in a fresh process: what came before, or whoever killed it by hand, decides nothing
# kind, height and width of a frame (LOOKED: 0, frames announced; FAULT: 0, errno), text that follows
HEADER = struct.Struct("<cIII")
READY, FRAME, LOOKED, END, REASON, NO_MEMORY, FAULT = b"R", b"F", b"L", b"E", b"V", b"M", b"O"
LONGEST_TEXT = 2000  # bytes
SLOTS = 8  # frames decoded ahead; sent through a pipe, one of 340 x 256 took 0.2 ms longer
SHARED = SLOTS * 3 * decoding.MAX_PIXELS  # bytes; they exist from when they are used
FREED = SLOTS // 2  # given back at a time: the processes take turns less often
KEPT = 32 * 2**20  # bytes of them from one video to the next
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
    """All frames in order, uint8 RGB [H, W, 3] of one size; each is valid until the next one is asked for.

    Raises VideoError and OSError as `decoding.decode` does; VideoError, too, where the decoder crashes, hangs or needs
    more than the limits, twice; DecoderError where its process does not start, or is killed from outside each time. One
    video at a time in a thread.
    """
    for image in _decoded(path, pixels=True):
        assert isinstance(image, np.ndarray)
        yield image


def measure(path: Path) -> Measured:
    """What is found of a video that decodes whole. Raises as `decode` does."""
    for found in measuring(path):
        if isinstance(found, Measured):
            return found
    raise AssertionError(f"{path} was neither measured nor refused")


def measuring(path: Path) -> Iterator[int | Measured]:
    """For each frame how many the file announces (0: it does not), and at the end the same as `measure`."""
    for found in _decoded(path, pixels=False):
        assert not isinstance(found, np.ndarray)
        yield found


def _decoded(path: Path, pixels: bool) -> Iterator[np.ndarray | int | Measured]:
    """The frames; without `pixels` what `decoding.measured` gives."""
    given = 0
    for attempt in range(TRIES):
        try:
            for number, image in enumerate(_process().frames(path, pixels)):
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
            "machine out of memory does; run it again with fewer machine.workers"
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
        memory = _shared_file()
        free, self._free = os.pipe()
        self._popen = subprocess.Popen(
            [sys.executable, "-P", "-m", "r2plus1d.video.sandbox", str(memory), str(free)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            pass_fds=(memory, free),
            env=_environment(),
            process_group=0,  # Ctrl-C is for the process that asks
        )
        self.end = weakref.finalize(self, _end, self._popen, self._free)
        self._memory = mmap.mmap(memory, SHARED)
        os.close(memory)
        os.close(free)
        self._pixels = np.frombuffer(self._memory, np.uint8)
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._questions, self._answers = self._popen.stdin, self._popen.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)
        self._unread, self._received, self.busy = b"", 0, True
        try:
            kind, *_, text = self._message(READY + REASON, START)
        except _LostError as error:
            self.end()
            raise DecoderError(f"the process that decodes videos does not start: {error}; see above") from error
        if kind == REASON:
            self.end()
            raise DecoderError(text)
        self.busy = False

    def frames(self, path: Path, pixels: bool = True) -> Iterator[np.ndarray | int | Measured]:
        self.busy, used = True, 0
        with contextlib.suppress(BrokenPipeError):  # the message that does not come says why
            self._questions.write(json.dumps([str(path.absolute()), pixels]).encode() + b"\n")
        while True:
            kind, height, width, text = self._message(FRAME + LOOKED + END + REASON + NO_MEMORY + FAULT)
            if kind == NO_MEMORY:
                raise _LostError(f"decoding it takes more than {MEMORY / 2**30:g} GiB of memory")
            if kind == LOOKED:
                yield width
                continue
            if kind != FRAME:
                break
            used = SLOTS * height * width * 3
            yield _slot(self._pixels, self._received, height, width)
            self._received += 1
            if self._received % FREED == 0:
                with contextlib.suppress(BrokenPipeError):
                    os.write(self._free, b"." * FREED)
        if used > KEPT and hasattr(mmap, "MADV_REMOVE"):
            self._memory.madvise(mmap.MADV_REMOVE)
        self.busy = False
        if kind == REASON:
            raise VideoError(text)
        if kind == FAULT:
            raise OSError(width, text, str(path))
        if not pixels:
            yield Measured(*json.loads(text))

    def _message(self, kinds: bytes, patience: int | None = None) -> tuple[bytes, int, int, str]:
        kind, height, width, length = HEADER.unpack(self._read(HEADER.size, patience or SILENCE))
        if kind not in kinds or height * width > decoding.MAX_PIXELS or length > LONGEST_TEXT:
            raise _LostError("the decoder crashed: what it sends is no message")
        return kind, height, width, self._read(length, SILENCE).decode(errors="replace")

    def _read(self, length: int, patience: int) -> bytes:
        while len(self._unread) < length:
            if not self._poll.poll(patience * 1000):
                raise _LostError(f"the decoder hangs: nothing came for {patience / 60:g} minutes")
            part = os.read(self._answers, select.PIPE_BUF)
            if not part:
                status = self._popen.wait()
                raise _LostError(_why(status), status)
            self._unread += part
        found, self._unread = self._unread[:length], self._unread[length:]
        return found


def _shared_file() -> int:
    """A descriptor of SHARED bytes without a name."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("frames")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, SHARED)
    return descriptor


def _environment() -> dict[str, str]:
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    # numpy's library for matrices reserves memory for each of its threads
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"}


def _slot(pixels: np.ndarray, number: int, height: int, width: int) -> np.ndarray:
    """Where frame `number` lies in the shared memory, uint8 [H, W, 3]"""
    size = height * width * 3
    first = number % SLOTS * size
    return pixels[first : first + size].reshape(height, width, 3)


def _why(status: int) -> str:
    if status == -signal.SIGXCPU:
        return f"decoding it takes more than {SECONDS} s and {SECONDS_A_FRAME} s a frame of processor time"
    if status < 0:
        return f"the decoder crashed ({signal.Signals(-status).name})"
    return f"the decoder crashed (exit status {status})"


def _end(popen: subprocess.Popen, free: int) -> None:
    popen.kill()
    for pipe in filter(None, (popen.stdin, popen.stdout)):
        pipe.close()
    os.close(free)
    popen.wait()


def main() -> None:
    """The process that decodes."""
    memory, free = (int(descriptor) for descriptor in sys.argv[1:])
    answers = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not come between the messages
    frames = np.frombuffer(mmap.mmap(memory, SHARED), np.uint8)
    if refused := _limited():
        return _send(answers, REASON, text=refused)
    asked: queue.SimpleQueue[tuple[str, bool]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(asked,), daemon=True).start()
    _send(answers, READY)
    number, freed = 0, 0
    while True:
        path, pixels = asked.get()
        budget = time.process_time() + SECONDS
        _limit(resource.RLIMIT_CPU, int(budget))
        try:
            found = ""
            for image in decoding.decode(Path(path)) if pixels else decoding.measured(Path(path)):
                if isinstance(image, np.ndarray):
                    while number - freed == SLOTS:
                        freed += len(os.read(free, SLOTS))
                    _slot(frames, number, *image.shape[:2])[:] = image
                    _send(answers, FRAME, *image.shape[:2])
                    number += 1
                elif isinstance(image, int):
                    _send(answers, LOOKED, width=image)
                else:
                    found = json.dumps(image)
                budget += SECONDS_A_FRAME
                _limit(resource.RLIMIT_CPU, int(budget))
        except VideoError as error:
            _send(answers, REASON, text=str(error))
        except MemoryError:
            _send(answers, NO_MEMORY)
        except OSError as error:
            _send(answers, FAULT, width=error.errno or 0, text=one_line(error))
        else:
            _send(answers, END, text=found)


def _limited() -> str:
    """Sets the limits; why they cannot be set, or nothing."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard != resource.RLIM_INFINITY and hard < MEMORY + SHARED:
        return f"`ulimit -v` is {hard // 1024}; decoding needs at least {(MEMORY + SHARED) // 1024}"
    for name, most in (("AS", MEMORY + SHARED), ("CORE", 0), ("FSIZE", 0), ("CPU", SECONDS)):
        try:
            _limit(getattr(resource, f"RLIMIT_{name}"), most)
        except (OSError, ValueError) as error:  # as macOS does, and a container may
            return (
                f"this system lets no process limit itself (RLIMIT_{name}: {one_line(error)}), and videos are decoded "
                "within limits alone; Linux on x86-64 is supported, in a container too that allows setrlimit"
            )
    return ""


def _listen(asked: queue.SimpleQueue) -> None:
    with open(0, "rb", buffering=0, closefd=False) as lines:  # a buffer's lock would abort an exit with a traceback
        for line in lines:
            asked.put(json.loads(line))
    os._exit(0)  # whatever the decoder does


def _limit(kind: int, most: int) -> None:
    """The soft limit, which is what counts; where the machine's own is lower, that."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _send(answers: int, kind: bytes, height: int = 0, width: int = 0, text: str = "") -> None:
    content = text.encode(errors="replace")[:LONGEST_TEXT]
    os.write(answers, HEADER.pack(kind, height, width, len(content)) + content)  # below 4 KiB: all or nothing


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # whoever asked is gone
        main()
