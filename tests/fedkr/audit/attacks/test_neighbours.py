import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkr.audit.attacks.neighbours import LEAST_PROBABILITY, SIGNALS, neighbour_signals
from fedkr.data.distances import LEAST_DISTANCE, NEIGHBOURS, Rows, log_nearness, nearest_few
from fedkr.errors import UserError


def a_set(rng, count):
    return Rows(rng.uniform(size=(count, 6)), rng.normal(size=(count, 3)))


def loop_signals(images, labels, released, soft_labels):
    """The signals of one image after the other, by a loop over all released images."""
    found = []
    for i, label in enumerate(labels):
        row = []
        for space in ("pixels", "features"):
            own, others = getattr(images, space)[i], getattr(released, space)
            by_distance = sorted((math.dist(own, other), j) for j, other in enumerate(others))[:NEIGHBOURS]
            logs = [math.log(max(distance, LEAST_DISTANCE)) for distance, _ in by_distance]
            row.append(-sum(logs) / len(logs))
            if space == "pixels":
                nearest = [soft_labels[j][label] for _, j in by_distance]
        likely = min(max(sum(nearest) / len(nearest), LEAST_PROBABILITY), 1 - LEAST_PROBABILITY)
        found.append([*row, math.log(likely / (1 - likely))])
    return np.array(found)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 12))
def test_the_signals_equal_a_loop_over_all_pairs(seed, released_count, count):
    rng = np.random.default_rng(seed)
    images, released = a_set(rng, count), a_set(rng, released_count)
    labels, soft_labels = rng.integers(0, 4, count), rng.dirichlet(np.ones(4), released_count)
    found = neighbour_signals(images, labels, released, soft_labels)
    assert found.shape == (count, len(SIGNALS))
    np.testing.assert_allclose(found, loop_signals(images, labels, released, soft_labels), atol=1e-6)


def test_the_nearest_few_of_more_than_a_block_are_those_of_a_full_sort():
    rng = np.random.default_rng(0)
    queries, rows = rng.normal(size=(300, 4)), rng.normal(size=(50, 4))
    index, distances = nearest_few(queries, rows)
    everything = np.linalg.norm(queries[:, None] - rows[None], axis=2)
    np.testing.assert_allclose(np.sort(distances), np.sort(everything)[:, :NEIGHBOURS])
    np.testing.assert_allclose(np.take_along_axis(everything, index, 1), distances)
    assert (np.diff(index) > 0).all()


def test_a_copy_is_as_near_as_can_be_and_no_number_is_infinite():
    assert log_nearness(np.zeros((1, 5))) == pytest.approx(-math.log(LEAST_DISTANCE))
    rows = Rows(np.full((9, 4), 1e3), np.full((9, 2), 1e3))
    certain = np.tile(np.float16([1, 0]), (9, 1))
    found = neighbour_signals(rows, np.arange(9) % 2, rows, certain)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[::2, 2], -found[1, 2])


def test_an_empty_release_is_named():
    with pytest.raises(UserError, match="empty set"):
        nearest_few(np.zeros((3, 2)), np.zeros((0, 2)))
