"""What DVC says of its queue, understood."""

import pytest

from r2plus1d.system import dvc_command, dvc_queue
from r2plus1d.system.dvc_queue import REF, parse

SAID = """\
Task     Name             Created       Status
c90d678  seed-1-87dbc435  04:04 PM      Running
694c641  mine             Nov 25, 2026  Queued
a85d118  seed-2-dc4e2615  04:26 PM      Success
b85d118  seed-2-dc4e2615  04:28 PM      Queued
c85d118  seed-2-dc4e2615  04:30 PM      Failed

Worker status: 1 active, 2 idle
"""


def test_states_of_experiments_are_read_and_the_active_of_one_name_counts():
    assert parse(SAID) == ({"seed-1-87dbc435": "Running", "mine": "Queued", "seed-2-dc4e2615": "Queued"}, 3)
    assert parse("No experiment tasks in the queue.\n\nWorker status: 0 active, 0 idle\n") == ({}, 0)


def test_finished_experiments_are_told_from_the_queues_own_references():
    commit = "45/1a2b3cc9a6f8fdc28ee88e9c48e8d031cd6de6"
    assert REF.fullmatch(f"refs/exps/{commit}/seed-1-87dbc435")[1] == "seed-1-87dbc435"
    assert not any(REF.fullmatch(f"refs/exps/{name}") for name in ("celery/stash", "celery/failed", "exec/EXEC_HEAD"))


@pytest.mark.parametrize(("failures", "found"), [(2, True), (3, False)])
def test_status_that_fails_on_a_half_written_file_is_asked_again_and_not_for_ever(failures, found, monkeypatch):
    answers = [(255, "ERROR: unexpected error - Expecting value: line 1 column 1 (char 0)")] * failures + [(0, SAID)]
    monkeypatch.setattr(dvc_command, "answer", lambda *_: answers.pop(0))
    monkeypatch.setattr(dvc_queue, "LOOK", 0)
    if found:
        assert dvc_queue.states() == parse(SAID)
    else:
        with pytest.raises(dvc_queue.QueueError, match="dvc queue status failed: ERROR: unexpected error"):
            dvc_queue.states()
