"""What a candidate gives away: found where drawn images follow the members, nothing where they follow nobody."""

import numpy as np
import pytest

from fedkr.data.distances import small_pixels
from fedkr.data.images import ImageSet, joined
from fedkr.recycle import leakage
from fedkr.recycle.leakage import LeakageGauge, surroundings

CLASSES = ("a", "b")


def pictures(rng, count, spread=25):
    """Pictures of two classes, some nearer to their class's mean than others: those lie close to all that is drawn."""
    labels = np.arange(count) % 2
    near = rng.choice([0.3, 1.0], (count, 1, 1, 1))
    means = np.stack([np.full((6, 6, 1), 100), np.tile([[60], [140]], (6, 3, 1))])
    images = means[labels] + near * rng.normal(0, spread, (count, 6, 6, 1))
    return ImageSet(images.clip(0, 255).astype(np.uint8), labels, CLASSES)


def drawn_after(rng, members, like, count):
    """Drawn images, a share ``like`` of which are members under much noise, and the others new ones."""
    copies = members.images[rng.permutation(len(members))[: round(like * count)]]
    noisy = (copies + rng.normal(0, 15, copies.shape)).clip(0, 255).astype(np.uint8)
    return np.concatenate([noisy, pictures(rng, count - len(copies)).images])


def gauged(seed, like):
    rng = np.random.default_rng(seed)
    members, others = pictures(rng, 120), pictures(rng, 100)
    return LeakageGauge(members, others, rng)(drawn_after(rng, members, like, 100))


def test_images_that_follow_nobody_give_nothing_away():
    found = np.array([gauged(seed, 0.0) for seed in range(40)])
    # Of 120 against 100 images, guessing has a standard deviation of 0.039.
    assert found.mean() == pytest.approx(0.5, abs=3 * 0.039 / np.sqrt(40))
    assert 0.02 < found.std() < 0.06


def test_the_more_members_are_followed_the_more_is_found():
    means = [np.mean([gauged(seed, like) for seed in range(10)]) for like in (0.0, 0.4, 0.9)]
    assert means[0] + 0.05 < means[1] < means[2] - 0.05


def test_what_is_expected_of_an_image_is_taken_off(monkeypatch):
    taken_off = np.mean([gauged(seed, 0.6) for seed in range(10)])
    monkeypatch.setattr(leakage, "surroundings", lambda pixels, real: np.ones((len(pixels), 1)))
    assert taken_off > np.mean([gauged(seed, 0.6) for seed in range(10)]) + 0.02


def test_surroundings_are_of_others_and_do_not_say_who_is_a_member():
    rng = np.random.default_rng(0)
    real = pictures(rng, 30)
    pixels = small_pixels(real.images)
    found, order = surroundings(pixels, real), rng.permutation(30)
    np.testing.assert_allclose(surroundings(pixels[order], real.subset(order)), found[order])
    # The nearest others of the class are no nearer than the nearest of all.
    assert (found[:, 0] >= found[:, 1] - 1e-12).all() and (found[:, 2] == 1).all()
    twice = joined([real, real.subset(np.arange(1))])
    np.testing.assert_allclose(surroundings(small_pixels(twice.images), twice)[[0]], found[[0]])


def test_images_of_one_patient_are_no_others():
    rng = np.random.default_rng(0)
    real = pictures(rng, 30)
    follow_up = (real.images[:1] + 1).clip(0, 255).astype(np.uint8)
    both = ImageSet(np.concatenate([real.images, follow_up]), np.append(real.labels, 0), CLASSES)
    patients = ImageSet(both.images, both.labels, CLASSES, np.append(np.arange(30), 0))
    pixels = small_pixels(both.images)
    own, without = (surroundings(pixels, one)[0] for one in (patients, both))
    np.testing.assert_allclose(own, surroundings(pixels[:30], real)[0])
    assert without[0] > own[0]


def test_an_image_alone_in_its_class_is_expected_as_all_images_are():
    rng = np.random.default_rng(0)
    images = pictures(rng, 21)
    alone = ImageSet(images.images, np.append(np.zeros(20, np.int64), 1), CLASSES)
    found = surroundings(small_pixels(alone.images), alone)
    assert np.isfinite(found).all() and found[20, 1] == found[20, 0]


def test_of_many_images_some_are_compared(monkeypatch):
    monkeypatch.setattr(leakage, "MOST_IMAGES", 50)
    rng = np.random.default_rng(0)
    gauge = LeakageGauge(pictures(rng, 120), pictures(rng, 60), rng)
    assert (gauge.members, len(gauge.pixels)) == (50, 100)
    assert 0.3 < gauge(pictures(rng, 40).images) < 0.7
