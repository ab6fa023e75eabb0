import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkr.data.stratify import deal

SHARES = (0.55, 0.1, 0.1, 0.25)
labels_lists = st.lists(st.integers(0, 5), min_size=1, max_size=150).map(
    lambda values: np.array(values, dtype=np.int64)
)


@settings(max_examples=60, deadline=None)
@given(labels_lists, st.integers(0, 2**32), st.booleans())
def test_a_deal_covers_every_image_exactly_once(labels, seed, grouped):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 1 + len(labels) // 3, len(labels)) if grouped else None
    parts = deal(labels, SHARES, rng, groups)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))


@settings(max_examples=60, deadline=None)
@given(labels_lists, st.integers(0, 2**32))
def test_no_part_is_empty_when_there_are_enough_images(labels, seed):
    parts = deal(labels, SHARES, np.random.default_rng(seed))
    assert sum(len(part) > 0 for part in parts) == min(len(labels), len(SHARES))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(20, 60), min_size=1, max_size=8), st.integers(0, 2**32))
def test_each_class_is_within_one_image_of_its_shares(sizes, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    for part, share in zip(deal(labels, SHARES, np.random.default_rng(seed)), SHARES, strict=True):
        counts = np.bincount(labels[part], minlength=len(sizes))
        assert np.abs(counts - np.array(sizes) * share).max() <= 1 + 1e-9


def test_rounding_does_not_add_up_over_many_small_classes():
    labels = np.repeat(np.arange(100), 6)
    sizes = [len(part) for part in deal(labels, SHARES, np.random.default_rng(0))]
    assert np.abs(np.array(sizes) - 600 * np.array(SHARES)).max() <= 1


def test_two_parts_have_exactly_the_sizes_asked_for():
    labels = np.random.default_rng(0).integers(0, 7, 500)
    kept, rest = deal(labels, (0.2, 0.8), np.random.default_rng(0), least=0)
    assert (len(kept), len(rest)) == (100, 400)


def test_a_tiny_class_goes_to_the_first_part():
    labels = np.array([0] * 60 + [1] * 2 + [2])
    train = deal(labels, SHARES, np.random.default_rng(0))[0]
    assert {60, 61, 62} <= set(train.tolist())


def test_class_counts_do_not_depend_on_the_generator():
    labels = np.random.default_rng(3).integers(0, 5, 97)
    counts = {
        tuple(
            tuple(np.bincount(labels[part], minlength=5)) for part in deal(labels, SHARES, np.random.default_rng(seed))
        )
        for seed in range(5)
    }
    assert len(counts) == 1


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 40), st.integers(0, 2**32))
def test_groups_stay_whole_and_leave_no_part_empty(patients, seed):
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(patients), rng.integers(1, 9, patients)))
    parts = deal(rng.integers(0, 3, len(groups)), SHARES, rng, groups)
    held = [set(groups[part].tolist()) for part in parts]
    assert all(held)
    assert sum(map(len, held)) == patients


def test_groups_come_close_to_the_shares_of_every_class():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(120), rng.integers(1, 10, 120))
    labels = rng.integers(0, 2, 120)[groups]
    for part, share in zip(deal(labels, SHARES, rng, groups), SHARES, strict=True):
        assert np.abs(np.bincount(labels[part]) / np.bincount(labels) - share).max() < 0.03


def test_large_groups_are_not_kept_for_one_part():
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(40), [12] * 4 + [2] * 36)
    labels = np.zeros(len(groups), dtype=np.int64)
    holders = {
        next(index for index, part in enumerate(deal(labels, SHARES, rng, groups)) if 0 in groups[part])
        for _ in range(60)
    }
    assert {0, 3} <= holders
