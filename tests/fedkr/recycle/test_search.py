"""What a release holds of each class, and how candidates are scored."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkr.data import ImageSet
from fedkr.learning.evaluation import Utility
from fedkr.learning.job import Job
from fedkr.learning.runtime import Runtime
from fedkr.recycle.drawer import class_shares
from fedkr.recycle.search import (
    CandidateScorer,
    Score,
    StudentTrial,
    best_of,
    chance_auc,
    choose_checkpoint,
    halve,
    standard_error,
)
from fedkr.report.search import Candidate, pareto_front


def a_set(*counts):
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    return ImageSet(np.zeros((len(labels), 2, 2, 1), np.uint8), labels, tuple(map(str, range(len(counts)))))


def drawn(counts, count, balance, least=1, seed=0):
    labels = class_shares(a_set(*counts).class_counts(), count, balance, least, np.random.default_rng(seed))
    return np.bincount(labels, minlength=len(counts)).tolist()


def test_a_histogram_release_has_the_classes_in_the_sites_own_proportions():
    assert drawn((60, 30, 10), 50, "histogram") == [30, 15, 5]


def test_a_balanced_release_has_as_many_of_each_class_that_the_site_has():
    assert drawn((60, 30, 10, 0), 50, "balanced") == [17, 17, 16, 0]


def test_a_tempered_release_goes_by_the_square_roots():
    assert drawn((64, 16, 4), 70, "tempered") == [40, 20, 10]


@pytest.mark.parametrize("balance", ["histogram", "balanced", "tempered"])
def test_a_class_with_too_few_images_is_left_out(balance):
    assert drawn((40, 4, 5, 0), 90, balance, least=5)[1] == 0
    assert drawn((40, 4, 5, 0), 90, balance, least=5)[3] == 0
    assert drawn((40, 4, 5, 0), 90, balance, least=5)[2] > 0


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=8).filter(any),
    st.integers(1, 200),
    st.sampled_from(["histogram", "balanced", "tempered"]),
)
def test_every_release_has_exactly_the_count_that_was_asked_and_each_class_within_one_of_its_share(
    counts, count, balance
):
    found = np.array(drawn(counts, count, balance))
    power = {"histogram": 1.0, "balanced": 0.0, "tempered": 0.5}[balance]
    weights = np.array([c**power if c else 0.0 for c in counts])
    assert found.sum() == count
    assert (np.abs(found - count * weights / weights.sum()) < 1).all()


def test_the_order_is_shuffled_by_the_seed_and_the_counts_are_not():
    first, second = (class_shares(np.array([20, 20]), 40, "histogram", 1, np.random.default_rng(s)) for s in (0, 1))
    assert not np.array_equal(first, second)
    assert sorted(first) == sorted(second)
    assert first.dtype == np.int64


def utility(accuracy=0.5, auc=0.7, loss=1.0):
    return Utility(accuracy, accuracy, auc, loss, [], 10)


def test_a_score_is_the_figure_that_the_study_names_and_accuracy_where_val_has_one_class():
    assert Score.of(utility(), "accuracy").value == 0.5
    assert Score.of(utility(), "auc").value == 0.7
    assert Score.of(utility(auc=None), "auc").value == 0.5
    metrics = [Score.of(utility(auc=auc), "auc").metric for auc in (0.7, None)]
    assert metrics == ["auc", "accuracy"]


def test_of_two_equal_scores_the_one_with_less_loss_is_better():
    low, high = Score.of(utility(loss=0.5), "accuracy"), Score.of(utility(loss=0.9), "accuracy")
    assert low.order() > high.order()
    assert low.as_row() == {"score": 0.5, "loss": 0.5}


class Scripted:
    """A trial whose score at each step is known beforehand; remembers how far it was trained."""

    def __init__(self, final, early=None):
        self.final, self.early, self.stops = final, final if early is None else early, []

    def advance(self, until):
        self.stops.append(until)
        return Score(self.final if until == 8 else self.early, 0.0)


def test_without_rungs_every_trial_is_trained_to_the_end():
    trials = [Scripted(v) for v in (0.1, 0.3, 0.2)]
    results = halve(trials, 8, 1)
    assert [t.stops for t in trials] == [[8]] * 3
    assert best_of(results) == 1


def test_halving_trains_the_better_half_twice_as_far():
    trials = [Scripted(v) for v in (0.1, 0.4, 0.2, 0.5)]
    results = halve(trials, 8, 3)
    assert [t.stops for t in trials] == [[2], [2, 4, 8], [2], [2, 4, 8]]
    assert [steps for _, steps in results] == [2, 8, 2, 8]
    assert best_of(results) == 3


def test_an_early_leader_that_was_dropped_later_is_not_the_best():
    trials = [Scripted(0.9, early=0.1), Scripted(0.3, early=0.4), Scripted(0.2, early=0.5)]
    results = halve(trials, 8, 2)
    assert trials[0].stops == [4]
    assert best_of(results) == 1


def test_of_equal_scores_the_first_is_taken():
    assert best_of(halve([Scripted(0.5), Scripted(0.5)], 8, 1)) == 0


HUNDRED = np.repeat([0, 1], 50)


def test_a_later_checkpoint_is_taken_where_it_is_as_good_but_for_noise():
    # A share of 0.90 of 100 images has a standard error of 0.03.
    results = halve([Scripted(v) for v in (0.90, 0.88, 0.80)], 8, 1)
    chosen = {tolerance: choose_checkpoint(results, tolerance, HUNDRED) for tolerance in (0.0, 0.5, 1.0, 4.0, math.inf)}
    assert chosen == {0.0: 0, 0.5: 0, 1.0: 1, 4.0: 2, math.inf: 2}


def test_a_perfect_score_on_few_images_has_an_error_too():
    results = halve([Scripted(1.0), Scripted(0.995)], 8, 1)
    assert choose_checkpoint(results, 1.0, HUNDRED) == 1


def test_a_checkpoint_that_was_dropped_is_not_taken_for_being_late():
    results = halve([Scripted(v) for v in (0.5, 0.4, 0.1, 0.3)], 8, 2)
    assert [steps for _, steps in results] == [8, 8, 4, 4]
    assert choose_checkpoint(results, math.inf, HUNDRED) == 1


def leaking(value, leakage, weight):
    return Score(value, 0.0, leakage=leakage, weight=weight)


def test_leakage_counts_by_its_weight_and_not_below_guessing():
    candidates = [(0.90, 0.70), (0.85, 0.60), (0.78, 0.40), (0.70, 0.30)]
    chosen = {
        weight: best_of([(leaking(*one, weight), 8) for one in candidates]) for weight in (0.0, 0.4, 0.6, 2.0, 1e38)
    }
    assert chosen == {0.0: 0, 0.4: 0, 0.6: 1, 2.0: 2, 1e38: 2}
    assert leaking(0.9, 0.7, 0.0).order() == Score(0.9, 0.0).order()
    assert leaking(0.9, 0.7, 0.5).as_row() == {"score": 0.9, "loss": 0.0, "leakage": 0.7}
    assert "leakage" not in Score(0.9, 0.0, weight=0.5).as_row()


def test_a_tolerance_is_of_what_is_left_of_the_score():
    # Of 100 images, 0.90 has a standard error of 0.03.
    results = [(leaking(0.90, 0.5, 1.0), 8), (leaking(0.90, 0.6, 1.0), 8)]
    assert [choose_checkpoint(results, tolerance, HUNDRED) for tolerance in (1.0, 4.0)] == [0, 1]


FIGURES = st.tuples(st.integers(0, 20), st.integers(10, 20)).map(lambda pair: (pair[0] / 20, pair[1] / 20))


@given(st.lists(FIGURES, min_size=1, max_size=8), st.floats(0.01, 100))
def test_what_is_chosen_lies_on_the_front_whatever_the_weight(found, weight):
    results = [(leaking(*one, weight), 8) for one in found]
    score, _ = results[best_of(results)]
    front = pareto_front([Candidate("", None, value, None, leakage) for value, leakage in found])
    assert (score.value, score.leakage) in [(one.score, one.leakage) for one in front]
    assert [c.score for c in front] == sorted({c.score for c in front})


def scorer(study, images, **settings):
    study = dataclasses.replace(study, recycle=dataclasses.replace(study.recycle, **settings))
    job = Job(Runtime.choose("cpu"), seed=(0,))
    return CandidateScorer(study, images([10] * 4), images([5] * 4, seed=1), None, job, frozenset())


def test_nobody_measures_leakage_where_it_counts_for_nothing_or_nothing_is_chosen(tiny_study, pictures, monkeypatch):
    assert scorer(tiny_study, pictures).gauge is None
    gauge = scorer(tiny_study, pictures, leakage_weight=0.1).gauge
    assert gauge is not None and gauge(pictures([8] * 4, seed=2).images) == gauge(pictures([8] * 4, seed=2).images)
    monkeypatch.setattr("fedkr.config.protocol.LEAST_TO_CHOOSE", 21)
    assert scorer(tiny_study, pictures, leakage_weight=0.1).gauge is None


def test_a_trial_is_scored_by_the_logits_that_its_student_is_trained_with(tiny_study, pictures, runtime):
    judge = pictures((6, 4, 2))

    class Work:
        """A training without a model, which is right behind its class shares."""

        job = Job(runtime)

        def advance(self, until, stage):
            """Train for no time."""

        def logits_as_met(self, images):
            return np.eye(len(judge.classes), dtype=np.float32)[judge.labels]

    assert StudentTrial(Work(), judge, tiny_study.recycle, "trial", None).advance(1).value == 1.0


def test_the_last_can_be_spared_from_being_dropped():
    trials = [Scripted(v) for v in (0.5, 0.4, 0.1, 0.3)]
    assert [steps for _, steps in halve(trials, 8, 2, spare_last=True)] == [8, 8, 4, 8]


def score(value, metric):
    return Score(value, 0.0, metric=metric)


def test_standard_errors_are_those_that_scores_have():
    rng, labels = np.random.default_rng(0), np.repeat([0, 1], [60, 20])
    shares = (rng.random((4000, 80)) < 0.9).mean(axis=1)
    assert standard_error(score(0.9, "accuracy"), labels) == pytest.approx(shares.std(), rel=0.1)
    # Normal scores a deviation apart have an AUC of 0.76, two apart 0.92.
    for apart in (1.0, 2.0):
        scores = rng.normal(size=(4000, 80)) + apart * labels
        areas = (scores[:, 60:, None] > scores[:, None, :60]).mean(axis=(1, 2))
        assert standard_error(score(areas.mean(), "auc"), labels) == pytest.approx(areas.std(), rel=0.3)


def test_chance_has_the_deviation_of_the_rank_statistic():
    labels = np.repeat([0, 1], [30, 10])
    rng = np.random.default_rng(0)
    ranks = rng.random((4000, 40)).argsort(axis=1).argsort(axis=1) + 1
    aucs = (ranks[:, labels == 1].sum(axis=1) - 10 * 11 / 2) / (30 * 10)
    mean, deviation = chance_auc(labels)
    assert mean == 0.5
    assert np.std(aucs) == pytest.approx(deviation, rel=0.05)
