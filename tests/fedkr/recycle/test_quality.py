"""How good a release is: figures on made-up features, whose answers are known."""

import numpy as np
import pytest

from fedkr.recycle.quality import frechet_distance, likeness, poor, recognised


def features(count, seed, mean=0.0, spread=1.0, dimensions=6):
    return np.random.default_rng(seed).normal(mean, spread, (count, dimensions))


def test_the_frechet_distance_is_that_of_two_normal_distributions():
    one, other = features(40_000, 0), features(40_000, 1, 2.0, 3.0)
    # Six dimensions, each with means 2 and deviations 3 - 1 apart.
    assert frechet_distance(one, other) == pytest.approx(6 * (2.0**2 + 2.0**2), rel=0.03)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(one[:, :1], other[:, :1]) == pytest.approx(8, rel=0.05)


def test_drawn_images_like_the_real_ones_are_as_near_as_these_are_to_each_other():
    real = features(600, 0)
    frechet, precision, recall = likeness(real, None, features(600, 1), np.random.default_rng(0))
    assert 0.7 < frechet < 1.4 and precision > 0.8 and recall > 0.8


def test_images_that_look_like_none_lack_precision_and_those_that_repeat_one_kind_lack_recall():
    real = np.concatenate([features(300, 0), features(300, 1, 20.0)])
    rng = np.random.default_rng(0)
    away, one_kind = likeness(real, None, features(300, 2, -30.0), rng), likeness(real, None, features(300, 3), rng)
    assert away[0] > 5 and away[1] == 0 and away[2] == 0
    assert one_kind[0] > 5 and one_kind[1] > 0.8 and 0.3 < one_kind[2] < 0.6


def test_patients_stay_whole_and_few_images_have_no_distance():
    # Ten images of each patient, nearly equal: halves that shared patients would be as one.
    centres = features(30, 0, 0.0, 3.0)
    real = np.repeat(centres, 10, axis=0) + features(300, 1, 0.0, 0.01)
    groups, drawn = np.repeat(np.arange(30), 10), features(300, 2, 0.0, 3.0)
    apart, mixed = (likeness(real, g, drawn, np.random.default_rng(0))[0] for g in (groups, None))
    assert apart < mixed
    assert likeness(features(30, 0), None, drawn, np.random.default_rng(0))[0] is None


def test_what_has_no_neighbour_and_what_is_all_alike_has_no_figure():
    real, rng = features(100, 0), np.random.default_rng(0)
    frechet, precision, _ = likeness(real, np.zeros(100, np.int64), features(50, 1), rng)
    assert frechet is None and precision is None
    assert likeness(real, None, features(2, 1), rng)[2] is None
    assert likeness(np.ones((100, 6)), None, features(50, 1), rng)[0] is None


def test_a_class_of_few_images_has_no_share():
    asked = np.array([0] * 10 + [1] * 4 + [2] * 5)
    soft = np.eye(3)[np.where(np.arange(19) < 7, 0, 2)]
    assert recognised(asked, soft, 3) == (0.7, None, 1.0)


def test_a_poor_release_is_told_with_what_to_do():
    good = {
        "precision": 0.9,
        "recall": 0.9,
        "recognised": [1.0, None],
        "real": {"score": 0.9, "less": 0.01, "clear": 0},
    }
    assert poor(good, ["a", "b"]) == [] == poor({}, ["a", "b"])
    bad = good | {"recognised": [0.4, None], "real": {"score": 0.9, "less": 0.2, "clear": 1}}
    lines = poor(bad, ["a", "b"])
    assert "score 0.70 on val, those of your images 0.90" in lines[0]
    assert "'a'" in lines[1] and "may draw them better" not in lines[1]
    assert "where they are few, x=1 or y=2 may draw them better" in poor(bad, ["a", "b"], ["x=1", "y=2"])[1]
