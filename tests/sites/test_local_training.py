"""A site's part of a weight-sharing round: the proximal term of FedProx."""

import numpy as np
import pytest
import torch

from fedkr.config import ClassifierConfig
from fedkr.data import ImageSet
from fedkr.data.images import Shape
from fedkr.learning.classifier import real_batches
from fedkr.learning.job import Job
from fedkr.learning.models import build_classifier
from fedkr.learning.runtime import Runtime
from sites.handlers import LocalTraining

CONFIG = ClassifierConfig(arch="resnet8", width=4, steps=30, batch=16, lr=0.05)


@pytest.fixture
def runtime():
    return Runtime.choose("cpu", "float32", 1)


@pytest.fixture
def pictures():
    """Return a function that makes noisy grey squares, so many of each class."""

    def make(per_class):
        labels = np.repeat(np.arange(len(per_class)), per_class)
        noise = np.random.default_rng(0).normal(0, 12, (len(labels), 8, 8, 1))
        images = np.clip(np.array([40, 128, 215])[labels][:, None, None, None] + noise, 0, 255).astype(np.uint8)
        return ImageSet(images, labels, ("dark", "grey", "bright"))

    return make


@pytest.fixture
def drift(pictures, runtime):
    """Return how far training moves the weights for a proximal mu, and the gradient of that term."""

    def measure(mu):
        model = build_classifier(CONFIG, Shape(1, 8, 3), "s")
        start = [p.detach().clone() for p in model.parameters()]
        batches = real_batches(pictures((9, 8, 7)), 16, "s")
        work = LocalTraining(model, CONFIG, batches, Job(runtime, seed=("s",)), factor=lambda step: 1.0)
        work.proximal = mu
        work.advance(8, "stage")
        pairs = zip(work.model.parameters(), start, strict=True)
        return float(torch.stack([(p.detach() - s).square().sum() for p, s in pairs]).sum())

    return measure


def test_a_proximal_term_keeps_the_weights_near_where_they_started(drift):
    free, near, nearer = drift(0.0), drift(1.0), drift(10.0)
    assert nearer < near < free
    assert nearer < free / 4


def test_the_proximal_term_is_half_mu_times_the_squared_distance(pictures, runtime):
    model = build_classifier(CONFIG, Shape(1, 8, 3), "s")
    batches = real_batches(pictures((9, 8, 7)), 16, "s")
    work = LocalTraining(model, CONFIG, batches, Job(runtime, seed=("s",)))
    assert work.penalty() is None
    work.proximal = 0.3
    assert work.penalty().item() == 0.0
    with torch.no_grad():
        for parameter in work.model.parameters():
            parameter.add_(0.5)
    count = sum(p.numel() for p in work.model.parameters())
    assert work.penalty().item() == pytest.approx(0.5 * 0.3 * 0.25 * count, rel=1e-4)
