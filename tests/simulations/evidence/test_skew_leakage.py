"""What ways of drawing give away: members' scores, which images they are of, and how ways stand beside each other."""

import json

import numpy as np
import pytest

from simulations.evidence.skew.federation import Federation, study_of
from simulations.evidence.skew.leakage import ALL, NEARER, Attacked, attacked, figures, pooled
from simulations.evidence.skew.leakage import main as leakage_main

WAYS = ["five", "doubt+five"]


class Copying:
    """A generator of grey images, which by its firmer knobs draws the images that it was trained on."""

    def __init__(self, train):
        self.train, self.drawn = train, 0

    def default_knobs(self):
        return {"copies": 0}

    def firmer_knobs(self, knobs):
        return knobs | {"copies": 1}

    def sample(self, labels, knobs, *seed):
        images = np.full((len(labels), *self.train.images.shape[1:]), 128, np.uint8)
        for k in np.unique(labels) if knobs["copies"] else []:
            own = self.train.images[self.train.labels == k]
            images[labels == k] = own[np.arange((labels == k).sum()) % len(own)]
        yield images


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    study = study_of("digits-60", 0, "", "quick")
    federation = Federation("digits-60", study, False, tmp_path_factory.mktemp("stages"))
    study.student.steps, study.teacher.steps = 5, 60
    for site in federation.sites:
        site.generator = Copying(site.data.train)
    return federation, attacked(federation, WAYS)


def row_of(rows, way, attack, of):
    (row,) = (row for row in rows if (row["way"], row["attack"], row["of"]) == (way, attack, of))
    return row


def test_what_is_drawn_nearer_and_copied_is_found(found):
    federation, scores = found
    assert scores.member.sum() == sum(len(site.data.train) for site in federation.sites)
    assert len(scores.member) == sum(len(site.data.train) + len(site.data.holdout) for site in federation.sites)
    rows = figures(scores, WAYS)
    for attack in ("nearest", "calibrated"):
        copied = row_of(rows, "doubt+five", attack, NEARER)
        assert copied["auc"] > 0.9 and copied["more_low"] > 0.2
        assert row_of(rows, "five", attack, NEARER)["auc"] < 0.8
    assert "more" not in row_of(rows, "five", "student", ALL)


def test_only_classes_that_a_site_draws_nearer_are_in_their_part(found):
    federation, scores = found
    start = 0
    for site in federation.sites:
        labels = np.concatenate([site.data.train.labels, site.data.holdout.labels])
        nearer = scores.nearer[start : start + len(labels)]
        # Grey images are of one class at most, and each other class that the site draws is doubted.
        firm = set(labels[nearer])
        assert len(firm) >= 2 and np.array_equal(nearer, np.isin(labels, list(firm)))
        start += len(labels)
    assert start == len(scores.nearer)


def test_federations_are_pooled_image_by_image_and_a_part_without_both_sides_has_no_row():
    rng = np.random.default_rng(0)
    member, nearer = np.arange(40) % 2 == 0, np.zeros(40, bool)
    first = Attacked({("five", "nearest"): rng.normal(size=40)}, member, nearer)
    second = Attacked({("five", "nearest"): rng.normal(size=40) + 3 * member}, member, nearer)
    both = pooled([first, second])
    (row,) = figures(both, ["five"])
    assert (row["members"], row["nonmembers"], row["of"]) == (40, 40, ALL)
    assert figures(first, ["five"])[0]["auc"] < row["auc"] < figures(second, ["five"])[0]["auc"]


def test_the_command_writes_each_federation_and_all_together(tmp_path, monkeypatch):
    def short(*words):
        study = study_of(*words)
        study.student.steps = study.teacher.steps = 2
        return study

    monkeypatch.setattr("simulations.evidence.skew.leakage.study_of", short)
    out = tmp_path / "rows.json"
    assert leakage_main([str(out), "cuts=digits-60", "seeds=0,1", "generator=neighbours", "budget=quick"]) == 0
    written = json.loads(out.read_text())
    assert {row["seed"] for row in written["rows"]} == {0, 1}
    assert all(row["more"] == 0 for row in written["rows"] if row["way"] == "doubt+five")
    alone = sum(row["members"] for row in written["rows"] if (row["way"], row["attack"]) == ("five", "student"))
    assert row_of(written["together"], "five", "student", ALL)["members"] == alone
