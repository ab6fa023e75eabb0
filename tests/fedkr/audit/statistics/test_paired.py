import numpy as np
import pytest

from fedkr.audit.statistics.membership import auc
from fedkr.audit.statistics.paired import paired_difference
from fedkr.errors import UserError

MEMBERS = 60


def pair(rng, shifts=(1.0, 0.5), shared=2.0):
    """Scores of two models that find the same images hard and detect members to different degrees."""
    hardness = rng.normal(0, shared, 2 * MEMBERS)
    inside = np.repeat([1.0, 0.0], MEMBERS)
    return [hardness + shift * inside + rng.normal(0, 1, 2 * MEMBERS) for shift in shifts]


def test_the_difference_is_that_of_the_aucs_and_changes_sign_with_the_order():
    a, b = pair(np.random.default_rng(0))
    found = paired_difference(a, b, MEMBERS, 200, 1)
    assert found.difference == pytest.approx(auc(a[:MEMBERS], a[MEMBERS:]) - auc(b[:MEMBERS], b[MEMBERS:]))
    turned = paired_difference(b, a, MEMBERS, 200, 1)
    assert (turned.difference, turned.low, turned.high) == pytest.approx((-found.difference, -found.high, -found.low))


def test_a_model_does_not_differ_from_itself_nor_from_a_monotone_transform():
    a, _ = pair(np.random.default_rng(1))
    found = paired_difference(a, np.exp(a / 3), MEMBERS, 50, 0)
    assert (found.difference, found.low, found.high) == (0, 0, 0)


def test_the_interval_covers_no_difference_about_95_times_in_100():
    rng = np.random.default_rng(2)
    covered = []
    for seed in range(120):
        found = paired_difference(*pair(rng, (0.7, 0.7)), MEMBERS, 200, seed)
        covered.append(found.low <= 0 <= found.high)
    assert 0.89 <= np.mean(covered) <= 0.99


def test_what_both_models_find_hard_cancels_out():
    rng = np.random.default_rng(3)
    a, b = pair(rng, shared=6.0)
    order = rng.permutation(MEMBERS)
    unpaired = np.concatenate([b[:MEMBERS][order], b[MEMBERS:][order]])
    paired, broken = (paired_difference(a, other, MEMBERS, 200, 0) for other in (b, unpaired))
    assert paired.difference == broken.difference
    assert paired.high - paired.low < 0.5 * (broken.high - broken.low)


def test_resampling_whole_groups_widens_the_interval_of_repeated_images():
    a, b = (np.repeat(scores, 4) for scores in pair(np.random.default_rng(4)))
    plain = paired_difference(a, b, 4 * MEMBERS, 200, 0)
    grouped = paired_difference(a, b, 4 * MEMBERS, 200, 0, np.repeat(np.arange(2 * MEMBERS), 4))
    assert plain.high - plain.low < 0.7 * (grouped.high - grouped.low)


def test_one_patient_on_a_side_leaves_everything_open():
    groups = np.where(np.arange(2 * MEMBERS) < MEMBERS, np.arange(2 * MEMBERS), -1)
    found = paired_difference(*pair(np.random.default_rng(5)), MEMBERS, 20, 0, groups)
    assert (found.low, found.high) == (-1, 1) and found.difference != 0


@pytest.mark.parametrize(
    ("a", "b", "members", "bootstrap", "words"),
    [
        (np.zeros(4), np.zeros(5), 2, 5, "one challenge set"),
        (np.zeros(4), np.zeros(4), 4, 5, "one challenge set"),
        (np.zeros(4), np.full(4, np.nan), 2, 5, "NaN"),
        (np.zeros(4), np.zeros(4), 2, 0, "audit.bootstrap"),
    ],
)
def test_what_does_not_fit_is_named(a, b, members, bootstrap, words):
    with pytest.raises(UserError, match=words):
        paired_difference(a, b, members, bootstrap, 0)
