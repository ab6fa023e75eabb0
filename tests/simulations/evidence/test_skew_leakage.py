"""What ways of drawing give away: members' scores, which images they are of, and how ways stand beside each other."""

import json

import numpy as np
import pytest

from fedkr.data.distances import log_nearness
from fedkr.errors import UserError
from fedkr.stages import Artifact
from simulations.evidence.skew.federation import Federation, study_of
from simulations.evidence.skew.leakage import (
    ALL,
    NEARER,
    Attacked,
    attacked,
    confidences,
    figures,
    nearness,
    pooled,
)
from simulations.evidence.skew.leakage import main as leakage_main
from simulations.evidence.skew.ways import Draw

WAYS = ["five", "doubt+five"]


class Copying:
    """A generator of grey images, which by its firmer knobs draws the images that it was trained on."""

    def __init__(self, train):
        self.train = train

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
        firm = site.drawer(Draw(doubt=0.5)).firm
        # Grey images are of one class at most, and each other class that the site draws is doubted.
        assert len(firm) >= 2
        np.testing.assert_array_equal(scores.nearer[start : start + len(labels)], np.isin(labels, list(firm)))
        assert len(np.unique(scores.cell[start : start + len(labels)])) == len(np.unique(labels))
        start += len(labels)
    assert start == len(scores.nearer)


def test_nearness_is_calibrated_by_what_the_other_sites_drew(found):
    federation, scores = found
    first, last = federation.sites[0], federation.sites[-1]
    near = nearness(federation.sites, last.data.holdout.images[-1:], Draw(doubt=0.5))[:, 0]
    assert scores.scores["doubt+five", "nearest"][-1] == near[-1]
    assert scores.scores["doubt+five", "calibrated"][-1] == pytest.approx(near[-1] - near[:-1].mean())
    drawn = first.drawn(Draw(doubt=0.5))[1][:1]
    assert nearness(federation.sites, drawn, Draw(doubt=0.5))[0, 0] == log_nearness(np.zeros((1, 1)))[0], "a copy"


def test_a_student_is_the_surer_of_an_image_the_likelier_it_says_its_class_is(found, monkeypatch):
    federation, _ = found
    images = [site.data.train for site in federation.sites]
    odd = np.concatenate([np.arange(len(own)) % 2 for own in images]).astype(bool)

    def predict(study, model, own, runtime):
        return 5.0 * np.eye(10)[own.labels] * (np.arange(len(own)) % 2)[:, None]

    monkeypatch.setattr("simulations.evidence.skew.leakage.predict", predict)
    said = confidences(federation, Artifact(), images)
    assert said[odd].min() > said[~odd].max()


def scored(scores, member, cell):
    nearer = np.zeros(len(cell), bool)
    return Attacked({("five", "nearest"): np.array(scores, float)}, np.array(member, bool), np.array(cell), nearer)


def test_members_are_compared_within_their_class_and_site_alone():
    # Of all pairs a member would win most. Of the two cells that have both sides one has a win in two pairs, one half a
    # win in one; they count by their pairs over one more than their images.
    (row,) = figures(scored([9, 7, 8, 3, 3, 1], [1, 1, 0, 1, 0, 1], [0, 0, 0, 1, 1, 2]), ["five"])
    assert row["auc"] == pytest.approx((1 / 4 + 0.5 / 3) / (2 / 4 + 1 / 3))
    assert (row["cells"], row["members"], row["nonmembers"], row["of"]) == (2, 3, 2, ALL)


def test_a_class_that_tells_members_by_itself_is_not_taken_for_leakage():
    rng = np.random.default_rng(0)
    cell = np.repeat(np.arange(20), 40)
    member = rng.random(800) < np.where(cell < 10, 0.9, 0.1)
    (row,) = figures(scored(rng.normal(size=800) - 5 * (cell >= 10), member, cell), ["five"])
    # Over all pairs it would be 0.8.
    assert abs(row["auc"] - 0.5) < 0.1


def test_federations_are_pooled_without_mixing_their_cells():
    rng = np.random.default_rng(0)
    member, cell = np.arange(40) % 2 == 0, np.zeros(40, int)
    first, second = (scored(rng.normal(size=40) + shift, member, cell) for shift in (0, 50))
    (row,) = figures(pooled([first, second]), ["five"])
    assert (row["cells"], row["members"], row["nonmembers"]) == (2, 40, 40)
    alone = [figures(part, ["five"])[0]["auc"] for part in (first, second)]
    assert row["auc"] == pytest.approx(np.mean(alone))


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(UserError, match="not finite"):
        figures(scored([1, np.nan], [1, 0], [0, 0]), ["five"])


def test_an_unknown_way_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(UserError, match="ways"):
        leakage_main([str(tmp_path / "rows.json"), "ways=five,doupt+five"])


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
    assert alone and row_of(written["together"], "five", "student", ALL)["members"] == alone
