"""Batches: full, fair over every epoch, and a function of the step alone."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedkr.learning.batches import BatchOrder

COUNTS, BATCHES = st.integers(1, 40), st.integers(1, 70)


@given(COUNTS, BATCHES, st.integers(0, 5))
def test_every_epoch_is_a_permutation_whatever_the_count_and_the_batch(count, batch, seed):
    order = BatchOrder(count, batch, seed)
    steps = -(-3 * count // batch)
    drawn = np.concatenate([order.at(step) for step in range(steps)])
    for epoch in range(3):
        assert sorted(drawn[epoch * count : (epoch + 1) * count]) == list(range(count))


@given(COUNTS, BATCHES, st.lists(st.integers(0, 200), min_size=1, max_size=10))
def test_a_batch_depends_on_the_step_and_not_on_what_was_asked_before(count, batch, steps):
    order = BatchOrder(count, batch, "seed")
    for step in steps:
        found = order.at(step)
        assert found.shape == (batch,)
        assert np.array_equal(found, BatchOrder(count, batch, "seed").at(step))


@given(COUNTS, BATCHES, st.integers(0, 200))
def test_a_step_begins_in_the_epoch_that_it_names(count, batch, step):
    epoch = BatchOrder(count, batch).epoch(step)
    assert epoch * count <= step * batch < (epoch + 1) * count


def test_epochs_and_seeds_are_in_other_orders():
    order = BatchOrder(50, 50, 0)
    assert not np.array_equal(order.at(0), order.at(1))
    assert not np.array_equal(order.at(0), BatchOrder(50, 50, 1).at(0))
