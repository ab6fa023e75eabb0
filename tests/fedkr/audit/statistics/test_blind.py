import time

import numpy as np
import pytest

from fedkr.audit.statistics.blind import blind_baseline, holm_reject
from fedkr.data.images import ImageSet
from fedkr.errors import UserError

CLASSES = ("a", "b")


def image_set(rng, n, brightness=128, groups=None, size=8):
    images = np.clip(rng.normal(brightness, 40, (n, size, size, 1)), 0, 255).astype(np.uint8)
    return ImageSet(images, rng.integers(0, 2, n), CLASSES, groups)


def test_sides_of_different_brightness_are_told_apart_without_a_model():
    rng = np.random.default_rng(0)
    result = blind_baseline(image_set(rng, 120), image_set(rng, 60, 140), seed=0, permutations=500)
    assert result.auc > 0.85
    assert result.p_value == pytest.approx(1 / 501)


def test_a_difference_that_no_single_pixel_shows_is_found_too():
    rng = np.random.default_rng(1)
    members, nonmembers = image_set(rng, 150), image_set(rng, 150)
    smooth = (np.repeat(np.repeat(nonmembers.images[:, ::2, ::2], 2, 1), 2, 2)).copy()
    blurred = ImageSet(smooth, nonmembers.labels, CLASSES)
    assert blind_baseline(members, blurred, seed=0, permutations=200).p_value < 0.01


def test_random_splits_give_p_values_that_reject_no_more_often_than_they_should():
    rng = np.random.default_rng(2)
    p_values = [
        blind_baseline(image_set(rng, 60), image_set(rng, 25), seed=i, permutations=99).p_value for i in range(60)
    ]
    assert np.mean(np.array(p_values) <= 0.1) <= 0.2
    assert 0.35 < np.mean(p_values) < 0.65


def test_patients_whose_images_look_alike_do_not_void_a_clean_split():
    rng = np.random.default_rng(3)
    p_values = []
    for seed in range(20):
        patients = rng.normal(128, 40, 24)
        sides = []
        for who in (np.arange(16), np.arange(16, 24)):
            groups = np.repeat(who, 5)
            sides.append(image_set(rng, len(groups), patients[groups][:, None, None, None], groups.astype(np.int64)))
        p_values.append(blind_baseline(*sides, seed=seed, permutations=99).p_value)
    assert np.mean(np.array(p_values) <= 0.1) <= 0.25


def test_copies_that_stay_on_one_side_do_not_void_a_clean_split():
    rng = np.random.default_rng(6)
    p_values = []
    for seed in range(20):
        pictures = image_set(rng, 60)
        inside = rng.permutation(60) < 40
        # Half of the pictures occur twice; pairs that the split parted would not be in the challenge.
        sides = [
            pictures.subset(np.repeat(np.flatnonzero(side), 1 + np.flatnonzero(side) % 2)) for side in (inside, ~inside)
        ]
        p_values.append(blind_baseline(*sides, seed=seed, permutations=99).p_value)
    assert np.mean(np.array(p_values) <= 0.1) <= 0.25


def test_a_thousand_small_images_take_less_than_two_seconds():
    rng = np.random.default_rng(4)
    sides = image_set(rng, 750, size=28), image_set(rng, 250, size=28)
    started = time.process_time()
    blind_baseline(*sides, seed=0, permutations=200)
    assert time.process_time() - started < 2


def test_constant_images_give_chance():
    images = np.zeros((20, 4, 4, 1), np.uint8)
    side = ImageSet(images, np.zeros(20, np.int64), CLASSES)
    result = blind_baseline(side, side, seed=0, permutations=50)
    assert (result.auc, result.p_value) == (0.5, 1.0)


def test_holm_rejects_step_by_step_and_stops_at_the_first_that_stands():
    # Sorted against level / 4, / 3, / 2: 0.002 <= 0.0025, 0.003 <= 0.0033, but 0.02 > 0.005.
    assert holm_reject([0.02, 0.003, 0.5, 0.002], level=0.01) == [False, True, False, True]
    assert holm_reject([0.004, 0.004, 0.004], level=0.01) == [False, False, False]
    assert holm_reject([]) == []


def test_no_permutation_is_refused():
    side = image_set(np.random.default_rng(5), 10)
    with pytest.raises(UserError, match="permutations"):
        blind_baseline(side, side, seed=0, permutations=0)
