import numpy as np
import pytest

from fedkr.audit.attacks.quantile import Confidences, quantile_score
from fedkr.audit.statistics.membership import auc
from fedkr.data.images import ImageSet

CLASSES = ("a", "b")


def images_and_odds(rng, count, lift=0.0, lifted=0):
    """Images whose brightness and class say how confident a model is, and how far that varies."""
    level, labels = rng.random(count), rng.integers(0, 2, count)
    images = np.repeat(np.rint(level * 200 + 20).astype(np.uint8), 16).reshape(count, 4, 4, 1)
    images = images + rng.integers(0, 8, images.shape, dtype=np.uint8)
    spread = 0.2 + level
    odds = 12 * level + 3 * labels + spread * rng.normal(size=count) + lift * (np.arange(count) < lifted)
    return Confidences(ImageSet(images, labels, CLASSES), odds)


def found(lift, population=400):
    aucs, raw = [], []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        asked, known = images_and_odds(rng, 400, lift, 200), images_and_odds(rng, population)
        scores = quantile_score(asked, known)
        aucs.append(auc(scores[:200], scores[200:]))
        raw.append(auc(asked.odds[:200], asked.odds[200:]))
    return np.mean(aucs), np.mean(raw)


@pytest.mark.parametrize("population", [40, 400])
def test_it_finds_members_that_a_threshold_on_the_confidence_misses(population):
    calibrated, raw = found(lift=1.0, population=population)
    assert calibrated > 0.7 and raw < 0.6


def test_where_members_are_as_confident_as_others_it_finds_nothing():
    assert abs(found(lift=0.0)[0] - 0.5) < 0.03


def test_scores_of_images_that_nobody_trained_on_are_standard():
    rng = np.random.default_rng(9)
    scores = quantile_score(images_and_odds(rng, 2000), images_and_odds(rng, 2000))
    dark = images_and_odds(np.random.default_rng(9), 2000).images.images[:, 0, 0, 0] < 120
    assert abs(scores.mean()) < 0.1
    # The spread differs fivefold between dark and bright images; a score is worth as much for either.
    assert 0.7 < scores[dark].std() / scores[~dark].std() < 1.4


@pytest.mark.parametrize("population", [1, 3, 9])
def test_of_a_handful_of_images_nothing_is_learnt(population):
    rng = np.random.default_rng(0)
    asked = images_and_odds(rng, 20)
    np.testing.assert_array_equal(quantile_score(asked, images_and_odds(rng, population)), asked.odds)


def test_images_that_are_all_alike_leave_their_class_to_be_told_by():
    rng = np.random.default_rng(0)
    asked, known = images_and_odds(rng, 200), images_and_odds(rng, 50)
    alike = ImageSet(np.full_like(known.images.images, 7), known.images.labels, CLASSES)
    assert np.isfinite(quantile_score(asked, Confidences(alike, known.odds))).all()
