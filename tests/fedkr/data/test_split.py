import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkr.config import SplitConfig
from fedkr.data import ImageSet, split_site, toss_coins
from fedkr.errors import UserError

CLASSES = ("a", "b", "c", "d")


def image_set(labels, groups=None):
    """Images whose first two pixels hold their number, so that one can follow each of them."""
    images = np.zeros((len(labels), 2, 2, 1), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.divmod(np.arange(len(labels)), 256)
    return ImageSet(images, np.asarray(labels, dtype=np.int64), CLASSES, groups)


def numbers(part):
    return (part.images[:, 0, 0, 0].astype(int) * 256 + part.images[:, 0, 1, 0]).tolist()


def parts_of(site):
    return [site.train, site.val, site.test, site.holdout]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=20, max_size=300), st.integers(0, 1000))
def test_the_four_parts_are_disjoint_not_empty_and_cover_the_site(labels, seed):
    parts = parts_of(split_site(image_set(labels), SplitConfig(), seed, "site-0"))
    assert sorted(number for part in parts for number in numbers(part)) == list(range(len(labels)))
    assert all(len(part) for part in parts)
    assert all(part.labels.tolist() == [labels[number] for number in numbers(part)] for part in parts)


@settings(max_examples=30, deadline=None)
@given(st.integers(10, 60), st.integers(0, 1000))
def test_no_patient_is_divided(patients, seed):
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(patients) * 7, rng.integers(2, 6, patients)))
    site = split_site(image_set(rng.integers(0, 4, len(groups)), groups), SplitConfig(), seed, "site-0")
    seen = [set(part.groups.tolist()) for part in parts_of(site)]
    assert all(seen)
    assert sum(map(len, seen)) == patients


def test_the_same_seed_and_site_give_the_same_split_and_others_another():
    data = image_set(np.arange(100) % 4)
    first = numbers(split_site(data, SplitConfig(), 1, "site-0").holdout)
    assert first == numbers(split_site(data, SplitConfig(), 1, "site-0").holdout)
    assert first != numbers(split_site(data, SplitConfig(), 2, "site-0").holdout)
    assert first != numbers(split_site(data, SplitConfig(), 1, "site-1").holdout)


def test_the_default_shares_are_met():
    site = split_site(image_set(np.arange(400) % 4), SplitConfig(), 0, "site-0")
    assert [len(part) for part in parts_of(site)] == [220, 40, 40, 100]
    assert site.holdout.class_counts().tolist() == [25] * 4


def test_a_site_with_one_class_is_split_like_any_other():
    site = split_site(image_set(np.full(40, 2)), SplitConfig(), 0, "site-0")
    assert [len(part) for part in parts_of(site)] == [22, 4, 4, 10]


def test_a_site_with_too_few_images_is_named_with_its_count_and_the_option():
    with pytest.raises(UserError, match=r"^ward-7: 12 images, fewer than split.min_images=20; .*split.min_images$"):
        split_site(image_set(np.arange(12) % 4), SplitConfig(), 0, "ward-7")


def test_a_site_with_fewer_patients_than_parts_is_refused():
    with pytest.raises(UserError, match=r"site-0: 3 groups \(patients\), fewer than the 4 parts"):
        split_site(image_set(np.arange(30) % 4, np.arange(30) % 3), SplitConfig(), 0, "site-0")


def test_coins_divide_train_and_holdout_in_fair_independent_halves():
    data = image_set(np.arange(400) % 4)
    plain = split_site(data, SplitConfig(), 0, "site-0")
    kept = set(numbers(plain.train)) | set(numbers(plain.holdout))
    heads = np.zeros(400)
    for seed in range(50):
        tossed = toss_coins(plain, seed, "site-0")
        assert set(numbers(tossed.train)) | set(numbers(tossed.holdout)) == kept
        assert len(tossed.train) + len(tossed.holdout) == 320
        heads[numbers(tossed.train)] += 1
    counts = heads[sorted(kept)]
    assert abs(counts.mean() - 25) < 4 * np.sqrt(50 / 4 / 320)
    assert counts.var() == pytest.approx(50 / 4, rel=0.35)


def test_coins_leave_val_and_test_alone_and_repeat_with_the_seed():
    plain = split_site(image_set(np.arange(100) % 4), SplitConfig(), 0, "site-0")
    tossed = toss_coins(plain, 3, "site-0")
    assert (tossed.val, tossed.test) == (plain.val, plain.test)
    assert numbers(tossed.train) == numbers(toss_coins(plain, 3, "site-0").train)
    assert numbers(tossed.train) != numbers(toss_coins(plain, 3, "site-1").train)


def test_a_patient_has_one_coin():
    groups = np.repeat(np.arange(50), 4)
    plain = split_site(image_set(np.arange(200) % 4, groups), SplitConfig(), 0, "site-0")
    tossed = toss_coins(plain, 0, "site-0")
    assert not set(tossed.train.groups) & set(tossed.holdout.groups)


def test_coins_that_leave_a_side_with_one_class_name_the_option():
    plain = split_site(image_set([0] * 39 + [1]), SplitConfig(), 0, "site-0")
    with pytest.raises(UserError, match=r"^site-0: audit.coins=true left (train|holdout) with .*audit.coins=false$"):
        toss_coins(plain, 0, "site-0")
