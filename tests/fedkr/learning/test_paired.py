"""Intervals of classifiers' figures, and of their differences on the same images."""

import numpy as np
import pytest
from scipy.stats import binomtest

from fedkr.learning.evaluation import measure_utility
from fedkr.learning.paired import PAIRED_FIGURES, PairedUtility


def answering(labels, wrong, classes=3, sure=4.0):
    """Return logits that name each label, but for ``wrong`` ones, which name the next class."""
    named = np.where(np.isin(np.arange(len(labels)), wrong), (labels + 1) % classes, labels)
    return (sure * np.eye(classes)[named]).astype(np.float32)


@pytest.fixture
def labels():
    return np.arange(300) % 3


@pytest.mark.parametrize("classes", [2, 3])
def test_figures_are_those_of_the_utility(classes):
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, classes, 80), rng.normal(size=(80, classes)).astype(np.float32)
    utility, paired = measure_utility(logits, labels, classes), PairedUtility({"a": logits}, labels, None, 0)
    for figure in PAIRED_FIGURES:
        found = paired.figure("a", figure)
        assert found.value == pytest.approx(getattr(utility, figure)) and found.low < found.value < found.high


def test_an_interval_of_an_accuracy_is_about_the_binomial_one(labels):
    found = PairedUtility({"a": answering(labels, range(60))}, labels, None, 0).figure("a", "accuracy")
    exact = binomtest(240, 300).proportion_ci()
    assert found.low == pytest.approx(exact.low, abs=0.01) and found.high == pytest.approx(exact.high, abs=0.01)


def test_differences_are_paired(labels):
    """Two classifiers that err on the same 60 images, and one on six more: the 60 do not blur the six."""
    models = {"a": answering(labels, range(60)), "b": answering(labels, range(66))}
    paired = PairedUtility(models, labels, None, 0)
    found = paired.difference("a", "b", "accuracy")
    assert found.value == pytest.approx(0.02) and 0 < found.low < 0.02 < found.high < 0.04
    backwards = paired.difference("b", "a", "accuracy")
    assert (backwards.low, backwards.high) == pytest.approx((-found.high, -found.low))
    assert paired.difference("a", "b", "balanced_accuracy").low > 0


def test_patients_are_drawn_whole(labels):
    """30 patients of ten images each, who are answered rightly or wrongly as a whole."""
    wrong, groups = np.arange(60), np.arange(300) // 10
    logits = {"a": answering(labels, wrong)}
    by_image, by_patient = (PairedUtility(logits, labels, each, 0).figure("a", "accuracy") for each in (None, groups))
    assert by_patient.high - by_patient.low > 2 * (by_image.high - by_image.low)


def test_no_image_that_tells_two_apart_does_not_make_them_the_same(labels):
    paired = PairedUtility(dict.fromkeys("ab", answering(labels, [])), labels, None, 0)
    least = binomtest(300, 300).proportion_ci().low
    found, difference = paired.figure("a", "accuracy"), paired.difference("a", "b", "accuracy")
    assert (found.low, found.value, found.high) == pytest.approx((least, 1, 1))
    assert (difference.low, difference.value, difference.high) == pytest.approx((least - 1, 0, 1 - least))
    assert paired.figure("a", "auc").low < 1 and paired.difference("a", "b", "auc").high > 0


def test_what_a_rare_class_hides_widens_the_mean_over_classes():
    """All 12 of a class right: up to 26 % of others could be wrong, of 500 of the other class 0.7 %."""
    labels = np.r_[np.zeros(500, int), np.ones(12, int)]
    found = PairedUtility({"a": answering(labels, [], 2)}, labels, None, 0).figure("a", "balanced_accuracy")
    hidden = [1 - binomtest(count, count).proportion_ci().low for count in (500, 12)]
    assert found.low == pytest.approx(1 - np.hypot(*hidden) / 2) and found.high == 1


def test_too_few_images_of_a_class_or_patients_give_no_interval():
    labels = np.r_[np.zeros(40, int), np.ones(9, int)]
    paired = PairedUtility(dict.fromkeys("ab", answering(labels, [0], 2)), labels, None, 0)
    assert paired.figure("a", "accuracy") is not None
    assert paired.figure("a", "balanced_accuracy") is None and paired.difference("a", "b", "auc") is None
    few = PairedUtility({"a": answering(labels, [0], 2)}, labels, np.arange(49) % 9, 0)
    assert few.figure("a", "accuracy") is None


def test_four_images_that_differ_one_way_are_no_difference(labels):
    """The exact sign test has p = 0.125, whatever resamples say."""
    models = {"a": answering(labels, []), "b": answering(labels, range(4)), "c": answering(labels, range(6))}
    paired = PairedUtility(models, labels, None, 0)
    assert paired.difference("a", "b", "accuracy").low == 0 < paired.difference("a", "c", "accuracy").low


def test_images_of_one_class_have_no_auc():
    labels = np.zeros(20, int)
    paired = PairedUtility(dict.fromkeys("ab", answering(labels, [3, 4])), labels, None, 0)
    assert paired.figure("a", "auc") is None and paired.difference("a", "b", "auc") is None
    assert paired.figure("a", "balanced_accuracy").value == pytest.approx(0.9)


def test_the_seed_may_be_any_number(labels):
    assert PairedUtility({"a": answering(labels, [1])}, labels, None, -1).figure("a", "accuracy") is not None


def test_the_balanced_accuracys_interval_covers_the_truth_where_a_class_is_rare():
    rng, covered = np.random.default_rng(2), 0
    labels = np.r_[np.zeros(200, int), np.ones(12, int)]
    for seed in range(60):
        wrong = np.flatnonzero(rng.random(212) < np.where(labels == 0, 0.02, 0.1))
        found = PairedUtility({"a": answering(labels, wrong, 2)}, labels, None, seed).figure("a", "balanced_accuracy")
        covered += found.low <= 0.94 <= found.high
    assert covered >= 53


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng, covered = np.random.default_rng(1), 0
    for seed in range(100):
        labels = rng.integers(0, 2, 150)
        logits = {
            name: answering(labels, np.flatnonzero(rng.random(150) < rate), 2)
            for name, rate in (("a", 0.1), ("b", 0.2))
        }
        found = PairedUtility(logits, labels, None, seed).difference("a", "b", "accuracy")
        covered += found.low <= 0.1 <= found.high
    assert 88 <= covered <= 99
