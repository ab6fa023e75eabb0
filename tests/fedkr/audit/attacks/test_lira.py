import math

import numpy as np
import pytest

from fedkr.audit.attacks.lira import lira_offline, lira_online, logit_scaled_confidence
from fedkr.audit.attacks.observed import Observed
from fedkr.audit.statistics.membership import auc
from fedkr.errors import UserError

MODELS, IMAGES, QUERIES = 9, 12, 3


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    membership = rng.permuted(np.repeat([[True] * 5 + [False] * 4], IMAGES, axis=0), axis=1).T
    hardness = rng.normal(0, 2, (1, IMAGES, 1))
    references = hardness + membership[:, :, None] * 1.5 + rng.normal(0, 1, (MODELS, IMAGES, QUERIES))
    return Observed(hardness[0] + rng.normal(0.7, 1, (IMAGES, QUERIES)), references, membership)


def one_query(case, query):
    return Observed(case.target[:, [query]], case.references[:, :, [query]], case.membership)


def density(x, mean, variance):
    return math.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def mean_of(values):
    return sum(values) / len(values)


def spread(values):
    return sum((v - mean_of(values)) ** 2 for v in values)


def picked(references, membership, image, query, inside):
    return [references[m, image, query] for m in range(MODELS) if membership[m, image] == inside]


def pooled_variance(references, membership, query, inside):
    lists = [picked(references, membership, i, query, inside) for i in range(IMAGES)]
    return sum(map(spread, lists)) / sum(len(values) - 1 for values in lists)


def variance(references, membership, image, query, inside, fixed):
    if fixed:
        return pooled_variance(references, membership, query, inside)
    values = picked(references, membership, image, query, inside)
    return spread(values) / (len(values) - 1)


@pytest.mark.parametrize("fixed", [False, True])
def test_online_lira_equals_the_ratio_of_densities_in_a_loop(case, fixed):
    target, references, membership = vars(case).values()
    expected = []
    for i in range(IMAGES):
        ratio = 1.0
        for q in range(QUERIES):
            densities = [
                density(
                    target[i, q],
                    mean_of(picked(references, membership, i, q, inside)),
                    variance(references, membership, i, q, inside, fixed),
                )
                for inside in (True, False)
            ]
            ratio *= densities[0] / densities[1]
        expected.append(math.log(ratio))
    np.testing.assert_allclose(lira_online(case, fixed_variance=fixed), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("fixed", [False, True])
def test_offline_lira_is_the_one_sided_test_in_a_loop(case, fixed):
    target, references, membership = vars(case).values()
    for i, score in enumerate(lira_offline(one_query(case, 0), fixed_variance=fixed)):
        mean = mean_of(picked(references, membership, i, 0, False))
        std = math.sqrt(variance(references, membership, i, 0, False, fixed))
        below = 1 - 0.5 * math.erfc((target[i, 0] - mean) / (std * math.sqrt(2)))
        assert 0.5 * math.erfc(-score / math.sqrt(2)) == pytest.approx(below, abs=1e-6)


def test_offline_lira_averages_the_queries(case):
    single = [lira_offline(one_query(case, q)) for q in range(QUERIES)]
    np.testing.assert_allclose(lira_offline(case), np.mean(single, axis=0), atol=1e-12)


def test_offline_lira_never_looks_at_models_trained_on_the_image(case):
    target, references, membership = vars(case).values()
    changed = np.where(membership[:, :, None], 1e6, references)
    np.testing.assert_array_equal(lira_offline(Observed(target, changed, membership)), lira_offline(case))


def test_lira_finds_members_that_a_bare_threshold_cannot_see():
    rng = np.random.default_rng(1)
    n, models = 400, 16
    hardness = rng.normal(0, 8, (1, n, 1))
    inside = rng.random((models + 1, n)) < 0.5
    scores = hardness + inside[:, :, None] * 1.5 + rng.normal(0, 1, (models + 1, n, 1))
    target, member = scores[0], inside[0]
    assert auc(target[member, 0], target[~member, 0]) < 0.62
    for attack in (lira_online, lira_offline):
        result = attack(Observed(target, scores[1:], inside[1:]), fixed_variance=True)
        assert auc(result[member], result[~member]) > 0.78, attack.__name__


def test_one_reference_in_and_one_out_is_enough_for_the_fixed_variance():
    target = np.array([[1.0], [0.0]])
    references = np.array([[[1.0], [1.0]], [[0.0], [0.0]]])
    membership = np.array([[True, True], [False, False]])
    # With unit variances the log ratio is (phi^2 - (phi - 1)^2) / 2 = phi - 1/2.
    np.testing.assert_allclose(lira_online(Observed(target, references, membership), fixed_variance=True), [0.5, -0.5])


def test_logit_scaled_confidence_is_the_log_odds_of_the_label():
    logits = np.random.default_rng(2).normal(0, 2, (3, 4, 5))
    labels = np.array([0, 4, 2, 2])
    result = logit_scaled_confidence(logits, labels)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    own = p[:, np.arange(4), labels]
    np.testing.assert_allclose(result, np.log(own / (1 - own)), atol=1e-9)


def test_what_does_not_fit_is_named(case):
    target, references, membership = vars(case).values()
    with pytest.raises(UserError, match="got shape"):
        Observed(target[:, :2], references, membership)
    with pytest.raises(UserError, match="expected bool"):
        Observed(target, references, membership.astype(int))
    with pytest.raises(UserError, match="trained without it"):
        lira_offline(Observed(target, references, np.ones_like(membership)))
    with pytest.raises(UserError, match="not all finite"):
        Observed(target * np.nan, references, membership)
