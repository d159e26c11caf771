"""How `make` gets the environment: the Makefile with a Python, a pip and a uv that only note what they are asked."""

import os
import subprocess

import pytest

from tests.support.project import ROOT

PYTHON = """#!/bin/sh
if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$STUBS"/* "$3/bin"; fi
"""
PIP = """#!/bin/sh
case "$*" in
  *"config list"*) cat "$STUBS/../pip_config";;
  *uv==*) echo "pip uv" >>"$STUBS/../calls"; exit "$UV_THERE";;
  *) echo "pip $*" >>"$STUBS/../calls"; echo "what pip says" >&2; exit "$PIP_STATUS";;
esac
"""
UV = """#!/bin/sh
echo "uv $*" >>"$STUBS/../calls"
env | grep -E '^(UV_|SSL_CERT_FILE|ALL_PROXY)' | grep -v '=$' | sort >"$STUBS/../settings"
exit "$UV_STATUS"
"""
WITH_UV = "uv pip install -q --index-strategy unsafe-best-match --python .venv/bin/python -c constraints.txt -e .[dev]"


@pytest.fixture
def make(tmp_path):
    """`make .venv/ready`, and what was asked for."""
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    for name, text in (("python", PYTHON), ("pip", PIP), ("uv", UV)):
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    for name in ("pyproject.toml", "constraints.txt", "pip_config", "calls"):
        (tmp_path / name).touch()

    def run(uv_there: int = 0, uv: int = 0, pip: int = 0, **variables: str) -> subprocess.CompletedProcess:
        taken = ("UV_", "PIP_", "SSL_CERT_FILE", "ALL_PROXY", "MAKE")
        env = {name: value for name, value in os.environ.items() if not name.startswith(taken)}
        env |= {"STUBS": str(stubs), "UV_THERE": str(uv_there), "UV_STATUS": str(uv), "PIP_STATUS": str(pip)}
        command = ["make", "-f", str(ROOT / "Makefile"), f"PYTHON={stubs / 'python'}", ".venv/ready"]
        return subprocess.run(
            command, cwd=tmp_path, env=env | variables, capture_output=True, text=True, timeout=60, check=False
        )

    return run


def calls(folder) -> list[str]:
    return (folder / "calls").read_text().splitlines()


def test_environment_comes_from_where_pip_is_set_to_look(make, tmp_path):
    (tmp_path / "pip_config").write_text(
        ":env:.find-links='/wheels'\nglobal.cert='/own/ca.pem'\nglobal.extra-index-url='\\nhttps://a/simple\\nhttps://b'\n"
        "global.find-links='/others'\nglobal.index-url='https://mirror/simple'\ninstall.no-index='true'\n"
    )
    done = make(UV_DEFAULT_INDEX="https://asked/for")
    assert (done.returncode, done.stderr) == (0, "")
    assert calls(tmp_path) == ["pip uv", WITH_UV]
    settings = dict(line.split("=", 1) for line in (tmp_path / "settings").read_text().splitlines())
    del settings["UV_STATUS"], settings["UV_THERE"]
    assert settings.pop("UV_INDEX").split() == ["https://a/simple", "https://b"]
    assert settings == {
        "UV_DEFAULT_INDEX": "https://asked/for",  # uv's own settings come before pip's
        "UV_FIND_LINKS": "/wheels",
        "UV_NO_INDEX": "true",
        "SSL_CERT_FILE": "/own/ca.pem",
    }
    assert (tmp_path / ".venv" / "ready").exists()
    assert not (tmp_path / ".venv.log").exists()


@pytest.mark.parametrize(("answers", "before"), [({"uv": 1}, ["pip uv", WITH_UV]), ({"uv_there": 1}, ["pip uv"])])
def test_pip_installs_the_environment_where_uv_does_not(make, tmp_path, answers, before):
    done = make(**answers)
    assert (done.returncode, done.stderr) == (0, "")
    assert "uv could not install them; pip tries." in done.stdout
    *first, last = calls(tmp_path)
    assert first == before
    assert last.startswith("pip --disable-pip-version-check install -q --no-compile")
    assert last.endswith("-c constraints.txt -e .[dev]")
    assert (tmp_path / ".venv" / "ready").exists()


def test_environment_that_cannot_be_installed_is_told_with_its_log_and_tried_again(make, tmp_path):
    done = make(uv=1, pip=1)
    assert done.returncode != 0
    assert "error: the packages could not be installed; is there a network? Details: .venv.log" in done.stdout
    assert (tmp_path / ".venv.log").read_text() == "what pip says\n"
    assert not (tmp_path / ".venv" / "ready").exists()
    assert make().returncode == 0
