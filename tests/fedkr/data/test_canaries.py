import dataclasses

import numpy as np
import pytest

from fedkr.config import CANARY_KINDS, AuditConfig, SplitConfig, Study
from fedkr.data import ImageSet, joined, plant_canaries, prepare_site, split_site
from fedkr.errors import UserError

MISLABELLED, NOISE, NEAR_DUPLICATE, OUTLIER = range(4)


def image_set(count=400, groups=None, classes=4, seed=0):
    """Random pictures, each different from all others, with labels in turn."""
    images = np.random.default_rng(seed).integers(60, 200, (count, 6, 6, 1), dtype=np.uint8)
    return ImageSet(images, np.arange(count) % classes, ("a", "b", "c", "d"), groups)


def planted(data=None, config=None, seed=0, site="site-0"):
    """Split a site, plant canaries; return it before and after."""
    before = split_site(image_set() if data is None else data, SplitConfig(), seed, site)
    return before, plant_canaries(before, config or AuditConfig(canaries=30), seed, site)


def rows(part):
    return {image.tobytes() for image in part.images}


def nearest_distance(image, others):
    return np.sqrt(((others.astype(float) - image) ** 2).mean(axis=(1, 2, 3))).min()


def test_included_canaries_are_the_last_training_images_and_the_others_are_nowhere():
    before, after = planted()
    canaries = after.canaries
    assert 0 < canaries.included.sum() < 30
    tail = len(after.train) - canaries.included.sum()
    np.testing.assert_array_equal(after.train.images[tail:], canaries.images[canaries.included])
    np.testing.assert_array_equal(after.train.labels[tail:], canaries.labels[canaries.included])
    left_out = {image.tobytes() for image in canaries.images[~canaries.included]}
    assert not left_out & (rows(after.train) | rows(after.val) | rows(after.test) | rows(after.holdout))
    assert rows(after.val) == rows(before.val) and rows(after.test) == rows(before.test)


def test_kinds_come_in_equal_parts_and_in_turn():
    _, after = planted(config=AuditConfig(canaries=10, canary_kinds=["noise", "near-duplicate"]))
    assert after.canaries.kinds.tolist() == [NOISE, NEAR_DUPLICATE] * 5
    assert CANARY_KINDS == ("mislabelled", "noise", "near-duplicate", "outlier")


def test_a_study_that_names_no_kinds_plants_what_it_always_planted():
    before = planted(config=AuditConfig(canaries=30, canary_kinds=["mislabelled", "noise", "near-duplicate"]))[1]
    after = planted(config=AuditConfig(canaries=30))[1]
    np.testing.assert_array_equal(after.train.images, before.train.images)
    assert after.canaries.of_channel("label").all() and not after.canaries.of_channel("image").any()


def test_outliers_change_nothing_of_the_canaries_beside_them():
    kinds = ["mislabelled", "noise", "near-duplicate"]
    without = planted(config=AuditConfig(canaries=30, canary_kinds=kinds))[1].canaries
    beside = planted(config=AuditConfig(canaries=40, canary_kinds=[*kinds, "outlier"]))[1].canaries
    for kind in (MISLABELLED, NOISE, NEAR_DUPLICATE):
        np.testing.assert_array_equal(beside.images[beside.kinds == kind], without.images[without.kinds == kind])
        np.testing.assert_array_equal(beside.labels[beside.kinds == kind], without.labels[without.kinds == kind])


def test_a_mislabelled_canary_is_a_holdout_image_taken_out_of_it_under_a_wrong_label():
    before, after = planted()
    label_of = dict(zip([i.tobytes() for i in before.holdout.images], before.holdout.labels.tolist(), strict=True))
    chosen = np.flatnonzero(after.canaries.kinds == MISLABELLED)
    for index in chosen:
        assert label_of[after.canaries.images[index].tobytes()] != after.canaries.labels[index]
    taken = {after.canaries.images[index].tobytes() for index in chosen}
    assert rows(after.holdout) == rows(before.holdout) - taken
    assert len(after.holdout) == len(before.holdout) - 10


