"""One stage in several processes: starting them with torchrun, sharing work out, bringing results together.

Every process runs the same script on its own share; the first one alone writes and prints. In a single process there
is no group, and each function hands back what it was given. Source of everything hard: torch.distributed.
"""

import logging
import os
import shlex
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure, get_error_handler
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.nn.parallel import DistributedDataParallel

from r2plus1d.system.device import Runtime, cpu_kernels, prepare
from r2plus1d.system.errors import ConfigError, UserError, explained
from r2plus1d.system.machine import cores
from r2plus1d.system.pool import end_with
from r2plus1d.system.progress import reached
from r2plus1d.system.stage import TORCHRUN, ended

LAUNCHER = "R2PLUS1D_LAUNCHER"  # environment variable, for our own processes: the one that started them
ALONE = "--standalone --local-addr=localhost"
PATIENCE = timedelta(days=1)  # for processes that have more to do; a failed one ends the others at once

Item = TypeVar("Item")


class ProcessError(UserError):
    """What ended one of the processes, and with it all of them."""


class _Replica(DistributedDataParallel):
    def _passing_sync_batchnorm_handle(self, module: nn.Module) -> None:
        """Refuses torch's own synchronised batch norm on the CPU, where `network.OuterNorm` works."""


def run(work: Callable[[], None], runtime: Runtime, key: Callable[[], str]) -> None:
    """Calls `work` in `runtime.gpus` processes, or here if that is one.

    To start them, the present command is run again in each; arrived here, they join and work. `key` is what the
    processes must agree on: the configuration and the data, which on other machines lie in other files. Raises
    ConfigError for a number of processes that cannot be, ProcessError for the first error of any process.
    """
    if distributed.is_torchelastic_launched():
        _work_in_group(work, runtime, key)
    elif runtime.gpus > 1 or TORCHRUN in os.environ:
        _start(runtime)
    else:
        work()


def rank() -> int:
    """Known from the start where torchrun started this process, before it joins the others."""
    return distributed.get_rank() if distributed.is_initialized() else int(os.environ.get("RANK", "0"))


def processes() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def first() -> bool:
    """Whether this process is the one that writes and prints."""
    return rank() == 0


def cores_each() -> int:
    """Processor cores for each process of this machine."""
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def replicate(model: nn.Module, example: Tensor) -> nn.Module:
    """The model with its gradients averaged over the processes, of which every backward pass must be one of all.

    After its first backward pass DistributedDataParallel groups the gradients again, and sums them in another order.
    That pass is made here, with a clip of no consequence [1, 3, T, H, W], so that a resumed training rounds like one
    that went on.
    """
    if processes() == 1:
        return model
    replica = _Replica(model, forward_sync_buffers=False)
    replica.eval()  # leaves the running statistics alone
    replica(example).sum().backward()
    return replica


def from_first(value: Item) -> Item:
    """The first process's value, in every process."""
    if processes() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]


def share(items: list[Item]) -> list[Item]:
    """This process's part of a list, every one of which goes to just one process."""
    return items[rank() :: processes()]


def together(own: list[Item]) -> list[Item]:
    """What the processes made of their shares, in the order of the list that `share` was given."""
    if processes() == 1:
        return own
    parts: list = [None] * processes()
    distributed.all_gather_object(parts, own)
    whole: list = [None] * sum(map(len, parts))
    for number, part in enumerate(parts):
        whole[number :: processes()] = part
    return whole


def same_buffers(model: nn.Module) -> None:
    """Gives every process the first one's running statistics, which are those that are saved."""
    for buffer in model.buffers() if processes() > 1 else ():
        distributed.broadcast(buffer, 0)


def summed(values: dict[str, float]) -> dict[str, float]:
    """Each value's sum over the processes."""
    return _reduced(values, distributed.ReduceOp.SUM)


def largest(value: int) -> int:
    return int(_reduced({"": value}, distributed.ReduceOp.MAX)[""])


def _reduced(values: dict[str, float], operation: Any) -> dict[str, float]:
    if processes() == 1:
        return values
    numbers = torch.tensor(list(values.values()), dtype=torch.float64)
    distributed.all_reduce(numbers, operation)
    return dict(zip(values, numbers.tolist(), strict=True))


