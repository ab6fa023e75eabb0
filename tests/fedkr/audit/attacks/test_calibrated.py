"""Calibration by references, against loops, on simulated signals where it has to win, and where nothing is to find."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkr.audit.attacks.calibrated import calibrated, fused, spread
from fedkr.audit.attacks.observed import Observed
from fedkr.audit.references.direct import balanced_membership
from fedkr.audit.statistics.membership import auc
from fedkr.errors import UserError

MEMBERS = NONMEMBERS = 120


def simulated(seed, mark, references=8, signals=2, images=MEMBERS + NONMEMBERS):
    """Signals of images that differ much from one another, and little by whether a release had a part of them."""
    rng = np.random.default_rng(seed)
    difficulty, noise = rng.normal(0, 1, (images, signals)), 0.3
    masks = balanced_membership(references, images, rng)
    target = difficulty + mark * (np.arange(images) < MEMBERS)[:, None] + noise * rng.normal(size=(images, signals))
    others = difficulty + mark * masks[:, :, None] + noise * rng.normal(size=(references, images, signals))
    return Observed(target, others, masks), rng.integers(0, 3, images)


def loop_calibrated(seen, labels):
    found = np.empty_like(seen.target)
    for i in range(found.shape[0]):
        for a in range(found.shape[1]):
            sides = [
                [r[i, a] for r, m in zip(seen.references, seen.membership, strict=True) if m[i] == s] for s in (0, 1)
            ]
            means = [sum(side) / len(side) for side in sides if side]
            found[i, a] = seen.target[i, a] - sum(means) / len(means)
    for label in set(labels.tolist()) if not seen.membership.any() else []:
        for a in range(found.shape[1]):
            own = [i for i in range(len(labels)) if labels[i] == label]
            found[own, a] -= np.median([found[i, a] for i in own])
    return found


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_calibration_equals_a_loop_over_images_and_references(seed, nobody):
    seen, labels = simulated(seed, 0.2, references=4, images=15)
    seen = Observed(seen.target, seen.references, np.zeros_like(seen.membership)) if nobody else seen
    np.testing.assert_allclose(calibrated(seen, labels), loop_calibrated(seen, labels), atol=1e-12)


def test_references_find_a_mark_that_differences_between_images_hide():
    seen, labels = simulated(0, 0.3)
    raw = auc(seen.target[:MEMBERS, 0], seen.target[MEMBERS:, 0])
    found = calibrated(seen, labels)[:, 0]
    together = fused(seen, labels)
    assert raw < 0.62
    assert auc(found[:MEMBERS], found[MEMBERS:]) > 0.7
    assert auc(together[:MEMBERS], together[MEMBERS:]) > auc(found[:MEMBERS], found[MEMBERS:]) + 0.03


def test_one_reference_that_has_no_image_finds_less_and_still_more_than_none():
    seen, labels = simulated(1, 0.3)
    nobody = Observed(seen.target, seen.references[:1] * 0 + seen.references[0] * 1, np.zeros_like(seen.membership[:1]))
    by_one, by_all = calibrated(nobody, labels)[:, 0], calibrated(seen, labels)[:, 0]
    raw = auc(seen.target[:MEMBERS, 0], seen.target[MEMBERS:, 0])
    assert raw < auc(by_one[:MEMBERS], by_one[MEMBERS:]) < auc(by_all[:MEMBERS], by_all[MEMBERS:])


def test_a_release_that_has_no_mark_of_any_image_is_not_accused():
    """One-sided at 5 %, by the normal distribution of an AUC under guessing, over 400 releases."""
    limit = 0.5 + 1.645 * np.sqrt((MEMBERS + NONMEMBERS + 1) / (12 * MEMBERS * NONMEMBERS))
    accused = np.zeros(2)
    for seed in range(400):
        seen, labels = simulated(seed, 0.0, references=4)
        for index, scores in enumerate((calibrated(seen, labels)[:, 0], fused(seen, labels))):
            accused[index] += auc(scores[:MEMBERS], scores[MEMBERS:]) > limit
    # 5 % of 400 is 20; 30 is the 99th percentile of their number.
    assert (accused <= 30).all()


def test_signals_are_fused_in_units_of_their_own_spread():
    seen, labels = simulated(2, 0.3)
    scaled = Observed(seen.target * [1, 1e4], seen.references * [1, 1e4], seen.membership)
    np.testing.assert_allclose(fused(scaled, labels), fused(seen, labels), atol=1e-6)
    np.testing.assert_allclose(spread(seen), 0.3, rtol=0.05)


def test_how_densely_other_sites_cover_a_class_tells_nothing():
    seen, labels = simulated(3, 0.0)
    nobody = np.zeros_like(seen.membership)
    sparser = Observed(seen.target, seen.references - 5.0 * labels[:, None], nobody)
    usual = Observed(seen.target, seen.references, nobody)
    np.testing.assert_allclose(calibrated(sparser, labels), calibrated(usual, labels), atol=1e-9)


def test_an_image_that_every_reference_has_cannot_be_calibrated():
    seen, labels = simulated(4, 0.0, references=4)
    everyone = Observed(seen.target, seen.references, np.ones_like(seen.membership))
    with pytest.raises(UserError, match="without it"):
        calibrated(everyone, labels)
    with pytest.raises(UserError, match="with it"):
        fused(Observed(seen.target, seen.references, np.zeros_like(seen.membership)), labels)
