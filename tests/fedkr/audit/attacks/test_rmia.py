import math

import numpy as np
import pytest

from fedkr.audit.attacks.observed import Observed
from fedkr.audit.attacks.rmia import Population, choose_offline_a, rmia_offline, rmia_online
from fedkr.audit.statistics.membership import auc
from fedkr.errors import UserError

MODELS, IMAGES, POPULATION, QUERIES = 6, 10, 25, 2


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    membership = rng.permuted(np.repeat([[True] * 3 + [False] * 3], IMAGES, axis=0), axis=1).T
    return (
        rng.random((IMAGES, QUERIES)),
        rng.random((MODELS, IMAGES, QUERIES)),
        membership,
        rng.random((POPULATION, QUERIES)),
        rng.random((MODELS, POPULATION, QUERIES)),
    )


def given(case):
    """Return the arrays in the attacks' own form."""
    return Observed(*case[:3]), Population(*case[3:])


def loop_score(case, image, prior_x, prior_z, gamma):
    """Return an image's share of wins, and its mean log ratio, by which ties are broken."""
    target, _, _, population, _ = case
    wins, own = 0, 0.0
    for q in range(QUERIES):
        own += math.log(target[image, q] / prior_x(image, q)) / QUERIES
        for z in range(POPULATION):
            ratio = (target[image, q] / prior_x(image, q)) / (population[z, q] / prior_z(z, q))
            wins += ratio >= gamma
    return wins / (POPULATION * QUERIES), own


def assert_ranks_as(scores, expected):
    """Check scores against (share, log ratio) pairs: within a step of the share, and in the order of the pairs."""
    shares = np.array([share for share, _ in expected])
    np.testing.assert_allclose(scores, shares, atol=1 / (POPULATION * QUERIES + 1))
    assert np.argsort(scores).tolist() == sorted(range(IMAGES), key=lambda i: expected[i])
    assert len(set(scores)) == IMAGES > len(set(shares))


def mean_where(references, membership, image, query, inside):
    chosen = [references[m, image, query] for m in range(MODELS) if membership[m, image] == inside]
    return sum(chosen) / len(chosen)


@pytest.mark.parametrize("gamma", [1.0, 1.5])
def test_online_rmia_equals_the_pairwise_test_in_a_loop(case, gamma):
    _, references, membership, _, population = case

    def prior_x(i, q):
        return 0.5 * sum(mean_where(references, membership, i, q, inside) for inside in (True, False))

    def prior_z(z, q):
        return sum(population[m, z, q] for m in range(MODELS)) / MODELS

    expected = [loop_score(case, i, prior_x, prior_z, gamma) for i in range(IMAGES)]
    assert_ranks_as(rmia_online(*given(case), gamma=gamma), expected)


@pytest.mark.parametrize(("a", "gamma"), [(0.0, 1.0), (0.3, 1.0), (1.0, 2.0)])
def test_offline_rmia_equals_the_pairwise_test_in_a_loop(case, a, gamma):
    _, references, membership, _, population = case

    def prior_x(i, q):
        return 0.5 * ((1 + a) * mean_where(references, membership, i, q, False) + (1 - a))

    def prior_z(z, q):
        return 0.5 * ((1 + a) * sum(population[m, z, q] for m in range(MODELS)) / MODELS + (1 - a))

    expected = [loop_score(case, i, prior_x, prior_z, gamma) for i in range(IMAGES)]
    assert_ranks_as(rmia_offline(*given(case), a=a, gamma=gamma), expected)


def test_one_query_on_few_population_images_ranks_as_the_log_ratio_and_ties_decide_nothing_else():
    rng = np.random.default_rng(3)
    target, out, population = rng.random((200, 1)), rng.random((2, 200, 1)), rng.random((3, 1))
    seen = Observed(target, out, np.repeat([[True], [False]], 200, axis=1))
    scores = rmia_online(seen, Population(population, rng.random((2, 3, 1))))
    ratio = np.log(target / out.mean(0))[:, 0]
    assert np.argsort(scores).tolist() == np.argsort(ratio).tolist()
    # Each image's place among three others, as it was before ties were broken, is the whole part of its steps.
    assert set(np.floor(scores * 4)) == {0, 1, 2, 3} and scores.min() > 0 and scores.max() < 1


