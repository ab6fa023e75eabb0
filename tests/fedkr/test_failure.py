"""The note that failed work leaves."""

import json

import pytest

from fedkr.errors import StudyFailedError
from fedkr.failure import NOTE, clear_note, leave_note, read_note


def test_a_reason_is_one_line_whatever_the_error_says(tmp_path):
    assert str(StudyFailedError("first\n  second\n")) == "first second"
    leave_note(tmp_path, "first line\n  second\tline", message="train")
    note = json.loads((tmp_path / NOTE).read_text())
    assert note == {"reason": "first line second line", "restart": False, "message": "train"}


def test_a_note_is_read_as_the_failure_it_tells_of(tmp_path):
    leave_note(tmp_path, "a worker died", restart=True)
    failure = read_note(tmp_path)
    assert (str(failure), failure.restart) == ("a worker died", True)
    clear_note(tmp_path)
    assert read_note(tmp_path) is None
    clear_note(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "3", '{"restart": true}', '{"reason": '])
def test_a_note_that_cannot_be_read_is_no_note(tmp_path, text):
    (tmp_path / NOTE).write_text(text)
    assert read_note(tmp_path) is None
