"""Utility figures, against sklearn and by hand."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from scipy.stats import entropy
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score

from fedkr.learning.evaluation import measure_fidelity, measure_utility


def drawn(count, classes, seed=0, absent=()):
    rng = np.random.default_rng(seed)
    labels = rng.choice([k for k in range(classes) if k not in absent], count).astype(np.int64)
    return rng.normal(0, 2, (count, classes)).astype(np.float32), labels


def test_a_small_case_worked_out_by_hand():
    logits = np.log(np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]], np.float32))
    found = measure_utility(logits, np.array([0, 0, 1, 1]), 2)
    assert found.accuracy == 0.75
    assert found.balanced_accuracy == 0.75
    assert found.auc == 0.75
    assert found.confusion == [2, 0, 1, 1]
    assert found.loss == pytest.approx(-np.log([0.9, 0.6, 0.3, 0.8]).mean(), rel=1e-6)
    assert found.count == 4


def test_a_recall_is_given_for_classes_with_enough_images_only():
    logits = np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 0]] * 5
    found = measure_utility(logits, np.array([0, 0, 0, 1, 1]), 3)
    assert found.recalls() == [pytest.approx(2 / 3), 0.5, None]
    assert found.recalls(least=3) == [pytest.approx(2 / 3), None, None]


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_figures_are_sklearns(classes):
    logits, labels = drawn(200, classes)
    found, probabilities = measure_utility(logits, labels, classes), softmax(logits.astype(float), axis=1)
    predicted = logits.argmax(axis=1)
    assert found.accuracy == pytest.approx((predicted == labels).mean())
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert found.loss == pytest.approx(log_loss(labels, probabilities, labels=np.arange(classes)))
    auc = roc_auc_score(labels, probabilities[:, 1] if classes == 2 else probabilities, multi_class="ovr")
    assert found.auc == pytest.approx(auc)
    assert np.sum(found.confusion) == 200


def test_a_class_without_images_counts_neither_for_auc_nor_for_balance():
    logits, labels = drawn(120, 5, absent=(1, 4))
    found, probabilities = measure_utility(logits, labels, 5), softmax(logits.astype(float), axis=1)
    by_hand = [roc_auc_score(labels == k, probabilities[:, k]) for k in (0, 2, 3)]
    assert found.auc == pytest.approx(np.mean(by_hand))
    predicted = logits.argmax(axis=1)
    assert found.balanced_accuracy == pytest.approx(np.mean([(predicted[labels == k] == k).mean() for k in (0, 2, 3)]))
    assert len(found.confusion) == 25


@pytest.mark.parametrize("classes", [2, 4])
def test_one_class_alone_has_no_auc(classes):
    logits, _ = drawn(10, classes)
    found = measure_utility(logits, np.ones(10, np.int64), classes)
    assert found.auc is None
    assert found.balanced_accuracy == found.accuracy


def test_two_of_many_classes_use_both_columns():
    logits, labels = drawn(60, 3, absent=(0,))
    probabilities = softmax(logits.astype(float), axis=1)
    by_hand = np.mean([roc_auc_score(labels == k, probabilities[:, k]) for k in (1, 2)])
    assert measure_utility(logits, labels, 3).auc == pytest.approx(by_hand)


def test_a_confident_mistake_has_a_large_but_finite_loss():
    logits = np.array([[1000.0, -1000.0]], np.float32)
    assert measure_utility(logits, np.array([1]), 2).loss == pytest.approx(-np.log(1e-12))
    assert measure_utility(logits, np.array([0]), 2).loss == pytest.approx(0.0, abs=1e-9)


def test_the_loss_is_the_mean_cross_entropy():
    logits, labels = drawn(50, 3)
    expected = -log_softmax(logits.astype(float), axis=1)[np.arange(50), labels].mean()
    assert measure_utility(logits, labels, 3).loss == pytest.approx(expected)


def test_fidelity_is_the_share_of_equal_answers_and_the_divergence_from_the_teacher():
    (student, _), (teacher, _) = drawn(50, 3, seed=1), drawn(50, 3, seed=2)
    found = measure_fidelity(student, teacher)
    assert found["agreement"] == np.mean([a.argmax() == b.argmax() for a, b in zip(student, teacher, strict=True)])
    expected = entropy(softmax(teacher.astype(np.float64), axis=1), softmax(student.astype(np.float64), axis=1), axis=1)
    assert found["divergence"] == pytest.approx(expected.mean())


def test_a_student_that_answers_as_its_teacher_has_no_divergence_whatever_the_logits_offset():
    logits, _ = drawn(20, 4)
    found = measure_fidelity(logits + np.float32(3), logits)
    assert found["agreement"] == 1
    assert found["divergence"] == pytest.approx(0, abs=1e-6)
