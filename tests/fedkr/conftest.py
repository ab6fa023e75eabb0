"""Small image sets and one site's splits for the tests of models, generators and Knowledge Recycling."""

import numpy as np
import pytest
import torch

from fedkr.config import Study
from fedkr.data import ImageSet, SiteData
from fedkr.learning.runtime import Runtime

CLASSES = ("dark", "bright", "striped", "absent")


class Poisoned:
    """A split that nobody may look at."""

    def __getattr__(self, name):
        raise AssertionError(f"the {name} of a split that training and selection never touch")


def pictures(per_class, seed=0, size=8, classes=CLASSES):
    """Return noisy pictures of dark, bright and striped squares: ``per_class`` names how many of each."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(per_class)), per_class)
    plain = np.array([40, 215, 0, 128])[labels][:, None, None] * np.ones((1, size, size))
    stripes = np.where(np.arange(size) % 2, 230, 25)[None, None, :]
    images = np.where((labels == 2)[:, None, None], stripes, plain) + rng.normal(0, 12, plain.shape)
    order = rng.permutation(len(labels))
    pixels = np.clip(images, 0, 255).astype(np.uint8)[..., None]
    return ImageSet(pixels[order], labels[order].astype(np.int64), classes)


@pytest.fixture(name="pictures")
def picture_maker():
    """Return the function that makes an image set."""
    return pictures


@pytest.fixture
def site_data():
    """One site's splits; test and holdout must never be read."""
    return SiteData(pictures((20, 16, 12)), pictures((6, 5, 4), seed=1), Poisoned(), Poisoned())


@pytest.fixture
def tiny_study():
    """A study whose every stage takes milliseconds."""
    study = Study(device="cpu", precision="float32")
    for config in (study.teacher, study.student):
        config.arch, config.width, config.steps, config.batch = "resnet8", 4, 6, 16
    study.teacher.evaluations = 2
    study.generator.steps, study.generator.batch, study.generator.checkpoints = 6, 8, 2
    study.generator.options = {"width": 8, "steps_sample": 2}
    recycle = study.recycle
    recycle.search_steps, recycle.search_images, recycle.tuning_budget = 2, 16, 2
    recycle.rounds, recycle.views = 2, 2
    # A generator of six steps has learned nothing.
    recycle.refuse_collapsed = False
    return study


@pytest.fixture(autouse=True)
def one_thread():
    """Tests share the machine with other work, and the last digits depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def runtime():
    """One thread of float32 on the processor."""
    return Runtime.choose("cpu", "float32", 1)
