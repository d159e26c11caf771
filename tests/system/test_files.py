"""Locks, and where they are missing; addresses in messages."""

import errno
import fcntl

import pytest

from r2plus1d.system import files
from r2plus1d.system.errors import redacted


def test_file_system_without_locks_is_named_and_the_work_goes_on(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with files.held(tmp_path / "a.lock", "stage train of custom"):
        pass
    assert (
        "no locks on this file system; see to it that nobody else runs stage train of custom" in capsys.readouterr().err
    )


def test_other_faults_of_a_lock_are_errors(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="Input/output"), files.held(tmp_path / "a.lock", "it"):
        pass


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://u:p@h/x.zip?sig=s&y=1", "https://h/x.zip?sig=...&y=..."),
        ("https://u:p@ss@h/x", "https://h/x"),
        ("to https://token@h/x#access_token=s failed", "to https://h/x#access_token=... failed"),
        ("url: /x?X-Amz-Signature=s (Caused by", "url: /x?X-Amz-Signature=... (Caused by"),
        ("https://h/x@2.zip", "https://h/x@2.zip"),
    ],
)
def test_address_is_told_without_passwords_and_signatures(text, shown):
    assert redacted(text) == shown
