"""The test of a row, by its name: in the workspace, or at a commit, where its files are read from git."""

import functools
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pydantic import ValidationError
from ruamel.yaml.error import YAMLError

from r2plus1d.config import files, strict_yaml
from r2plus1d.config.resolve import published_weights, resolve
from r2plus1d.config.schema import CUSTOM, TestedRow
from r2plus1d.results.figures import TEXTS
from r2plus1d.results.summary import short_names
from r2plus1d.system import dvc_queue, paths
from r2plus1d.system.errors import ConfigError, UserError, one_line
from r2plus1d.system.files import must_read_json
from r2plus1d.system.git import GitError, git

LOCK = Path("dvc.lock")


class CompareError(UserError):
    """Tests that are not there, or not of the same thing; the message names them and the way out."""


@dataclass(frozen=True)
class Tested:
    """The test of a row. What it reads raises CompareError where a file is missing or damaged."""

    name: str  # as it was asked for
    row: str
    commit: str | None  # None: the workspace

    @property
    def place(self) -> str:
        return f"commit {self.commit[:7]}" if self.commit else "the workspace"

    def __str__(self) -> str:
        return f"{self.name} (row {self.row}, {self.place})"

    def read(self, path: Path) -> str:
        try:
            return git("show", f"{self.commit}:./{path}") if self.commit else path.read_bytes().decode()
        except (GitError, OSError, ValueError) as error:
            raise CompareError(f"{self.name}: no {path} in {self.place}; {self._way_out()}") from error

    @functools.cached_property
    def predictions(self) -> pd.DataFrame:
        """Columns path, actual, predicted, probability and rank, in the order of the paths.

        Raises CompareError for a file that is not that of dvc.lock: nothing then says on which data it was measured.
        """
        path = paths.metrics(self.row, "predictions.csv")
        text = self.read(path)
        if hashlib.md5(text.encode()).hexdigest() != self._locked.get(str(path)):
            raise CompareError(
                f"{self.name}: {path} is not the one that {LOCK} names in {self.place}, so nothing says on which data "
                f"it was measured; {self._way_out()}"
            )
        table = pd.read_csv(io.StringIO(text), dtype=TEXTS, keep_default_na=False)
        return table.sort_values("path", ignore_index=True)

    @property
    def right(self) -> pd.Series:
        """bool [N], in the order of `predictions`"""
        return self.predictions["actual"] == self.predictions["predicted"]

    @property
    def split(self) -> str:
        """What it was measured on: val or test."""
        path = paths.metrics(self.row, "test.json")
        try:
            return json.loads(self.read(path))["split"]
        except (ValueError, LookupError, TypeError) as error:
            raise CompareError(f"{self.name}: {path} in {self.place} is damaged; {self._way_out()}") from error

    @property
    def manifest(self) -> tuple[Path, str]:
        """The table of the videos of the dataset, by content, and its MD5."""
        for path, md5 in self._locked.items():
            if md5 and Path(path).match("data/*/manifest.csv"):
                return Path(path), md5
        raise CompareError(
            f"{self.name}: {LOCK} in {self.place} does not say on which data the row was tested; {self._way_out()}"
        )

    @property
    def dataset(self) -> str:
        return self.manifest[0].parent.name

    @functools.cached_property
    def config(self) -> TestedRow:
        """With which the row was tested: in the workspace as it lies in configs/, at a commit by its params.yaml.

        Raises CompareError for one that is not that of dvc.lock: the figures are then of another one.
        """
        path = paths.row_config(self.row, "test")
        text = self._resolved(path) if self.commit else self.read(path)
        if hashlib.md5(text.encode()).hexdigest() != self._locked.get(path.as_posix()):
            raise CompareError(
                f"{self.name}: the row was tested with another {path} than {self.place} has, so nothing says what was "
                f"measured: {paths.PARAMS} has changed, or it names a file of weights; {self._way_out()}"
            )
        try:
            return TestedRow.model_validate_json(text)
        except ValidationError as error:
            raise CompareError(f"{self.name}: {path} is damaged ({one_line(error, 200)}); {self._way_out()}") from error

    def _resolved(self, path: Path) -> str:
        try:
            resolved = resolve(strict_yaml.load(self.read(paths.PARAMS)), published_weights())
            return files.dump(resolved.files()[path.relative_to(paths.CONFIGS).as_posix()])
        except (ConfigError, YAMLError, KeyError, TypeError) as error:
            raise CompareError(
                f"{self.name}: {paths.PARAMS} in {self.place} cannot be used or has no such row: {one_line(error)}; "
                "give a commit of which this version understands it"
            ) from error

    @functools.cached_property
    def _locked(self) -> dict[str, str | None]:
        """MD5 by path of what the row's test read and wrote."""
        try:
            stage = strict_yaml.load(self.read(LOCK))["stages"].get(f"test@{self.row}", {})
            return {entry["path"]: entry.get("md5") for key in ("deps", "outs") for entry in stage.get(key, [])}
        except (YAMLError, AttributeError, LookupError, TypeError) as error:
            raise CompareError(
                f"{self.name}: {LOCK} in {self.place} is damaged ({one_line(error)}); `git checkout {LOCK}`, or "
                f"{self._way_out()}"
            ) from error

    def _way_out(self) -> str:
        again = f"`dvc repro test@{self.row}`"
        return f"give a commit or an experiment in which {again} has run" if self.commit else f"run {again}"


def find(name: str) -> Tested:
    """The test that a name stands for: of a row of the workspace, by its full or short name; else of REV or REV:ROW.

    Raises CompareError for a name that stands for nothing.
    """
    rows = _rows()
    if name in rows:
        return Tested(name, rows[name], None)
    rev, _, row = name.rpartition(":") if ":" in name else (name, "", CUSTOM)
    return Tested(name, rows.get(row, row), _commit(rev, rows))


def _rows() -> dict[str, str]:
    """The rows of the workspace, by full and by short name."""
    configs = resolve(files.read_params(paths.PARAMS), published_weights()).rows
    names = short_names(configs, must_read_json(paths.PUBLISHED))
    return {row: row for row in names} | {short: row for row, short in names.items()}


def _commit(rev: str, rows: Mapping[str, str]) -> str:
    """Of a DVC experiment by its name, or a git revision. Raises CompareError."""
    found = {commit for name, commit in dvc_queue.commits() if name == rev}
    if len(found) > 1:
        commits = ", ".join(sorted(commit[:10] for commit in found))
        raise CompareError(f"{rev}: {len(found)} experiments have this name; give the commit of one: {commits}")
    if found:
        return found.pop()
    try:
        return git("rev-parse", "--verify", "--quiet", f"{rev}^{{commit}}").strip()
    except GitError as error:
        raise CompareError(
            f"{rev!r} is no row, DVC experiment or git revision; rows are {', '.join(rows)}; `dvc exp list --all` "
            "names the experiments"
        ) from error
