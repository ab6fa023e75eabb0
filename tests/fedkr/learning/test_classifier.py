"""The recipe of every classifier: its batches, its losses, its proximal term, and what it depends on."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedkr.config import ClassifierConfig
from fedkr.data.images import Shape
from fedkr.learning.classifier import ClassifierTraining, mix, real_batches, sgd, soft_label_loss, train_on_real
from fedkr.learning.job import Job
from fedkr.learning.models import build_classifier
from fedkr.learning.prediction import predict_logits

CONFIG = ClassifierConfig(arch="resnet8", width=4, steps=30, batch=16, lr=0.05)


@pytest.fixture
def train(pictures, runtime):
    """Return a function that trains a small classifier on pictures."""

    def run(seed="seed", config=CONFIG, **settings):
        data = pictures((20, 16, 12))
        return train_on_real(
            dataclasses.replace(config, **settings),
            data,
            Job(runtime, seed=(seed,)),
            "own model",
        )

    return run


def same(first, second):
    states = first.state_dict(), second.state_dict()
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_classifier_learns_classes_that_are_easy_to_tell_apart(train, pictures, runtime):
    new = pictures((10, 10, 10), seed=9)
    assert (predict_logits(train(), new.images, runtime).argmax(axis=1) == new.labels).mean() > 0.9


@pytest.mark.parametrize("settings", [{}, {"mixup": 0.4}, {"label_smoothing": 0.1}, {"augment": "strong"}])
def test_training_is_a_function_of_data_settings_and_seed(train, settings):
    torch.manual_seed(0)
    first = train(steps=4, **settings)
    torch.manual_seed(1)
    assert same(first, train(steps=4, **settings))
    assert not same(first, train("other", steps=4, **settings))
    if settings:
        assert not same(first, train(steps=4))


def test_a_training_can_stop_anywhere_and_go_on(pictures, runtime):
    states = []
    for stops in ((8,), (1, 3, 8)):
        batches = real_batches(pictures((9, 8, 7)), 16, "s")
        model = build_classifier(CONFIG, Shape(1, 8, 4), "s")
        work = ClassifierTraining(model, CONFIG, batches, Job(runtime, seed=("s",)))
        for stop in stops:
            work.advance(stop, "stage")
            predict_logits(work.model, pictures((3,)).images, runtime)
        states.append(work.model)
    assert same(*states)


def test_real_batches_carry_one_hot_labels_over_the_studys_classes(pictures):
    data = pictures((4, 0, 3))
    images, labels = real_batches(data, 14, "s")(0)
    assert (images.shape, images.dtype, labels.shape) == ((14, 8, 8, 1), np.uint8, (14, 4))
    assert labels.sum(axis=0).tolist() == [8, 0, 6, 0]


def test_cross_entropy_and_kl_have_the_same_gradient_and_kl_is_zero_at_its_optimum():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.softmax(torch.randn(5, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    gradients = [
        torch.autograd.grad(soft_label_loss(logits, labels, kind), logits)[0] for kind in ("kl", "cross_entropy")
    ]
    assert torch.allclose(*gradients, atol=1e-6)
    assert float(soft_label_loss(labels.log(), labels, "kl")) == pytest.approx(0.0, abs=1e-6)


def test_cross_entropy_of_hard_labels_is_torchs():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    hard = torch.tensor([0, 1, 2, 1, 0])
    assert torch.allclose(
        soft_label_loss(logits, F.one_hot(hard, 3).float(), "cross_entropy"), F.cross_entropy(logits, hard)
    )


def test_a_label_that_is_certain_is_no_trouble_for_kl():
    assert torch.isfinite(soft_label_loss(torch.zeros(2, 3), torch.eye(3)[:2], "kl"))


def test_mixup_keeps_each_label_row_a_distribution_and_mixes_images_alike():
    inputs, labels = torch.eye(4)[:, None, None, :], torch.eye(4)
    mixed, targets = mix(inputs, labels, 0.4, 3, ("s",))
    assert torch.allclose(targets.sum(dim=1), torch.ones(4))
    assert torch.allclose(mixed[:, 0, 0], targets)
    again, _ = mix(inputs, labels, 0.4, 3, ("s",))
    assert torch.equal(mixed, again)


def test_the_teacher_is_asked_about_the_mixed_images_that_the_student_sees(pictures, runtime):
    config, data, asked = dataclasses.replace(CONFIG, mixup=0.4), pictures((20, 16, 12)), []

    class Relabelled(ClassifierTraining):
        def targets(self, inputs, labels):
            asked.append(inputs)
            return torch.full((len(inputs), 4), 0.25)

    model = build_classifier(config, Shape(1, 8, 4), "s")
    seen = []
    model.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    batches = real_batches(data, config.batch, "s")
    Relabelled(model, config, batches, Job(runtime, seed=("s",))).advance(2, "student")
    assert all(torch.equal(a, b) for a, b in zip(asked, seen, strict=True))
    weights = [tensor.clone() for tensor in model.state_dict().values()]

    plain = build_classifier(config, Shape(1, 8, 4), "s")
    ClassifierTraining(plain, config, batches, Job(runtime, seed=("s",))).advance(2, "student")
    assert any(not torch.equal(a, b) for a, b in zip(weights, plain.state_dict().values(), strict=True))


def test_weight_decay_spares_biases_and_norms():
    model = build_classifier(CONFIG, Shape(1, 8, 4), "s")
    matrices, vectors = sgd(model, CONFIG).param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (CONFIG.weight_decay, 0.0)
    assert all(p.ndim > 1 for p in matrices["params"])
    assert all(p.ndim <= 1 for p in vectors["params"])
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(model.parameters()))
