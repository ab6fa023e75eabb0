import dataclasses

import numpy as np
import pytest

from fedkr.audit.challenge import build_challenge
from fedkr.audit.statistics.membership import auc
from fedkr.audit.statistics.per_class import class_aucs
from fedkr.data.images import ImageSet


def side(labels, rng):
    images = rng.integers(0, 256, (len(labels), 3, 3, 1), dtype=np.uint8)
    return ImageSet(images, np.array(labels), ("a", "b", "c", "d"))


@pytest.fixture
def challenge():
    rng = np.random.default_rng(0)
    members, nonmembers = [0] * 30 + [1] * 10 + [2] * 9, [0] * 25 + [1] * 10 + [2] * 40
    return build_challenge(side(rng.permutation(members), rng), side(rng.permutation(nonmembers), rng))


def scores(challenge, shift=1.0):
    rng = np.random.default_rng(1)
    members, nonmembers = len(challenge.members), len(challenge.nonmembers)
    return np.concatenate([rng.normal(shift, 1, members), rng.normal(0, 1, nonmembers)])


def measured(values, challenge, bootstrap, seed):
    return class_aucs(values, challenge.members, challenge.nonmembers, bootstrap=bootstrap, seed=seed)


def test_each_class_is_measured_among_its_own_images(challenge):
    values, split = scores(challenge), len(challenge.members)
    found = measured(values, challenge, bootstrap=100, seed=0)
    for label in (0, 1):
        own = values[:split][challenge.members.labels == label], values[split:][challenge.nonmembers.labels == label]
        value, low, high = found[label]
        assert value == auc(*own)
        assert low <= value <= high


def test_a_class_with_fewer_than_ten_on_a_side_has_no_figure(challenge):
    found = measured(scores(challenge), challenge, bootstrap=20, seed=0)
    assert [entry is None for entry in found] == [False, False, True, True]


def of_patients(challenge, images):
    """Return the challenge with so many consecutive images of each patient."""
    groups = np.arange(len(challenge.members)) // images, 100 + np.arange(len(challenge.nonmembers)) // images
    sides = [
        dataclasses.replace(part, groups=group)
        for part, group in zip((challenge.members, challenge.nonmembers), groups, strict=True)
    ]
    return dataclasses.replace(challenge, members=sides[0], nonmembers=sides[1])


def test_a_class_of_fewer_than_ten_patients_has_no_figure_however_many_images_they_have(challenge):
    found = measured(scores(challenge), of_patients(challenge, images=10), bootstrap=20, seed=0)
    assert found == [None] * 4


def test_whole_groups_are_resampled_within_a_class(challenge):
    values = scores(challenge)
    both = challenge, of_patients(challenge, images=2)
    plain, found = (measured(values, one, bootstrap=50, seed=0)[0] for one in both)
    assert plain[0] == found[0] and plain[1] != found[1]
