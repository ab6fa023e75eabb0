"""Batches: full, fair over every epoch, and a function of the step alone."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedkr.learning.batches import BatchOrder, by_class_power

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


LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(np.array)


@given(LABELS)
def test_a_class_power_of_one_leaves_the_examples_as_they_are(labels):
    assert np.array_equal(by_class_power(labels, 1.0), np.arange(len(labels)))


@given(LABELS, st.floats(0, 1))
def test_examples_of_a_class_come_equally_often_and_classes_by_a_power_of_their_counts(labels, power):
    examples = by_class_power(labels, power)
    times = np.bincount(examples, minlength=len(labels))
    counts = np.bincount(labels)
    for label in np.unique(labels):
        own = times[labels == label]
        assert len(set(own)) == 1
        # Whole times: half a time off at most.
        assert (
            abs(own[0] * counts[label] - counts.max() ** (1 - power) * counts[label] ** power)
            <= counts[label] / 2 + 1e-9
        )
