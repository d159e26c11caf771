"""A stage that DVC runs for a change of code that changes nothing in it gives its outputs back. Alone imports DVC.

DVC sees that a file of code has changed, not what in it. Where that is a comment, a docstring or code that the stage
does not run here, `dvc repro` would make the same once more, which takes weeks at Kinetics' size. Its outputs are then
taken from DVC's cache, where they were before.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from r2plus1d.system import records, timing
from r2plus1d.system.errors import UserError
from r2plus1d.system.files import write_bytes
from r2plus1d.system.git import git

CODE = ("src", "stages", "constraints.txt")
AGAIN = "R2PLUS1D_AGAIN"  # environment variable: set, everything is made again


def gives_back(stage: str, row: str, elsewhere: Callable[[dict], bool] = lambda record: False) -> bool:
    """Whether the outputs are those that this run would make, and stand in their places again.

    That takes a record of the same code (by its syntax trees) and versions, not `elsewhere` (on another device), files
    of code as the only dependencies that DVC names as changed, and in DVC's cache the very outputs of that record.
    A stage that is run by hand does its work, and so does every stage where R2PLUS1D_AGAIN is set.
    """
    started_by_another = "TORCHELASTIC_RUN_ID" in os.environ  # which has asked already
    if "DVC_STAGE" not in os.environ or started_by_another or AGAIN in os.environ:
        return False
    record = records.read(stage, row)
    if not records.of_what_runs_now(record) or elsewhere(record) or not _from_cache(os.environ["DVC_STAGE"]):
        return False
    if not records.of_files_on_disk(record):  # such as of a run that was ended before DVC had noted it
        return False
    print("the code changed in nothing that runs here (see docs/architecture.md): the outputs are taken from the cache")
    timing.did_no_work()
    return True


def is_whole(address: str) -> bool:
    """Whether DVC finds the outputs of a stage as it left them; where DVC is not at work, that is believed."""
    if "DVC_STAGE" not in os.environ:
        return True
    from dvc.exceptions import DvcException  # noqa: PLC0415
    from dvc.repo import Repo  # noqa: PLC0415

    try:
        with Repo(".") as repo:
            (stage,) = repo.stage.collect(address)
            return not any(out.workspace_status() for out in stage.outs)
    except DvcException:
        return False


def _from_cache(address: str) -> bool:
    from dvc.exceptions import DvcException  # noqa: PLC0415  (takes half a second, and is rarely needed)
    from dvc.repo import Repo  # noqa: PLC0415

    try:
        with Repo(".") as repo:
            (stage,) = repo.stage.collect(address)
            changed = [dependency.def_path for dependency in stage.deps if dependency.workspace_status()]
            if not changed or not all(path.split("/")[0] in CODE for path in changed):
                return False
            for out in stage.outs:
                if out.use_cache:
                    out.checkout(force=True)
                elif not _committed(Path(out.def_path), out.hash_info.value, out.cache.oid_to_path):
                    return False
            return all(Path(out.def_path).exists() for out in stage.outs)
    except (DvcException, UserError, OSError):
        return False


def _committed(path: Path, md5: str, place: Callable[[str], str]) -> bool:
    """Writes a small file that git holds and DVC's cache only by chance, if it is the one that DVC knows."""
    cached = Path(place(md5))
    content = cached.read_bytes() if cached.is_file() else git("show", f"HEAD:{path.as_posix()}").encode()
    if hashlib.md5(content).hexdigest() != md5:
        return False
    write_bytes(path, content)
    return True
