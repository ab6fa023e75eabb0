import pytest

from fedkr.config import BackendConfig
from fedkr.errors import UserError
from simulations.backends import RunFailed, make_backend
from simulations.backends.inline import InlineBackend
from simulations.backends.run_failed import note_path, read_note, with_restarts


def test_a_reason_is_one_line():
    assert str(RunFailed("first\n  second\n")) == "first second"


@pytest.mark.parametrize("text", ["", "[]", "3", '{"restart": true}', '{"reason": '])
def test_a_note_that_cannot_be_read_is_no_note(tmp_path, text):
    note_path(tmp_path).parent.mkdir()
    note_path(tmp_path).write_text(text)
    assert read_note(tmp_path) is None


@pytest.mark.parametrize(("restart", "restarts", "attempts"), [(True, 2, 3), (True, 0, 1), (False, 2, 1)])
def test_only_failures_that_a_restart_can_cure_are_tried_again(restart, restarts, attempts):
    calls = []

    def attempt():
        calls.append(1)
        raise RunFailed("an actor died", restart)

    with pytest.raises(RunFailed, match="an actor died"):
        with_restarts(attempt, restarts)
    assert len(calls) == attempts


def test_a_run_that_completes_is_not_repeated():
    calls = []
    with_restarts(lambda: calls.append(1), 5)
    assert calls == [1]


def test_an_unknown_backend_is_named():
    assert isinstance(make_backend(BackendConfig(kind="inline")), InlineBackend)
    with pytest.raises(UserError, match=r"backend\.kind='rya'.*did you mean 'ray'"):
        make_backend(BackendConfig(kind="rya"))
