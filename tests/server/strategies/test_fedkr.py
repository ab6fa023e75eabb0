"""FedKR: the student learns from all releases, is trained once, and what it cost is what its sites paid."""

import pytest

from fedkr import wire
from fedkr.learning.job import Job
from fedkr.learning.runtime import Runtime
from server.contestant import Federation
from server.strategies.fedkr import Contestant


@pytest.fixture
def outcome(federation, release_of):
    """Return a function that runs FedKR over sites that release, from what earlier runs left on disk."""

    def run():
        _, coordinator = federation({wire.RELEASE: lambda site, content: wire.release_reply(release_of(site), 2.5)})
        runtime = Runtime.choose("cpu", "float32", 1)
        return Contestant("fedkr", {}, Federation(coordinator, Job(runtime))).start()()

    return run


def test_the_student_is_trained_once_and_read_afterwards(outcome, monkeypatch):
    first = outcome().model.model
    monkeypatch.setattr("server.strategies.fedkr.train_student", lambda *a: pytest.fail("trained again"))
    assert outcome().model.model.tensors.keys() == first.tensors.keys()


def test_each_site_pays_for_its_release_and_for_the_student_that_it_gets(outcome):
    found = outcome()
    size = sum(t.numel() * t.element_size() for t in found.model.model.tensors.values())
    for cost in found.costs.values():
        assert cost["seconds"] == 2.5
        assert cost["bytes_up"] >= 8 * 64 + 8 * 3 * 2
        assert cost["bytes_down"] > size
    assert [(target.name, target.kind) for target in found.targets()] == [
        ("student", "student"),
        ("teacher", "teacher"),
    ]
