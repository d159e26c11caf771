"""A Dask cluster of processes on this machine."""

import contextlib
import os
from collections.abc import Iterator

import distributed


@contextlib.contextmanager
def local_cluster(workers: int, threads: int = 1) -> Iterator[distributed.LocalCluster]:
    """Its end takes back the variables that Dask sets in this process for those of its workers."""
    before = dict(os.environ)
    options = {"host": "127.0.0.1", "dashboard_address": None, "silence_logs": "ERROR"}
    try:
        with distributed.LocalCluster(n_workers=workers, threads_per_worker=threads, **options) as cluster:
            yield cluster
    finally:
        os.environ.clear()
        os.environ.update(before)
