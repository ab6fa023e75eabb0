import numpy as np
import pytest

from fedkr.audit.challenge import build_challenge
from fedkr.data.imageset import ImageSet
from fedkr.errors import UserError


def image_set(values, groups=None):
    images = np.stack([np.full((2, 2, 1), value, np.uint8) for value in values])
    return ImageSet(images, np.zeros(len(values), np.int64), ("a", "b"), groups and np.array(groups))


def test_images_on_both_sides_are_removed_from_both_and_counted():
    challenge = build_challenge(image_set([1, 2, 3, 3]), image_set([3, 4, 5]))
    assert challenge.members.images[:, 0, 0, 0].tolist() == [1, 2]
    assert challenge.nonmembers.images[:, 0, 0, 0].tolist() == [4, 5]
    assert challenge.duplicates == 3


def test_repeats_within_one_side_stay():
    challenge = build_challenge(image_set([1, 1, 2]), image_set([3]))
    assert (len(challenge.members), challenge.duplicates) == (3, 0)


def test_a_patient_on_both_sides_is_refused():
    with pytest.raises(UserError, match="group 7"):
        build_challenge(image_set([1, 2], [6, 7]), image_set([3], [7]))


def test_a_side_of_duplicates_only_is_refused():
    with pytest.raises(UserError, match="holdout"):
        build_challenge(image_set([1, 2]), image_set([1]))
