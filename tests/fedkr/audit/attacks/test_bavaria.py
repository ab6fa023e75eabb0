import numpy as np
import pytest
import scipy

from fedkr.audit.attacks.bavaria import bavaria, bavaria_offline
from fedkr.audit.attacks.lira import lira_offline, lira_online
from fedkr.audit.attacks.observed import Observed
from fedkr.audit.statistics.membership import auc
from fedkr.errors import UserError


def made_up(models, images=400, seed=0, gain=0.8, queries=1):
    """Images of unlike hardness and variance, whose signal rises by about ``gain`` where they were trained on."""
    rng = np.random.default_rng(seed)
    hardness, gains = rng.normal(4, 3, images), rng.normal(gain, gain / 2, images)
    spread = np.sqrt(1 / rng.gamma(3, 0.5, images))
    membership = rng.permuted(np.repeat(np.arange(models)[:, None] < models // 2, images, axis=1), axis=0)
    members = rng.random(images) < 0.5

    def signal(inside):
        shape = (*inside.shape, queries)
        return (hardness + gains * inside)[..., None] + rng.normal(size=shape) * spread[:, None]

    return Observed(signal(members), signal(membership), membership), members


def found(attack, models, **given):
    """The mean AUC over five draws."""
    results = []
    for seed in range(5):
        seen, members = made_up(models, seed=seed, **given)
        scores = attack(seen)
        results.append(auc(scores[members], scores[~members]))
    return float(np.mean(results))


@pytest.mark.parametrize("models", [4, 8, 16])
def test_with_few_references_it_finds_what_lira_misses(models):
    best_lira = max(found(lira_online, models), found(lambda seen: lira_online(seen, fixed_variance=True), models))
    assert found(bavaria, models) > best_lira + 0.01
    assert found(bavaria_offline, models) > found(lira_offline, models)


def test_with_many_references_it_finds_as_much_as_lira():
    assert found(bavaria, 64) > found(lira_online, 64) - 0.002


def test_where_training_changes_nothing_it_finds_nothing():
    assert abs(found(bavaria, 8, gain=0.0) - 0.5) < 0.03


def test_one_image_and_query_equal_the_formulas_by_hand():
    seen, _ = made_up(6, images=50)
    score = bavaria(seen)
    out = ~seen.membership
    references, x = seen.references[:, :, 0], seen.target[:, 0]

    def posterior(mask, prior_mean):
        means = np.array([references[mask[:, i], i].mean() for i in range(50)])
        variances = np.array([references[mask[:, i], i].var(ddof=1) for i in range(50)])
        n, own = 3, 2
        logs = np.log(variances) - scipy.special.digamma(own / 2) + np.log(own / 2)
        excess = logs.var() - scipy.special.polygamma(1, own / 2)
        least = scipy.special.polygamma(1, 5e3)
        half = (
            5e3
            if excess <= least
            else scipy.optimize.brentq(lambda h: scipy.special.polygamma(1, h) - excess, 1e-3, 5e3)
        )
        s0 = np.exp(logs.mean() + scipy.special.digamma(half) - np.log(half))
        prior = prior_mean(means)
        within = variances.mean()
        between = ((means - prior) ** 2).mean() - within / n
        k = np.clip(within / max(between, 1e-12), 1e-3, 1e4)
        center = (k * prior + n * means) / (k + n)
        beta = half * s0 + variances * own / 2 + k * n * (means - prior) ** 2 / (2 * (k + n))
        alpha = half + n / 2
        return means, center, scipy.stats.t(2 * alpha, center, np.sqrt(beta * (k + n + 1) / (alpha * (k + n))))

    _, center, without = posterior(out, lambda means: np.full(50, means.mean()))
    _, _, inside = posterior(seen.membership, lambda means: center + (means - center).mean())
    np.testing.assert_allclose(score, inside.logpdf(x) - without.logpdf(x), rtol=1e-6)


def test_too_few_references_of_one_side_are_refused():
    seen, _ = made_up(2)
    with pytest.raises(UserError, match="needs 2"):
        bavaria(seen)


def test_references_that_agree_to_the_last_digit_give_finite_scores():
    rng = np.random.default_rng(0)
    membership = np.repeat([[True], [True], [False], [False]], 10, axis=1)
    seen = Observed(rng.normal(size=(10, 1)), np.zeros((4, 10, 1)), membership)
    assert np.isfinite(bavaria(seen)).all() and np.isfinite(bavaria_offline(seen)).all()