def balanced(rng, models, images):
    """Each image in half of the references, and in the target by a coin."""
    half = np.repeat(np.arange(models)[:, None] < models // 2, images, axis=1)
    return np.concatenate([rng.random((1, images)) < 0.5, rng.permuted(half, axis=0)])


def simulated(models, seed, members=None):
    """One target and ``models`` references whose logits rise by 1.5 on members, on images of very unlike hardness."""
    rng = np.random.default_rng(seed)
    n, z = 400, 300
    inside = members(rng, n) if members else balanced(rng, models, n)
    x = sigmoid(rng.normal(0, 2.5, (1, n, 1)) + inside[:, :, None] * 1.5 + rng.normal(0, 0.7, (models + 1, n, 1)))
    population = sigmoid(rng.normal(0, 2.5, (1, z, 1)) + rng.normal(0, 0.7, (models + 1, z, 1)))
    return inside[0], x[0], (x[0], x[1:], inside[1:], population[0], population[1:])


def test_rmia_beats_a_bare_threshold_from_a_single_reference_model():
    member, x, case = simulated(1, 1, lambda rng, n: np.stack([rng.random(n) < 0.5, np.zeros(n, bool)]))
    score = rmia_offline(*given(case), a=0.5)
    assert auc(score[member], score[~member]) > auc(x[member, 0], x[~member, 0]) + 0.05


def test_rmia_finds_members_and_the_chosen_a_does_as_well_as_the_best():
    member, _, case = simulated(8, 2)

    def offline(a):
        score = rmia_offline(*given(case), a=a)
        return auc(score[member], score[~member])

    a = choose_offline_a(*given(case))
    assert offline(a) > max(offline(value) for value in np.linspace(0, 1, 11)) - 0.02
    online = rmia_online(*given(case))
    assert auc(online[member], online[~member]) > 0.75


def test_models_that_trained_on_an_image_do_not_touch_its_offline_score(case):
    target, references, membership, *population = case
    changed = np.where(membership[:, :, None], 0.999, references)
    same = rmia_offline(*given((target, changed, membership, *population)), a=0.3)
    np.testing.assert_array_equal(same, rmia_offline(*given(case), a=0.3))


def test_saturated_probabilities_give_equal_finite_scores(case):
    certain = [np.ones_like(values) if values.dtype == float else values for values in case]
    assert len(set(rmia_online(*given(certain)))) == 1
    assert np.isfinite(rmia_online(*given((np.zeros_like(case[0]), *case[1:])))).all()


@pytest.mark.parametrize(
    ("position", "value", "options", "words"),
    [
        (0, np.full((IMAGES, QUERIES), 1.5), {}, "probabilities"),
        (3, np.ones((POPULATION, 1)), {}, "population scores"),
        (3, np.ones((0, QUERIES)), {}, "population scores"),
        (2, np.ones((MODELS, IMAGES), bool), {}, "trained without it"),
        (0, np.ones((IMAGES, QUERIES)), {"a": 2.0}, "a=2.0"),
        (0, np.ones((IMAGES, QUERIES)), {"gamma": 0.5}, "gamma=0.5"),
    ],
)
def test_what_does_not_fit_is_named(case, position, value, options, words):
    arguments = list(case)
    arguments[position] = value
    with pytest.raises(UserError, match=words):
        rmia_offline(*given(arguments), **({"a": 0.3} | options))


def test_choosing_a_takes_two_references(case):
    with pytest.raises(UserError, match="takes 2"):
        choose_offline_a(*given((case[0], case[1][:1], case[2][:1], case[3], case[4][:1])))
    complementary = np.stack([case[2][0], ~case[2][0]])
    with pytest.raises(UserError, match="train more"):
        choose_offline_a(*given((case[0], case[1][:2], complementary, case[3], case[4][:2])))
