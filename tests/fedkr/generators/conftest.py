"""What the generators' tests share: a set that is learnt in seconds, and the way to fit and to draw."""

import numpy as np
import pytest

from fedkr.config import GeneratorConfig
from fedkr.data.images import ImageSet, Shape
from fedkr.generators import build_generator
from fedkr.learning.job import Job
from fedkr.learning.runtime import Runtime
from fedkr.progress import SilentProgress


@pytest.fixture(scope="session")
def two_colours():
    """64 images of 8x8 pixels: class 0 is dark, class 1 is bright."""
    labels = np.arange(64) % 2
    noise = np.random.default_rng(0).normal(0, 10, (64, 8, 8, 1))
    images = (np.where(labels, 200, 60)[:, None, None, None] + noise).astype(np.uint8)
    return ImageSet(images, labels.astype(np.int64), ("dark", "bright"))


@pytest.fixture(scope="session")
def build():
    """Build a generator for the set of two colours from its kind, options and common settings."""

    def build(kind, options, size=8, **settings):
        config = GeneratorConfig(**{"kind": kind, "steps": 4, "batch": 8, "checkpoints": 2} | settings, options=options)
        runtime = Runtime.choose("cpu", "float32", 1)
        return build_generator(config, Shape(1, size, 2), Job(runtime, flip="both"))

    return build


@pytest.fixture(scope="session")
def fit():
    """Fit a generator; return its checkpoints by step."""

    def fit(generator, data, state=None, seed=(0,), progress=None):
        saved = {}
        generator.fit(
            data,
            Job(Runtime.choose("cpu", "float32", 1), progress or SilentProgress(), seed=seed),
            saved.__setitem__,
            state,
        )
        return saved

    return fit


@pytest.fixture(scope="session")
def draw():
    """Return one image a label, all batches together."""

    def draw(generator, labels, **knobs):
        labels = np.asarray(labels, np.int64)
        return np.concatenate(list(generator.sample(labels, generator.default_knobs() | knobs, 1)))

    return draw


@pytest.fixture(scope="session")
def differing():
    """Return the names of the tensors in which two artifacts differ by any bit."""

    def differing(a, b):
        assert a.tensors.keys() == b.tensors.keys()
        return [name for name, value in a.tensors.items() if not value.equal(b.tensors[name])]

    return differing
