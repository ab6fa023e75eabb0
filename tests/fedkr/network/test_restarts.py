import pytest

from fedkr.errors import StudyFailedError
from fedkr.network.restarts import with_restarts


@pytest.mark.parametrize(("restart", "restarts", "attempts"), [(True, 2, 3), (True, 0, 1), (False, 2, 1)])
def test_only_failures_that_a_restart_can_cure_are_tried_again(restart, restarts, attempts):
    calls = []

    def attempt():
        calls.append(1)
        raise StudyFailedError("an actor died", restart)

    with pytest.raises(StudyFailedError, match="an actor died"):
        with_restarts(attempt, restarts)
    assert len(calls) == attempts


def test_a_run_that_completes_is_not_repeated():
    calls = []
    with_restarts(lambda: calls.append(1), 5)
    assert calls == [1]
