"""DP-SGD: no unit moves a sum by more than the limit, the noise is what was asked for, and the rest is plain SGD."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedkr.config import ClassifierConfig
from fedkr.data.images import ImageSet, Shape
from fedkr.learning.classifier import soft_label_loss
from fedkr.learning.job import Job
from fedkr.learning.models import build_classifier
from fedkr.learning.prediction import to_model_input
from fedkr.learning.private_training import Mechanism, PrivateTraining, sampled, steps_of, units_of
from fedkr.learning.runtime import Runtime
from fedkr.learning.training import DivergedError

RECIPE = ClassifierConfig(arch="resnet8", width=4, norm="group", lr=0.1, augment="none")
ALL, FAR = 1.0, 1e6


def pictures(count, groups=None, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)
    return ImageSet(images, rng.integers(0, 3, count), ("a", "b", "c"), groups)


@pytest.fixture
def step():
    """Return a function that takes one step on some images; it returns the gradient and the model."""

    def take(data, *, rate=ALL, clip=FAR, noise=0.0, seed="s", recipe=RECIPE, weights=None):
        model = build_classifier(recipe, Shape(1, 8, 3), "s")
        if weights is not None:
            torch.nn.init.constant_(next(model.parameters()), weights)
        work = PrivateTraining(
            model,
            recipe,
            data,
            Mechanism(rate, clip, noise, max(1.0, rate * len(units_of(data)))),
            Job(Runtime.choose("cpu", "float32", 1), seed=(seed,)),
        )
        work.advance(1, "round 1")
        return torch.cat([p.grad.flatten() for p in work.model.parameters()]), work.model

    return take


def test_without_clipping_and_noise_it_is_the_gradient_of_the_mean_loss(step):
    data = pictures(150)
    found, _ = step(data)
    model = build_classifier(RECIPE, Shape(1, 8, 3), "s").train()
    F.cross_entropy(model(to_model_input(torch.from_numpy(data.images))), torch.from_numpy(data.labels)).backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert torch.allclose(found, expected, atol=1e-5)
    assert float(expected.norm()) > 0.1


@pytest.mark.parametrize("clip", [0.1, 1.0])
def test_one_image_more_moves_the_sum_by_the_limit_at_most(step, clip):
    whole = pictures(40)
    moved = []
    for left_out in range(8):
        rest = np.delete(np.arange(40), left_out)
        with_it, without = step(whole, clip=clip)[0] * 40, step(whole.subset(rest), clip=clip)[0] * 39
        moved.append(float((with_it - without).norm()))
    assert max(moved) <= clip * 1.001
    # These gradients are longer than the limit, so that each image has its whole say.
    assert max(moved) == pytest.approx(clip, rel=0.01)


def test_a_patient_is_one_unit_however_many_images_it_has(step):
    groups = np.array([0] * 30 + list(range(1, 11)))
    whole = pictures(40, groups)
    rest = whole.subset(np.arange(30, 40))
    assert [len(unit) for unit in units_of(whole)] == [30, *[1] * 10]
    with_it, without = step(whole, clip=0.5)[0] * 11, step(rest, clip=0.5)[0] * 10
    assert 0.1 < float((with_it - without).norm()) <= 0.5 * 1.001


def test_the_noise_has_the_deviation_that_was_asked_for(step):
    data = pictures(20)
    quiet, noisy = step(data, clip=2.0)[0], step(data, clip=2.0, noise=3.0)[0]
    assert float((noisy - quiet).std()) == pytest.approx(3.0 * 2.0 / 20, rel=0.1)
    other = step(data, clip=2.0, noise=3.0, seed="t")[0]
    assert float((noisy - other).std()) == pytest.approx(2**0.5 * 0.3, rel=0.1)
    assert torch.equal(noisy, step(data, clip=2.0, noise=3.0)[0])


def test_no_two_sums_and_no_two_scales_have_the_same_noise(step):
    data, other = pictures(20), pictures(20, seed=1)
    noises = {}
    for name, given, noise in (("one", data, 3.0), ("other sum", other, 3.0), ("other scale", data, 6.0)):
        quiet, noisy = step(given, clip=2.0)[0], step(given, clip=2.0, noise=noise)[0]
        noises[name] = (noisy - quiet) / noise
    for name in ("other sum", "other scale"):
        both = torch.corrcoef(torch.stack([noises["one"], noises[name]]))
        assert abs(float(both[0, 1])) < 0.1, name


def test_a_step_that_draws_nobody_is_noise_alone(step):
    found, _ = step(pictures(20), rate=1e-9, clip=1.0, noise=1.0)
    assert float(found.std()) == pytest.approx(1.0, rel=0.1)
    assert not step(pictures(20), rate=1e-9)[0].any()


def test_units_are_drawn_by_coins_of_their_own():
    units = units_of(pictures(500))
    drawn = [sampled(units, 0.2, "s", step) for step in range(200)]
    assert np.mean([len(each) for each in drawn]) == pytest.approx(100, abs=2)
    # A coin for each: binomial, where a batch of a fixed size would not vary at all.
    assert np.std([len(each) for each in drawn]) == pytest.approx((500 * 0.2 * 0.8) ** 0.5, rel=0.2)
    counts = np.bincount(np.concatenate(drawn), minlength=500)
    assert counts.min() > 0 and counts.mean() == pytest.approx(40, abs=1)


def test_patients_are_units_whatever_their_order():
    assert [unit.tolist() for unit in units_of(pictures(6, np.array([7, 2, 7, 5, 2, 7])))] == [[1, 4], [3], [0, 2, 5]]


def test_each_of_a_patients_images_is_drawn_at_times():
    units = units_of(pictures(6, np.array([7, 7, 7, 7, 2, 2])))
    drawn = np.concatenate([sampled(units, 1.0, "s", step) for step in range(60)])
    assert {*drawn} == {*range(6)}
    assert all(len(sampled(units, 1.0, step)) == 2 for step in range(5))


def test_an_image_whose_gradient_has_no_length_counts_for_nothing(step, monkeypatch):
    data, calls = pictures(12), []

    def lost(logits, labels, kind):
        loss = soft_label_loss(logits, labels, kind)
        calls.append(1)
        # Of one class alone the loss is infinite, and its gradient no number.
        return loss + torch.where(labels[0, 2] > 0, torch.inf, 0.0) * loss

    monkeypatch.setattr("fedkr.learning.private_training.soft_label_loss", lost)
    found, _ = step(data, clip=1.0)
    monkeypatch.undo()
    others = data.subset(np.flatnonzero(data.labels != 2))
    expected = step(others, clip=1.0)[0] * len(others) / 12
    assert calls and 0 < len(others) < 12
    assert torch.allclose(found, expected, atol=1e-6)


def test_weights_that_are_no_numbers_are_a_divergence(step):
    with pytest.raises(DivergedError, match=r"round 1: .*lower its lr \(now 0\.1\)"):
        step(pictures(10), weights=float("nan"))


@pytest.mark.parametrize(("units", "batch", "epochs", "steps"), [(90, 400, 1, 1), (400, 100, 2, 8), (401, 100, 1, 5)])
def test_an_epoch_is_as_many_steps_as_batches(units, batch, epochs, steps):
    assert steps_of(units, batch, epochs) == steps
