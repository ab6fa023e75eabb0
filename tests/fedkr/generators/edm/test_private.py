"""Diffusion by DP-SGD: what a step adds up, what the noise is for, and that only noisy figures are kept."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.func import functional_call

from fedkr.config import GeneratorConfig, PrivacyConfig
from fedkr.data.images import Shape
from fedkr.errors import UserError
from fedkr.generators import build_generator
from fedkr.generators.edm.private import PrivateWork, noisy_counts
from fedkr.learning.job import Job
from fedkr.learning.private_training import units_of
from fedkr.learning.runtime import Runtime
from fedkr.privacy.accountant import mu_of
from fedkr.privacy.sampled import noise_for

SMALL = {"width": 8, "private_draws": 2, "steps_sample": 2}


@pytest.fixture
def private():
    """Build an ``edm`` with a guarantee."""

    def build(epsilon=8.0, options=SMALL, **settings):
        config = GeneratorConfig(
            **{"kind": "edm", "steps": 4, "batch": 100, "checkpoints": 2} | settings,
            options={"class_power": 1} | options,
        )
        job = Job(Runtime.choose("cpu", "float32", 1))
        return build_generator(config, Shape(1, 8, 2), job, PrivacyConfig("dp", epsilon, 1e-5))

    return build


@pytest.fixture
def begun(private, two_colours):
    """Begin a training on the set of two colours."""

    def begin(data=two_colours, seed=("s",), **settings):
        return private(**settings).begin(data, seed)

    return begin


def test_noise_and_batches_follow_from_the_noisy_counts_and_what_these_leave_of_the_budget(begun):
    work = begun(batch=16)
    assert isinstance(work, PrivateWork)
    mechanism, total = work.gradients.mechanism, work.counts.sum()
    assert total != 64 and abs(total - 64) < 6 * work.count_noise
    assert work.count_noise == 1 / mu_of(0.8, 1e-6)
    assert mechanism.rate == min(1.0, 16 / total) and mechanism.expected == mechanism.rate * total
    assert mechanism.noise == noise_for(8.0 * 0.9, 1e-5 * 0.9, mechanism.rate, 4)


def test_counts_have_the_noise_that_is_said_and_no_unit_moves_them_by_more_than_one(two_colours):
    noises = [noisy_counts(two_colours, units_of(two_colours), 1.0, 1e-6, (s,))[0] - 32 for s in range(300)]
    assert np.std(noises) == pytest.approx(1 / mu_of(1.0, 1e-6), rel=0.1)
    grouped = dataclasses.replace(two_colours, groups=np.array([0] * 10 + list(range(1, 55))))
    fewer = grouped.subset(np.arange(10, 64))
    counts = [noisy_counts(data, units_of(data), 1.0, 1e-6, ("s",))[0] for data in (grouped, fewer)]
    assert np.linalg.norm(counts[0] - counts[1]) == pytest.approx(0.5**0.5), "ten images of two classes, one patient"


def test_a_step_without_clipping_and_noise_is_the_gradient_of_the_mean_loss_over_images_and_draws(begun):
    work, chosen = begun(), np.arange(10)
    gradients = work.gradients
    gradients.mechanism = dataclasses.replace(gradients.mechanism, clip=1e9, noise=0.0, expected=1.0)
    torch.nn.init.normal_(work.generator.net.conv_out.weight, generator=torch.Generator().manual_seed(0))
    found = gradients._clipped_sum(chosen, 0)
    inputs, levels, target, labels = work._examples(chosen, ("s", "examples", 0, 0))
    assert inputs.shape == target.shape == (10, 2, 1, 8, 8) and levels.shape == (10, 2)
    assert len(torch.unique(levels)) == 20, "each draw has a noise level of its own"
    weights = {name: p.detach().requires_grad_() for name, p in work.network.named_parameters()}
    flat = inputs.flatten(0, 1), levels.flatten(), labels.repeat_interleave(2)
    errors = (functional_call(work.network, weights, flat) - target.flatten(0, 1)) ** 2
    (errors.flatten(1).mean(1).sum() / 2).backward()
    length = torch.cat([w.grad.flatten() for w in weights.values()]).norm()
    for name, weight in weights.items():
        assert torch.allclose(found[name], weight.grad, atol=1e-4 * float(length)), name
    assert float(length) > 0.1


def test_one_image_more_moves_a_step_by_the_limit_at_most(begun, two_colours):
    work, short = begun(), 1e-3
    work.gradients.mechanism = dataclasses.replace(work.gradients.mechanism, clip=short)
    torch.nn.init.normal_(work.generator.net.conv_out.weight, generator=torch.Generator().manual_seed(0))
    whole = work.gradients._clipped_sum(np.arange(10), 0)
    for left_out in (0, 9):
        # The draws of the others are those of before, as an image's place decides on them.
        alone = work.gradients._clipped_sum(np.array([left_out]), 0)
        assert float(torch.cat([g.flatten() for g in alone.values()]).norm()) <= short * 1.001
    assert float(torch.cat([g.flatten() for g in whole.values()]).norm()) <= 10 * short * 1.001


def test_with_hardly_any_noise_it_learns_the_classes(private, two_colours, fit, draw):
    options = {"width": 8, "private_draws": 1, "steps_sample": 5, "lr": 0.02, "ema": 0.9}
    many = two_colours.subset(np.tile(np.arange(64), 2))
    generator = private(epsilon=100.0, options=options, steps=80, batch=1000, checkpoints=1)
    generator.load(generator.prune(fit(generator, many)[80]))
    images = draw(generator, [0] * 20 + [1] * 20)
    assert images[:20].mean() + 40 < images[20:].mean()


def test_a_checkpoint_holds_weights_that_draw_and_noisy_counts(private, two_colours, fit):
    generator = private()
    kept = generator.prune(fit(generator, two_colours)[4])
    others = {name for name in kept.tensors if not name.startswith("average.")}
    assert others == {"counts", "count_noise"}
    assert not torch.equal(kept.tensors["counts"], torch.tensor([32.0, 32.0], dtype=torch.float64))


def test_a_training_that_goes_on_ends_at_the_same_weights(private, two_colours, fit):
    whole = fit(private(), two_colours)
    first, last = sorted(whole)
    resumed = fit(private(), two_colours, state=whole[first])
    assert all(torch.equal(value, resumed[last].tensors[name]) for name, value in whole[last].tensors.items())


def test_another_seed_has_other_noise(private, two_colours, fit):
    states = [fit(private(), two_colours, seed=seed)[4].tensors for seed in (("a",), ("a",), ("b",))]
    assert torch.equal(states[0]["counts"], states[1]["counts"])
    assert not torch.equal(states[0]["counts"], states[2]["counts"])
    name = "average.conv_in.weight"
    assert torch.equal(states[0][name], states[1][name]) and not torch.equal(states[0][name], states[2][name])


def test_progress_tells_no_loss(private, two_colours, fit):
    told = []

    class Listening:
        def update(self, stage, step, total, **figures):
            told.append((step, figures))

        def finish(self, stage):
            told.append(stage)

    fit(private(), two_colours, progress=Listening())
    assert told == [(1, {}), (2, {}), (3, {}), (4, {}), "generator"]


@pytest.mark.parametrize("clip", [1e-45, 1e-4, 1e38])
def test_a_limit_at_the_ends_of_what_numbers_hold_is_refused(private, clip):
    with pytest.raises(UserError, match=r"generator.options.private_clip"):
        private(options={"private_clip": clip})


def test_images_are_neither_mirrored_nor_augmented(private, begun):
    shown = private()
    shown.task = dataclasses.replace(shown.task, flip="both")
    assert torch.equal(
        *[work._examples(np.arange(9), ("s",))[2] for work in (shown.begin(begun().data, ("s",)), begun())]
    )
    with pytest.raises(UserError, match=r"generator.options.augment=0.1: privacy.mode=dp trains on images as they are"):
        private(options={"augment": 0.1})


def test_rare_classes_are_not_met_more_often_than_the_mechanism_says(private):
    with pytest.raises(UserError, match=r"generator.options.class_power=0.5: privacy.mode=dp takes each image"):
        private(options={"class_power": 0.5})
