"""FedKR: the student learns from all releases, is trained once, and what it cost is what its sites paid."""

import pytest

import server.strategies.fedkr
from fedkr import wire
from fedkr.errors import StudyFailedError
from fedkr.learning.job import Job
from fedkr.learning.runtime import Runtime
from server.contestant import Federation
from server.strategies.fedkr import Contestant


@pytest.fixture
def outcome(federation, release_of):
    """Return a function that runs FedKR over sites that release, from what earlier runs left on disk."""

    def run(**options):
        _, coordinator = federation({wire.RELEASE: lambda site, content: wire.release_reply(release_of(site), 2.5)})
        runtime = Runtime.choose("cpu", "float32", 1)
        return Contestant("fedkr", {"quarantine": False} | options, Federation(coordinator, Job(runtime))).start()()

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


def test_a_release_in_quarantine_teaches_no_student_and_is_named_in_the_results(outcome, monkeypatch):
    monkeypatch.setattr("server.quarantine.judge_releases", lambda *_: {"site-1": "its images are noise"})
    taught, train = [], server.strategies.fedkr.train_student

    def noting(config, sets, job):
        taught.append(len(sets(0).images))
        return train(config, sets, job)

    monkeypatch.setattr("server.strategies.fedkr.train_student", noting)
    found = outcome(quarantine=True)
    assert [sorted(files) for files in found.releases] == [["site-0", "site-2"]]
    assert taught == [8]
    assert list(found.notes) == ["the release of site-1 is in quarantine, it taught no student: its images are noise"]
    assert set(found.costs) == {"site-0", "site-1", "site-2"}


def test_a_study_of_which_every_release_is_in_quarantine_fails_with_the_reasons(outcome):
    with pytest.raises(
        StudyFailedError, match=r"site-0: 100% of its images .* strategy\.options\.fedkr\.quarantine=false"
    ):
        outcome(quarantine=True)
