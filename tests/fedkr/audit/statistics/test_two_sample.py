"""The two-sample test of a release: exact under guessing, by images or patients, and able to find a few copies."""

import numpy as np
import pytest

from fedkr.audit.statistics.two_sample import closeness_test
from fedkr.data.images import ImageSet
from fedkr.errors import UserError


def sides(rng, members=60, nonmembers=40, groups=False):
    """Images without copies; with groups, of patients with four images each."""
    found = []
    for side, count in enumerate((members, nonmembers)):
        images = rng.integers(0, 256, (count, 2, 2, 1), dtype=np.uint8)
        names = np.array([f"{side}-{i // 4}" for i in range(count)]) if groups else None
        found.append(ImageSet(images, rng.integers(0, 3, count), ("a", "b", "c"), names))
    return found


@pytest.mark.parametrize("groups", [False, True])
def test_a_release_that_knows_no_image_is_accused_no_more_often_than_the_level_says(groups):
    p_values = []
    for seed in range(60):
        rng = np.random.default_rng([seed, groups])
        parts = sides(rng, groups=groups)
        scores = rng.normal(size=(100, 2))
        if groups:
            # The images of a patient lie equally close to a release.
            patients = np.unique(np.concatenate([part.groups for part in parts]), return_inverse=True)[1]
            scores = rng.normal(size=(25, 2))[patients]
        p_values.append(closeness_test(scores, *parts, seed, 39))
    # 10 % of 60 is 6; 12 is the 99th percentile of their number.
    assert sum(p <= 0.1 for p in p_values) <= 12
    assert min(p_values) >= 1 / 40


def test_members_that_lie_a_little_closer_are_found_and_others_that_do_are_not():
    rng = np.random.default_rng(0)
    parts, scores = sides(rng, 200, 150), rng.normal(size=(350, 2))
    scores[:200] += 0.6
    assert closeness_test(scores, *parts, 0, 199) == 1 / 200
    assert closeness_test(-scores, *parts, 0, 199) > 0.5


def test_a_few_copies_are_found_in_one_of_two_spaces_that_an_average_would_hide():
    rng = np.random.default_rng(1)
    parts, scores = sides(rng, 300, 300), rng.normal(size=(600, 2))
    scores[:15, 1] = 9
    assert closeness_test(scores, *parts, 0, 999) < 0.01


def test_a_class_that_lies_closer_as_a_whole_tells_nothing():
    rng = np.random.default_rng(2)
    parts, scores = sides(rng, 200, 150), rng.normal(size=(350, 1))
    classes = np.concatenate([part.labels for part in parts])
    usual = closeness_test(scores, *parts, 0, 99)
    assert closeness_test(scores + 5.0 * classes[:, None], *parts, 0, 99) == pytest.approx(usual, abs=1e-12)


def test_scores_that_are_all_equal_accuse_nobody():
    rng = np.random.default_rng(3)
    assert closeness_test(np.zeros((100, 2)), *sides(rng), 0, 19) == 1.0


def test_a_test_without_permutations_is_refused():
    with pytest.raises(UserError, match="permutations=0"):
        closeness_test(np.zeros((100, 1)), *sides(np.random.default_rng(0)), 0, 0)
