"""What git knows of the project's clone."""

import os
import subprocess
from pathlib import Path

from r2plus1d.system.errors import UserError


class GitError(UserError):
    """git is missing, or refused; the message has its own reason."""


def _way_out(said: str) -> str:
    if "not a git repository" not in said:
        return ""
    return ". Of a copy without .git, make one: git init && git add --all && git commit -m start"


def need_clone() -> None:
    """For DVC's experiments. Raises GitError outside of a git clone."""
    git("rev-parse", "--git-dir")


def git(*arguments: str, cwd: Path | str | None = None, **environment: str) -> str:
    """What the command prints, to the last line break. Raises GitError.

    Looking takes no lock: DVC may be at work in the same clone.
    """
    command = ["git", "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(
            command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise GitError(f"git cannot be started: {error}") from error
    if done.returncode:
        raise GitError(
            f"git {arguments[0]} failed; this needs a git clone: {done.stderr.strip()}{_way_out(done.stderr)}"
        )
    return done.stdout
