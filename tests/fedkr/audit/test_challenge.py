from dataclasses import replace

import numpy as np
import pytest

from fedkr.audit.challenge import build_challenge, candidates, inseparable, site_challenge, site_population
from fedkr.data.images import CanarySet, ImageSet
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


def test_planted_canaries_are_no_members_and_come_last_among_the_candidates(make_world):
    world = make_world(members=30, nonmembers=20, canaries=12)
    assert len(world.data.train) == 30 + world.included.sum()
    challenge = site_challenge(world.data)
    assert (len(challenge.members), len(challenge.nonmembers), challenge.natural) == (30, 20, 50)
    images = candidates(challenge)
    assert images.images[:, 0, 0, 1].tolist() == list(range(62))
    assert images.labels.tolist() == world.labels[:62].tolist()


def test_without_canaries_the_candidates_are_the_natural_images(make_world):
    data = make_world(members=30, nonmembers=20).data
    challenge = site_challenge(data)
    assert challenge.canaries is None and len(candidates(challenge)) == challenge.size == challenge.natural == 50


def test_the_population_is_val_and_test_without_copies_of_a_candidate(make_world):
    data = make_world(members=30, nonmembers=20, population=10).data
    data.val.images[2] = data.train.images[0]
    population = site_population(data, site_challenge(data))
    assert population.images[:, 0, 0, 1].tolist() == [50, 51, *range(53, 60)]
    data.val.images[:] = data.test.images[:] = data.holdout.images[0]
    with pytest.raises(UserError, match="val and test"):
        site_population(data, site_challenge(data))


@pytest.mark.parametrize(
    ("values", "groups", "units"),
    [
        ([1, 2, 3], None, [0, 1, 2]),
        ([1, 2, 1, 3, 2], None, [0, 1, 0, 2, 1]),
        ([1, 2, 3, 4], [7, 5, 7, 5], [0, 1, 0, 1]),
        # Patients 7 and 5 share an image, so that both stay together; 9 stands alone.
        ([1, 2, 3, 2, 4], [7, 7, 9, 5, 5], [0, 0, 1, 0, 0]),
    ],
)
def test_a_patients_images_and_copies_of_an_image_are_inseparable_along_chains_of_both(values, groups, units):
    assert inseparable(image_set(values, groups)).tolist() == units


def test_canaries_leave_patients_whole():
    images = np.arange(12 * 16, dtype=np.uint8).reshape(12, 4, 4, 1)
    sides = [
        ImageSet(images[part], np.zeros(4, np.int64), ("a", "b"), groups)
        for part, groups in (
            (slice(0, 4), np.array([1, 1, 2, 2])),
            (slice(4, 8), np.array([3, 3, 4, 4])),
        )
    ]
    planted = CanarySet(images[8:], np.zeros(4, np.int64), np.ones(4, bool), np.zeros(4, np.int64), np.arange(10, 14))
    pool = candidates(replace(build_challenge(*sides), canaries=planted))
    assert inseparable(pool).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7]
