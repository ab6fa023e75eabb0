"""The note that a run leaves when it ends badly."""

import json

import pytest
from flwr.app import Context, RecordDict

from fedkr.errors import UserError
from server.app import deployment_notes, main
from server.failure import StudyFailedError, leave_note


def note_of(run_dir):
    return json.loads((run_dir / "server" / "failure.json").read_text())


def test_a_note_is_one_line_whatever_the_error_says(tmp_path):
    leave_note(tmp_path, ValueError("first line\n  second\tline"))
    assert note_of(tmp_path) == {"reason": "first line second line", "restart": False}


def test_an_error_without_words_is_named_by_its_type(tmp_path):
    leave_note(tmp_path, KeyError())
    assert note_of(tmp_path)["reason"] == "KeyError"


def test_only_an_error_that_says_so_asks_for_a_restart(tmp_path):
    leave_note(tmp_path, StudyFailedError("a worker died", restart=True))
    assert note_of(tmp_path)["restart"] is True
    leave_note(tmp_path, UserError("wrong"))
    assert note_of(tmp_path)["restart"] is False


def test_a_study_that_fails_leaves_its_reason_in_the_run_folder_and_still_raises(federation, study, tmp_path):
    grid, _ = federation(gather=False)
    grid.gone.update({1000, 1001, 1002})
    config = {"study": study.to_json(), "run-dir": str(tmp_path)}
    with pytest.raises(StudyFailedError):
        main(grid, Context(1, 1, {}, RecordDict(), config))
    assert note_of(tmp_path)["reason"].startswith("0 of 3 sites appeared")
    assert not (tmp_path / "server" / "results.json").exists()


def test_the_server_says_that_it_cannot_run_the_oracle(study):
    assert "oracle" in deployment_notes(study)[0]
    study.strategy.compare = ["fedkr"]
    assert deployment_notes(study) == []
