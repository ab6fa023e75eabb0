"""Which drawn images are near-copies of real ones: copies and noisy ones are, fresh and merely typical ones are not."""

import dataclasses

import numpy as np
import pytest
from sklearn.datasets import load_digits

from fedkr.audit.near_copies import NearCopies
from fedkr.data.distances import small_pixels
from fedkr.data.images import ImageSet


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)[..., None]
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], data.target[order].astype(np.int64)
    return [ImageSet(images[p], labels[p], tuple(map(str, range(10)))) for p in (slice(500), slice(500, 1000))]


def noisy(images, deviation):
    noise = np.random.default_rng(1).normal(0, deviation, images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


def test_copies_and_noisy_copies_are_found_and_few_fresh_images_are(digits):
    real, fresh = digits
    near = NearCopies(real)
    assert near(real.images).all()
    assert near(noisy(real.images, 8)).all()
    assert near(fresh.images).mean() < 0.03


def test_smooth_images_that_lie_near_all_others_alike_are_no_copies_of_any():
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
    real = ImageSet(images, np.zeros(60, np.int64), ("a",))
    assert not NearCopies(real)(np.full((5, 8, 8, 1), 127, np.uint8)).any()


def test_pairs_of_real_images_do_not_hide_the_copies_of_either(digits):
    real, _ = digits
    images = np.concatenate([real.images, real.images, noisy(real.images, 4)])
    pairs = ImageSet(images, np.tile(real.labels, 3), real.classes)
    assert NearCopies(pairs)(noisy(real.images, 8)).mean() > 0.99


def test_a_patients_own_other_images_do_not_narrow_the_search(digits):
    real = digits[0].subset(np.arange(150))
    images = np.concatenate([noisy(real.images, d) for d in (0, 2, 3, 4, 5)])
    groups = np.tile(np.arange(len(real)), 5).astype(np.int64)
    one_patient_each = ImageSet(images, np.tile(real.labels, 5), real.classes, groups)
    copies = noisy(real.images, 16)
    assert NearCopies(one_patient_each)(copies).mean() > 0.9
    assert NearCopies(dataclasses.replace(one_patient_each, groups=None))(copies).mean() > 0.9


def blended(images, labels, share):
    means = np.stack([images[labels == label].mean(axis=0) for label in range(10)])[labels]
    return np.rint(means + share * (images - means)).astype(np.uint8)


ALTERED = {
    "mirrored": lambda images, labels: images[:, :, ::-1],
    "upside down": lambda images, labels: images[:, ::-1],
    "a quarter turn": lambda images, labels: np.rot90(images, axes=(1, 2)),
    "inverted": lambda images, labels: 255 - images,
    "darker": lambda images, labels: np.rint(images * 0.6).astype(np.uint8),
    "brighter": lambda images, labels: np.rint(images * 0.84 + 40).astype(np.uint8),
    "half the contrast about the class mean": lambda images, labels: blended(images, labels, 0.5),
    "a quarter of it, mirrored": lambda images, labels: blended(images, labels, 0.25)[:, :, ::-1],
}


@pytest.mark.parametrize("alteration", ALTERED)
def test_copies_are_found_behind_what_anyone_can_undo(digits, alteration):
    real, _ = digits
    altered = ALTERED[alteration](real.images, real.labels)[:100]
    assert NearCopies(real)(altered).mean() > 0.95


def test_frames_of_one_scene_that_nobody_grouped_do_not_hide_their_copies(digits):
    real, fresh = digits
    frames = np.concatenate([real.images[:100] // 4 * 4 + i for i in range(4)])
    series = ImageSet(frames, np.tile(real.labels[:100], 4), real.classes)
    near = NearCopies(series)
    assert near._close(small_pixels(noisy(real.images[:100], 4))).mean() > 0.99
    assert near(fresh.images[:200]).mean() < 0.03


def test_where_all_real_images_are_equal_their_copies_are_found():
    real = ImageSet(np.full((3, 4, 4, 1), 9, np.uint8), np.zeros(3, np.int64), ("a",))
    assert NearCopies(real)(np.stack([real.images[0], real.images[0] + 40])).tolist() == [True, False]
