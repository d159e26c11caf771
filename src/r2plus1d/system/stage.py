"""How a stage starts and ends: alone at work on its outputs; and what a user can mend comes as one line, no traceback.

Ended from outside it says how far it got. Without the DVC that started it, it ends too: what it finished is kept.
"""

import contextlib
import functools
import gc
import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from r2plus1d.system import arithmetic, paths, timing
from r2plus1d.system.errors import READER_LOST, explained, printable
from r2plus1d.system.files import held
from r2plus1d.system.pool import end_with
from r2plus1d.system.progress import reached

TORCHRUN = "R2PLUS1D_TORCHRUN"  # environment variable: torchrun's arguments, where several machines work together
ALONE = "R2PLUS1D_ALONE"  # environment variable: of the process that holds the stage's lock, for those that it starts


def run(main: Callable, argv: list[str] | None = None, goes_on: bool = True) -> None:
    """Calls `main` and exits.

    A stage gives its `argv`, the script and what `main` takes (nothing, or a row): no two processes run the same stage
    of the same row at a time. Interrupted, the same stage goes on, and so does a command that says so (`goes_on`).
    """
    if argv is not None and len(argv) - 1 != len(inspect.signature(main).parameters):
        sys.exit(f"usage: python {argv[0]}{' ROW' * len(inspect.signature(main).parameters)}")
    arithmetic.pin()
    signal.signal(signal.SIGTERM, functools.partial(_terminated, goes_on))
    try:
        with contextlib.nullcontext() if argv is None else _alone(*argv):
            main(*(argv or [])[1:])
    except KeyboardInterrupt:
        _end_undisturbed()
        sys.exit(ended("interrupted", goes_on))
    except BrokenPipeError:  # nobody reads on, as behind `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        if (line := explained(error)) is None:
            raise
        if line == READER_LOST:
            _leave_readers()
        sys.exit(f"error: {printable(line)}{_place()}")
    finally:
        gc.freeze()  # or Python looks through everything that torch brought, for half a second, before it ends


def _place() -> str:
    """Where the project is, for who works below it: all paths start there."""
    here = Path.cwd()
    for above in here.parents if not paths.PARAMS.exists() else ():
        if (above / paths.PARAMS).is_file() and (above / "dvc.yaml").is_file():
            return f" (you are in {here.relative_to(above)}/ of the project; paths start in {above}: run it there)"
    return ""


def _end_undisturbed() -> None:
    """A second Ctrl-C, or DVC's signal after one, has nothing more to end; it would stop Python's own end midway."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _terminated(goes_on: bool, *_: object) -> None:
    _end_undisturbed()
    signal.signal(signal.SIGCHLD, lambda *_: None)  # torch's handler raises an error for readers that ended as well
    _leave_readers()
    sys.exit(ended("terminated", goes_on))


def _leave_readers() -> None:
    """To Python's end, which terminates them. Before it, torch would wait for a lock that a reader may have died with,
    without end."""
    if (loading := sys.modules.get("torch.utils.data._utils")) is not None:
        loading._set_python_exit_flag()


def ended(how: str, goes_on: bool = True) -> str:
    place = f" ({reached()})" if reached() else ""
    return f"{how}{place}; what is finished is kept{', run the same command again to go on' if goes_on else ''}"


@contextlib.contextmanager
def _alone(script: str, row: str | None = None) -> Iterator[None]:
    """Holds the stage's lock: of processes that torchrun started, the first does, as it alone writes; else this one.

    Raises BusyError.
    """
    stage = Path(script).stem
    started = "TORCHELASTIC_RUN_ID" in os.environ
    if "DVC_STAGE" in os.environ and not started:
        end_with(os.getppid(), lambda: os.kill(os.getpid(), signal.SIGTERM))
    if ALONE in os.environ or (os.environ.get("RANK", "0") != "0" if started else TORCHRUN in os.environ):
        yield
        return
    with held(paths.lock(stage, row), f"stage {stage}{f' of {row}' if row else ''}"):
        os.environ[ALONE] = str(os.getpid())
        with timing.recorded(stage, row):
            yield
