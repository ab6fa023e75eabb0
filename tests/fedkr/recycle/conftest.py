"""Val splits of a few images, which choose all the same: how, is what most of these tests are about."""

import numpy as np
import pytest

from fedkr.data import ImageSet

CHOOSING = "fedkr.config.protocol.LEAST_TO_CHOOSE"


@pytest.fixture(autouse=True)
def few_images_choose(monkeypatch):
    """Let val choose however few images it has."""
    monkeypatch.setattr(CHOOSING, 1)


@pytest.fixture
def too_few_images(monkeypatch, few_images_choose):
    """Make the site's val split one image too small to choose."""
    monkeypatch.setattr(CHOOSING, 16)


@pytest.fixture
def overlapping():
    """Return a function that makes grey images whose brightness tells their classes apart, but not surely."""

    def make(counts, seed):
        labels, rng = np.repeat(np.arange(len(counts)), counts), np.random.default_rng(seed)
        images = np.clip(rng.normal(110 + 30 * labels, 25)[:, None, None, None], 0, 255) * np.ones((1, 8, 8, 1))
        return ImageSet(images.astype(np.uint8), labels, tuple("abc"[: len(counts)]))

    return make
