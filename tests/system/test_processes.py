"""Processes that are started together: as many as configured, one end for all, one error for all."""

import os
import select
import signal
import time

import pytest
import torch

from r2plus1d.config import resolve, schema
from r2plus1d.system import pool, processes


def runtime(gpus: int, device: str = "cpu") -> schema.Runtime:
    return schema.Runtime(device=device, gpus=gpus, threads=torch.get_num_threads(), lowered="auto", arithmetic="exact")


@pytest.mark.parametrize(
    ("gpus", "arguments", "words"),
    [
        (3, "--nnodes=2", "runtime.gpus is 3, which cannot be shared out evenly over 2 machines"),
        (1, "--nnodes=2", "runtime.gpus is 1, which cannot"),
        (4, "--nnodes=1:2", "--nnodes is '1:2', not one number"),
        (4, "--nodes=2", "unrecognized arguments: --nodes=2; expected arguments of torchrun"),
        (4, "--nnodes", "argument --nnodes"),
    ],
)
def test_machines_that_misfit_the_configuration_are_refused(gpus, arguments, words, monkeypatch):
    monkeypatch.setenv(processes.TORCHRUN, arguments)
    with pytest.raises(resolve.ConfigError) as error:
        processes.run(pytest.fail, runtime(gpus), str)
    assert words in str(error.value)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(resolve.ConfigError, match=r"runtime\.gpus is 4, 4 on this machine, .* 2 CUDA devices"):
        processes.run(pytest.fail, runtime(4, "auto"), str)
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("started", "words"), [("3", "runtime.gpus is 2, but 3 processes were started")])
def test_another_number_of_processes_than_configured_is_refused(started, words, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", started)
    with pytest.raises(resolve.ConfigError, match=words):
        processes._join(runtime(2), "key")


def test_process_ends_with_the_one_that_started_it():
    read, write = os.pipe()
    launcher = os.fork()
    if launcher == 0:
        if os.fork() == 0:
            pool.end_with(os.getppid())
            time.sleep(60)
        os._exit(0)
    os.close(write)
    os.waitpid(launcher, 0)
    assert select.select([read], [], [], 10)[0], "still there"


def test_first_error_of_all_processes_is_reported(tmp_path, monkeypatch):
    def failure(rank: int, code: int, recorded: Exception | None = None) -> processes.ProcessFailure:
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / str(rank)))
        if recorded:
            processes.get_error_handler().record_exception(recorded)
        return processes.ProcessFailure(rank, 123, code, str(tmp_path / str(rank)))

    first, second = (failure(rank, 1, processes.ProcessError(f"error {rank}")) for rank in (1, 0))
    assert processes._cause([second, first]) == "error 1"
    assert "process 2 was ended by SIGKILL" in processes._cause([first, failure(2, -signal.SIGKILL)])
    assert "process 3 was ended with status 9" in processes._cause([failure(3, 9)])
