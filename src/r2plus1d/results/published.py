"""The local git tag `published`: a commit whose metrics hold the published figures, for `dvc metrics diff published`.

The commit has no parent and fixed dates, so its name is the same in every clone.
"""

import json
import tempfile
from pathlib import Path

from r2plus1d.results.summary import published_summary
from r2plus1d.system import paths
from r2plus1d.system.files import must_read_json, write_text
from r2plus1d.system.git import git

IDENTITY = {"NAME": "R(2+1)D model zoo", "EMAIL": "published@localhost", "DATE": "2020-12-01T00:00:00+0000"}
TAG = "published"


def tag() -> str:
    """Makes the tag, or makes it again, and returns the commit's name. Raises GitError."""
    figures = published_summary(must_read_json(paths.PUBLISHED))
    files = {
        str(paths.SUMMARY): json.dumps(figures, indent=2) + "\n",
        "dvc.yaml": f"metrics:\n  - {paths.SUMMARY}\n",
    }
    with tempfile.TemporaryDirectory() as folder:
        for path, text in files.items():
            write_text(Path(folder, path), text)
        environment = {f"GIT_{who}_{key}": value for who in ("AUTHOR", "COMMITTER") for key, value in IDENTITY.items()}
        environment |= {"GIT_DIR": git("rev-parse", "--absolute-git-dir").strip(), "GIT_WORK_TREE": folder}
        environment |= {"GIT_INDEX_FILE": str(Path(folder, "index"))}
        git("add", "--all", "--force", "--", *sorted(files), cwd=folder, **environment)
        tree = git("write-tree", **environment).strip()
        commit = git("commit-tree", tree, "-m", "The published figures, for comparison", **environment).strip()
    git("tag", "--force", TAG, commit)
    return commit