def test_a_near_duplicate_differs_a_little_from_a_companion_that_stays_in_train_but_is_no_member():
    before, after = planted()
    canaries, members = after.canaries, after.members
    companions = after.train.subset(np.arange(len(members), len(members) + canaries.companions))
    assert canaries.companions == 10
    assert rows(members) | rows(companions) == rows(before.train) and not rows(members) & rows(companions)
    for index in np.flatnonzero(canaries.kinds == NEAR_DUPLICATE):
        assert 0 < nearest_distance(canaries.images[index], companions.images) < 16
        assert nearest_distance(canaries.images[index], members.images) > 30
    assert sorted(canaries.labels[canaries.kinds == NEAR_DUPLICATE]) == sorted(companions.labels)


def test_noise_fills_the_whole_range_and_draws_labels_from_common_classes_only():
    labels = np.repeat([0, 1, 2], [200, 190, 10])
    data = dataclasses.replace(image_set(), labels=labels)
    _, after = planted(data, AuditConfig(canaries=50, canary_kinds=["noise"]))
    assert after.canaries.images.min() < 10 and after.canaries.images.max() > 245
    assert set(after.canaries.labels) == {0, 1}


def test_canaries_are_the_same_for_one_seed_and_site_and_others_elsewhere():
    def digest(seed, site):
        canaries = planted(seed=seed, site=site)[1].canaries
        return canaries.images.tobytes(), canaries.labels.tolist(), canaries.included.tolist()

    assert digest(0, "site-0") == digest(0, "site-0")
    assert digest(0, "site-0")[0] != digest(1, "site-0")[0]
    assert digest(0, "site-0")[2] != digest(0, "site-1")[2]


def test_another_toss_plants_others_of_the_same_canaries_and_changes_nothing_else():
    kinds = ["mislabelled", "noise", "near-duplicate", "outlier"]
    first, second = (
        planted(config=AuditConfig(canaries=32, canary_kinds=kinds, canary_toss=toss))[1] for toss in (0, 3)
    )
    np.testing.assert_array_equal(first.canaries.images, second.canaries.images)
    np.testing.assert_array_equal(first.canaries.labels, second.canaries.labels)
    assert (first.canaries.included != second.canaries.included).any()
    np.testing.assert_array_equal(first.members.images, second.members.images)
    np.testing.assert_array_equal(first.holdout.images, second.holdout.images)


def test_coins_are_fair_and_independent_of_the_kind():
    included = np.array([planted(seed=seed)[1].canaries.included for seed in range(60)])
    assert abs(included.mean() - 0.5) < 4 * 0.5 / np.sqrt(included.size)
    assert (np.abs(included.mean(axis=0) - 0.5) < 0.3).all()


def test_no_patient_is_a_canary_and_a_non_member_or_a_companion_and_a_member():
    groups = np.random.default_rng(1).permutation(np.repeat(np.arange(100), 4))
    before, after = planted(image_set(groups=groups))
    canaries, sources = after.canaries, {i.tobytes(): g for i, g in zip(image_set().images, groups, strict=True)}
    used = {sources[image.tobytes()] for image in canaries.images[canaries.kinds == MISLABELLED]}
    assert len(used) <= 4
    assert not used & set(after.holdout.groups)
    companions = after.train.groups[len(after.members) : len(after.members) + canaries.companions]
    assert not set(companions) & set(after.members.groups)
    own = set(canaries.groups)
    assert len(own) == 30 and min(own) > groups.max()
    assert after.train.groups[-1] in own and len(after.train) == len(before.train) + canaries.included.sum()


@pytest.mark.parametrize(("kind", "part"), [("mislabelled", "holdout"), ("near-duplicate", "members")])
def test_patients_with_many_images_leave_no_sooner_than_others(kind, part):
    # As many patients with one image as with seven.
    groups = np.repeat(np.arange(100), np.tile([1, 7], 50))
    before = split_site(image_set(groups=groups), SplitConfig(holdout=0.4), 0, "site-0")
    config = AuditConfig(canaries=20, canary_kinds=[kind])

    def mean_size(data):
        return np.unique(getattr(data, part).groups, return_counts=True)[1].mean()

    left = [mean_size(plant_canaries(before, config, seed, "site-0")) for seed in range(100)]
    assert abs(np.mean(left) - mean_size(before)) < 4 * np.std(left) / np.sqrt(len(left))


