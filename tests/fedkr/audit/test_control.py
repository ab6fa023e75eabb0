"""The positive controls know the images that an attack must find."""

import dataclasses

import numpy as np
import pytest

from fedkr.audit import control
from fedkr.audit.control import KNOWN, train_control, train_planted
from fedkr.config import ClassifierConfig, StudentConfig
from fedkr.data.images import ImageSet
from fedkr.learning.job import Job
from fedkr.learning.prediction import predict_logits
from fedkr.release import ReleasedSets, SoftSet

RECIPE = ClassifierConfig(arch="resnet8", width=4, steps=1, batch=16, lr=0.05, augment="strong", mixup=0.2)


@pytest.fixture
def noise():
    """40 images of noise with labels at random: nothing but their own pixels tells their classes."""
    rng = np.random.default_rng(0)
    return ImageSet(rng.integers(0, 256, (40, 8, 8, 1), dtype=np.uint8), rng.integers(0, 2, 40), ("a", "b"))


def known(model, data, runtime):
    return np.mean(predict_logits(model, data.images, runtime).argmax(axis=1) == data.labels)


def test_the_control_knows_its_images_by_heart_whatever_the_recipe_augments(noise, runtime):
    assert known(train_control(RECIPE, noise, Job(runtime)), noise, runtime) >= KNOWN


def test_the_epochs_double_up_to_a_limit_where_labels_contradict_each_other(noise, runtime, monkeypatch):
    twice = dataclasses.replace(noise, images=noise.images[np.zeros(40, int)])
    steps, train = [], control.train_on_real
    monkeypatch.setattr(
        control, "train_on_real", lambda recipe, *rest: steps.append(recipe.steps) or train(recipe, *rest)
    )
    monkeypatch.setattr(control, "MOST_EPOCHS", 60)
    train_control(RECIPE, twice, Job(runtime))
    assert steps == [75, 150]


def test_a_rare_class_has_to_be_known_too(noise, runtime, monkeypatch):
    """Always saying the common class is right about 39 of 40 images, and knows none of them."""
    skewed = dataclasses.replace(noise, labels=np.eye(1, 40, 7, dtype=np.int64)[0])
    asked = []

    def answers(model, images, runtime):
        asked.append(model)
        right = skewed.labels if len(asked) > 2 else np.zeros(40, int)
        return np.eye(2)[right]

    monkeypatch.setattr(control, "predict_logits", answers)
    monkeypatch.setattr(control, "train_on_real", lambda recipe, *rest: recipe.steps)
    assert train_control(RECIPE, skewed, Job(runtime)) == 300 and asked == [75, 150, 300]


def test_a_student_of_planted_images_learns_from_the_release_and_from_them(noise, runtime, monkeypatch):
    released = SoftSet(np.zeros((3, 8, 8, 1), np.uint8), np.full((3, 2), 0.5, np.float16))
    seen = []
    monkeypatch.setattr(
        control, "distill_student", lambda config, sets, *rest: seen.extend(sets(round) for round in (0, 1))
    )
    train_planted(StudentConfig(), ReleasedSets(lambda _: released, 1), noise, Job(runtime))
    for images, labels in seen:
        assert np.array_equal(images, np.concatenate([released.images, noise.images]))
        assert np.array_equal(labels[3:].argmax(axis=1), noise.labels) and (labels[3:].max(axis=1) == 1).all()
