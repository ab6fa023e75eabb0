"""What pool and test set have in common: counted, told in one line, taken out of the pool where asked."""

import numpy as np
import pytest

from fedkr.config import DataConfig
from fedkr.data import ImageSet, SiteData, load_source
from fedkr.data.leaks import find_leaks, shared_own_tests
from fedkr.errors import UserError


def image_set(images, groups=None):
    labels = np.arange(len(images)) % 2
    return ImageSet(np.asarray(images, np.uint8), labels, ("a", "b"), None if groups is None else np.asarray(groups))


def random_images(count, seed=0, side=6):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 1), np.uint8)


def test_equal_images_are_counted_on_both_sides():
    pool = random_images(20)
    pool[7] = pool[3]
    leaks, concerned = find_leaks(image_set(pool), image_set([*pool[3:5], *random_images(5, 1)]))
    assert (leaks.images, leaks.near, leaks.patients, leaks.test_images) == (2, None, None, 7)
    assert np.flatnonzero(concerned).tolist() == [3, 4, 7]
    assert leaks.warnings()[0].startswith("of 7 test images 2 equal an image of the pool: ")


def test_nothing_in_common_is_not_told():
    leaks, concerned = find_leaks(image_set(random_images(20)), image_set(random_images(5, 1)))
    assert (leaks.images, leaks.warnings(), concerned.any()) == (0, [], False)


@pytest.mark.parametrize(("within", "found"), [(0.0, None), (2.9, 0), (3.0, 5), (3.1, 5)])
def test_near_equal_images_are_those_within_the_root_mean_square_that_is_asked_for(within, found):
    pool = random_images(600) // 2
    leaks, concerned = find_leaks(image_set(pool), image_set([*(pool[295:300] + 3), *random_images(300, 1)]), within)
    assert (leaks.images, leaks.near) == (0, found)
    assert np.flatnonzero(concerned).tolist() == (list(range(295, 300)) if found else [])


def test_patients_on_both_sides_are_counted_and_all_their_images_named():
    pool, test = image_set(random_images(6), [1, 1, 2, 3, 3, 4]), image_set(random_images(3, 1), [3, 9, 4])
    leaks, concerned = find_leaks(pool, test)
    assert (leaks.images, leaks.patients, np.flatnonzero(concerned).tolist()) == (0, 2, [3, 4, 5])
    assert "2 patients of the test set are in the pool too" in leaks.warnings()[0]


@pytest.fixture
def leaky(arrays, save):
    """Load the small file, in whose test set two training images, a val image and a patient of train are."""
    arrays["test_images"][:3] = [*arrays["train_images"][:2], arrays["val_images"][5]]
    arrays["test_labels"][2] = arrays["val_labels"][5]
    groups = {"train_groups": np.arange(40), "val_groups": 100 + np.arange(10), "test_groups": 200 + np.arange(14)}
    groups["test_groups"][9] = 30
    return lambda **options: load_source(DataConfig(name="npz", path=save(arrays | groups), **options))


def test_a_leak_is_one_warning_of_the_source(leaky):
    (warning,) = leaky().warnings
    assert warning.startswith(
        "of 14 test images 3 equal an image of the pool; 1 patient of the test set is in the pool too"
    )
    assert "data.remove_leaks=true" in warning


def test_leaks_are_taken_out_of_the_pool_and_counted(leaky):
    whole, source = leaky(), leaky(remove_leaks=True)
    assert (len(whole.pool), len(source.pool), len(source.test), whole.val, source.val) == (50, 46, 14, 10, 9)
    assert not {0, 1, 30, 105} & set(source.pool.groups.tolist())
    assert source.leaks.removed == 4 and source.warnings[0].endswith(
        "data.remove_leaks took 4 images out of the pool for it"
    )
    again, concerned = find_leaks(source.pool, source.test)
    assert (again.images, again.patients, concerned.any()) == (0, 0, False)


def test_images_that_stand_under_two_classes_are_told_wherever_they_are(arrays, save):
    arrays["train_images"][1] = arrays["train_images"][2] = arrays["train_images"][4]
    arrays["test_images"][0] = arrays["val_images"][1]
    warnings = load_source(DataConfig(name="npz", path=save(arrays))).warnings
    assert "5 images equal one of another class, so that no model can tell their classes apart" in warnings


def test_a_pool_that_is_the_test_set_cannot_lose_its_leaks(arrays, save):
    for name in ("images", "labels"):
        arrays[f"test_{name}"] = arrays[f"train_{name}"]
        del arrays[f"val_{name}"]
    with pytest.raises(UserError, match=r"data.remove_leaks=true: it would take every image of the pool"):
        load_source(DataConfig(name="npz", path=save(arrays), remove_leaks=True))


def test_own_test_images_that_any_site_trains_or_selects_on_are_told_by_site():
    def site(train, test):
        parts = [image_set(part) for part in (train, train[:2], test, random_images(2, 99))]
        return SiteData(*parts)

    first, other = random_images(8, 2), random_images(8, 3)
    sites = {"north": site(first, [*random_images(3, 5), other[6]]), "south": site(other, random_images(4, 6))}
    (line,) = shared_own_tests(sites)
    assert line.endswith("flatters the figures on them: 1 of 4 at north")
    assert shared_own_tests({"north": sites["north"]}) == []
