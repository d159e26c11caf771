"""git, asked from Python."""

import os
import subprocess
from pathlib import Path

from r2plus1d.system.errors import UserError


class GitError(UserError):
    """What git could not do; its own words."""


def git(*arguments: str, cwd: Path | str | None = None, **environment: str) -> str:
    """What git prints. It takes no optional locks, since DVC may be at work in the same clone. Raises GitError."""
    command = ["git", "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=cwd, env=os.environ | environment
        )
    except OSError as error:
        raise GitError(f"git cannot be run ({error.strerror}); install it") from error
    if done.returncode:
        raise GitError(f"git {arguments[0]} failed; this needs a git clone: {done.stderr.strip()}")
    return done.stdout