def test_coins_never_move_canaries_or_their_companions():
    data, study = image_set(), Study()
    study.audit.canaries = 30
    without = prepare_site(data, study, "site-0")
    study.audit.coins = True
    tossed = prepare_site(data, study, "site-0")
    np.testing.assert_array_equal(tossed.canaries.images, without.canaries.images)
    np.testing.assert_array_equal(
        tossed.train.images[len(tossed.members) :], without.train.images[len(without.members) :]
    )
    natural = rows(joined([tossed.members, tossed.holdout]))
    assert natural == rows(joined([without.members, without.holdout]))


def test_a_study_without_canaries_and_coins_gets_the_plain_split():
    plain = split_site(image_set(), SplitConfig(), 0, "site-0")
    prepared = prepare_site(image_set(), Study(), "site-0")
    assert prepared.canaries is None
    for name in ("train", "val", "test", "holdout"):
        np.testing.assert_array_equal(getattr(prepared, name).images, getattr(plain, name).images)
    assert prepared.members is prepared.train


@pytest.mark.parametrize(
    ("config", "classes", "words"),
    [
        (AuditConfig(canaries=56), 4, r"^site-0: audit.canaries=56 .*220 training images; set it to 55 or less$"),
        (AuditConfig(canaries=41, coins=True), 4, r"audit.canaries=41 .*160 training images; set it to 40"),
        (AuditConfig(canaries=9, canary_kinds=[]), 4, "audit.canary_kinds"),
        (AuditConfig(canaries=9), 1, "one class only"),
    ],
)
def test_canaries_that_a_site_cannot_hold_are_refused_in_one_line(config, classes, words):
    with pytest.raises(UserError, match=words) as error:
        planted(image_set(classes=classes), config)
    assert "\n" not in str(error.value)


def test_a_holdout_that_canaries_would_use_up_is_named():
    split = SplitConfig(val=0.1, test=0.1, holdout=0.02)
    before = split_site(image_set(), split, 0, "site-0")
    with pytest.raises(UserError, match=r"site-0: the holdout has too few images \(8\).*audit.canaries"):
        plant_canaries(before, AuditConfig(canaries=60), 0, "site-0")


@pytest.mark.parametrize("seed", [2, 3])
def test_no_outlier_repeats_another_and_drawing_again_moves_no_other(seed, monkeypatch):
    data, config = image_set(4000), AuditConfig(canaries=500, canary_kinds=["outlier"])
    found = planted(data, config, seed)[1].canaries
    assert len(rows(found)) == 500
    monkeypatch.setattr("fedkr.data.canaries._repeated", lambda patterns: [])
    drawn = planted(data, config, seed)[1].canaries
    same = (found.images == drawn.images).all(axis=(1, 2, 3))
    assert same.sum() == len(rows(drawn)) < 500
    assert (found.labels == drawn.labels).all() and (found.included == drawn.included).all()


def test_images_too_small_for_so_many_outliers_are_refused_in_one_line():
    data = ImageSet(np.zeros((400, 2, 2, 1), np.uint8), np.arange(400) % 4, ("a", "b", "c", "d"))
    with pytest.raises(UserError, match=r"^audit.canaries: .*2 x 2 pixels for 9 outliers; lower it$"):
        planted(data, AuditConfig(canaries=9, canary_kinds=["outlier"]))
    assert len(rows(planted(data, AuditConfig(canaries=8, canary_kinds=["outlier"]))[1].canaries)) == 8


@pytest.mark.parametrize(("side", "channels"), [(6, 1), (28, 3), (5, 1)])
def test_an_outlier_is_a_coarse_pattern_made_of_no_image_of_the_site(side, channels):
    images = np.random.default_rng(0).integers(60, 200, (400, side, side, channels), dtype=np.uint8)
    data = dataclasses.replace(image_set(), images=images, labels=np.repeat([0, 1, 2], [200, 190, 10]))
    before, after = planted(data, AuditConfig(canaries=20, canary_kinds=["outlier"]))
    canaries = after.canaries
    assert set(np.unique(canaries.images)) == {0, 255} and canaries.images.shape[1:] == images.shape[1:]
    assert len(rows(canaries)) == 20 and set(canaries.labels) == {0, 1}
    # No more than sixteen squares: hardly any pixel differs from the one beside it.
    changes = (np.diff(canaries.images.astype(int), axis=2) != 0).any(axis=(0, 1, 3)).sum()
    assert changes == 3
    assert rows(after.holdout) == rows(before.holdout) and rows(after.members) == rows(before.train)
    assert canaries.of_channel("image").all() and canaries.companions == 0