def _start(runtime: Runtime) -> None:
    """Runs torchrun, as the command `torchrun` does, on this process's own command."""
    given = os.environ.get(TORCHRUN)
    parser = torchrun.get_args_parser()
    # Its own way is to print all of torchrun's usage.
    parser.error = lambda message: _refuse(given, message)  # type: ignore[method-assign]
    arguments = parser.parse_args([*shlex.split(ALONE if given is None else given), "--", *sys.argv])
    machines = {part.strip() for part in arguments.nnodes.split(":")}
    if len(machines) != 1 or not all(number.isdecimal() and int(number) for number in machines):
        _refuse(given, f"--nnodes is {arguments.nnodes!r}, not one number, and the number of machines must not vary")
    number = int(machines.pop())
    here, rest = divmod(runtime.gpus, number)
    if rest:
        raise ConfigError(f"runtime.gpus is {runtime.gpus}, which cannot be shared out evenly over {number} machines")
    if prepare(runtime).type == "cuda" and here > torch.cuda.device_count():
        raise ConfigError(
            f"runtime.gpus is {runtime.gpus}, {here} on this machine, but torch finds {torch.cuda.device_count()} CUDA "
            f"devices here; set it to what there is, or use several machines (docs/several_gpus.md)"
        )
    arguments.nproc_per_node = str(here)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // here)))
    os.environ[LAUNCHER] = str(os.getpid())
    if "LOGLEVEL" not in os.environ:
        logging.disable(logging.ERROR)  # torchrun's own account of a failure, of some forty lines
    with tempfile.TemporaryDirectory(prefix="r2plus1d-") as arguments.log_dir:  # takes the processes' errors
        try:
            torchrun.run(arguments)
        except ChildFailedError as error:
            raise ProcessError(_cause(list(error.failures.values()))) from None
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            sys.exit(ended("terminated"))
        except (RendezvousError, distributed.DistError) as error:
            raise ProcessError(f"the processes did not find each other with {TORCHRUN}={given!r}: {error}") from error


def _refuse(given: str | None, problem: str) -> NoReturn:
    raise ConfigError(f"{TORCHRUN} is {given!r}: {problem}; expected arguments of torchrun, see docs/several_gpus.md")


def _cause(failures: list[ProcessFailure]) -> str:
    """What failed first; other failures follow from it.

    torchrun knows the time of an error to the second only, its file to less. A process that was killed left no file
    and is noticed a little after the errors that this makes in the others.
    """

    def moment(failure: ProcessFailure) -> float:
        return os.stat(failure.error_file).st_mtime if isinstance(failure.message, dict) else failure.timestamp - 5

    failure = min(failures, key=moment)
    if isinstance(failure.message, dict):
        return failure.message["message"].removeprefix(f"{ProcessError.__name__}: ")
    how = f"by {failure.signal_name()}" if failure.exitcode < 0 else f"with status {failure.exitcode}"
    return f"process {failure.local_rank} was ended {how}; run the same command again to go on"


def _work_in_group(work: Callable[[], None], runtime: Runtime, key: Callable[[], str]) -> None:
    """An error is written down, where `_start` finds it, and not printed: all processes may have the same one."""
    end_with(int(os.environ.get(LAUNCHER, os.getppid())))
    try:
        _join(runtime, key)
        work()
        distributed.destroy_process_group()
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # ends already
        if isinstance(error, KeyboardInterrupt) and first() and reached():
            print(reached(), file=sys.stderr, flush=True)
        line = str(error) if isinstance(error, SystemExit) else explained(error)
        get_error_handler().record_exception(ProcessError(line or traceback.format_exc()))
        os._exit(1)  # without what a library may want to say about its other half


def _join(runtime: Runtime, key: Callable[[], str]) -> None:
    started = int(os.environ["WORLD_SIZE"])
    if started != runtime.gpus:
        raise ConfigError(f"runtime.gpus is {runtime.gpus}, but {started} processes were started; make them the same")
    backend, problem, own = "gloo", None, ""
    try:
        if (device := prepare(runtime).type) == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # from here on, "cuda" means this one
            backend = "cpu:gloo,cuda:nccl"
        own = f"{key()} on {device} with torch {torch.__version__} and its {cpu_kernels()} kernels"
    except (UserError, OSError, RuntimeError) as error:
        problem = f"{socket.gethostname()}: {error}"  # for all of them: the others would wait
    distributed.init_process_group(backend, timeout=PATIENCE)
    answers: list = [None] * started
    distributed.all_gather_object(answers, (problem, own))
    if problems := [problem for problem, _ in answers if problem]:
        raise ConfigError(problems[0])
    if len(found := {own for _, own in answers}) > 1:
        raise ConfigError(
            "the machines have different configurations, data, weights, devices or versions of torch "
            f"({'; '.join(sorted(found))}); give all of them the same configs/, data/, models/ and packages"
        )
