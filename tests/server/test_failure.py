"""The note that a run leaves when it ends badly."""

import json

import pytest
from flwr.app import Context, RecordDict

from fedkr.errors import StudyFailedError, UserError
from server.app import deployment_notes, main
from server.failure import failures_noted


@pytest.fixture
def note_of(tmp_path):
    """Return the note that a run leaves when an error ends it, or that an earlier one left."""

    def note_of(error=None):
        if error:
            with pytest.raises(type(error)), failures_noted(tmp_path):
                raise error
        return json.loads((tmp_path / "server" / "failure.json").read_text())

    return note_of


def test_a_note_is_one_line_whatever_the_error_says(note_of):
    assert note_of(ValueError("first line\n  second\tline")) == {"reason": "first line second line", "restart": False}


def test_an_error_without_words_is_named_by_its_type(note_of):
    assert note_of(KeyError())["reason"] == "KeyError"


def test_only_an_error_that_says_so_asks_for_a_restart(note_of):
    assert note_of(StudyFailedError("a worker died", restart=True))["restart"] is True
    assert note_of(UserError("wrong"))["restart"] is False


def test_a_study_that_fails_leaves_its_reason_in_the_run_folder_and_still_raises(federation, study, note_of, tmp_path):
    grid, _ = federation(gather=False)
    grid.gone.update({1000, 1001, 1002})
    config = {"study": study.to_json(), "run-dir": str(tmp_path)}
    with pytest.raises(StudyFailedError):
        main(grid, Context(1, 1, {}, RecordDict(), config))
    assert note_of()["reason"].startswith("0 of 3 sites appeared")
    assert not (tmp_path / "server" / "results.json").exists()


def test_the_server_says_that_it_cannot_run_the_oracle(study):
    study.strategy.options = {"centralised": {"driver": True}}
    assert "oracle" in deployment_notes(study)[0]
    study.strategy.compare = ["fedkr"]
    assert deployment_notes(study) == []
