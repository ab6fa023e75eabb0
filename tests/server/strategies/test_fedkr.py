"""FedKR: the student learns from all releases, is trained once, and what it cost is what its sites paid."""

import dataclasses

import numpy as np
import pytest
import torch

import server.from_releases
from fedkr import wire
from fedkr.errors import StudyFailedError, UserError
from fedkr.learning.job import Job
from fedkr.learning.runtime import Runtime
from server.contestant import Federation
from server.strategies.fedkr import Contestant


@pytest.fixture
def outcome(federation, release_of):
    """Return a function that runs FedKR over sites that release, from what earlier runs left on disk."""

    def run(released=release_of, **options):
        _, coordinator = federation({wire.RELEASE: lambda site, content: wire.release_reply(released(site), 2.5)})
        runtime = Runtime.choose("cpu", "float32", 1)
        return Contestant("fedkr", {"quarantine": False} | options, Federation(coordinator, Job(runtime))).start()()

    return run


def test_the_student_is_trained_once_and_read_afterwards(outcome, monkeypatch):
    first = outcome().model.model
    monkeypatch.setattr("server.from_releases.train_student", lambda *a: pytest.fail("trained again"))
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
    monkeypatch.setattr("server.quarantine.judge_releases", lambda *_, **__: {"site-1": "its images are noise"})
    taught, train = [], server.from_releases.train_student

    def noting(config, sets, job):
        taught.append(len(sets(0).images))
        return train(config, sets, job)

    monkeypatch.setattr("server.from_releases.train_student", noting)
    found = outcome(quarantine=True)
    assert [sorted(files) for files in found.releases] == [["site-0", "site-2"]]
    assert taught == [8]
    assert list(found.notes) == ["the release of site-1 is in quarantine, it taught no student: its images are noise"]
    assert set(found.costs) == {"site-0", "site-1", "site-2"}


def test_the_student_takes_its_steps_for_each_site_that_teaches_it(outcome, monkeypatch):
    taken, train = [], server.from_releases.train_student

    def noting(config, sets, job):
        taken.append(config.steps)
        return train(config, sets, job)

    monkeypatch.setattr("server.from_releases.train_student", noting)
    found = outcome()
    monkeypatch.setattr("server.quarantine.judge_releases", lambda *_, **__: {"site-1": "its images are noise"})
    outcome(quarantine=True)
    assert sorted(found.costs) == ["site-0", "site-1", "site-2"] and taken == [3 * 3, 2 * 3]


def test_images_that_two_sites_released_teach_once_and_both_are_named(outcome, release_of, monkeypatch):
    monkeypatch.setattr("server.quarantine.judge_releases", lambda *_, **__: {})
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 8, 1), dtype=np.uint8)

    def released(site):
        # The third site sends what the first does.
        return dataclasses.replace(release_of(site), images=pixels[int(site[-1]) % 2])

    taught, train = [], server.from_releases.train_student

    def noting(config, sets, job):
        taught.append([len(sets(number).images) for number in range(len(sets))])
        return train(config, sets, job)

    monkeypatch.setattr("server.from_releases.train_student", noting)
    found = outcome(quarantine=True, released=released)
    assert taught == [[9, 9]]
    assert [note for note in found.notes if note.startswith("site-0 and site-2 released the same images (100%")]
    assert [sorted(files) for files in found.releases] == [["site-0", "site-1", "site-2"]]


def test_a_study_of_which_every_release_is_in_quarantine_fails_with_the_reasons(outcome):
    with pytest.raises(
        StudyFailedError, match=r"site-0: 100% of its images .* strategy\.options\.fedkr\.quarantine=false"
    ):
        outcome(quarantine=True)


def test_labels_by_consensus_are_found_once_and_named_in_the_results(outcome, monkeypatch):
    found = outcome(labels="consensus")
    shares = {site: row["relabelled"] for site, row in found.recycling.items()}
    assert set(shares) == {"site-0", "site-1", "site-2"} and all(0 <= share <= 1 for share in shares.values())
    assert [note for note in found.notes if note.startswith("labels by consensus of all sites")]
    monkeypatch.setattr("server.from_releases.relabel", lambda *_: pytest.fail("relabelled again"))
    monkeypatch.setattr("server.judges.train_student", lambda *_: pytest.fail("trained again"))
    again = outcome(labels="consensus")
    assert again.recycling == found.recycling
    assert all(torch.equal(again.model.model.tensors[name], t) for name, t in found.model.model.tensors.items())


def test_the_student_learns_released_labels_where_they_are_asked_for_and_where_there_is_one_site(outcome, monkeypatch):
    monkeypatch.setattr("server.from_releases.relabel", lambda *_: pytest.fail("relabelled"))
    released = outcome(labels="released")
    assert not any("relabelled" in row for row in released.recycling.values()) and not released.notes
    monkeypatch.setattr("server.quarantine.judge_releases", lambda *_, **__: {"site-1": "noise", "site-2": "noise"})
    assert not any("relabelled" in row for row in outcome(labels="consensus", quarantine=True).recycling.values())


def test_a_way_to_label_that_there_is_not_is_refused_with_those_that_there_are(study):
    with pytest.raises(UserError, match=r"strategy\.options\.fedkr\.labels.*consensus"):
        Contestant.check("fedkr", {"labels": "guessed"}, study)
