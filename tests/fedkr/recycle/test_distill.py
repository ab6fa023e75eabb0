"""Distillation: which synthetic set a step sees, and the student that comes of it."""

import numpy as np
import pytest
import torch

from fedkr.config import StudentConfig
from fedkr.learning.classifier import log_shares, soft_counts
from fedkr.learning.job import Job
from fedkr.learning.prediction import predict_logits
from fedkr.recycle.distill import distill_student, regenerated_batches
from fedkr.release import SoftSet


class Sets:
    """Synthetic sets whose pixels and labels name their round; remembers what was drawn."""

    def __init__(self, *sizes):
        self.sizes, self.drawn = sizes, []

    def __call__(self, number):
        self.drawn.append(number)
        size = self.sizes[min(number, len(self.sizes) - 1)]
        return np.full((size, 4, 4, 1), number, np.uint8), np.full((size, 2), 0.5, np.float16)


def rounds_seen(batches, steps):
    return [set(np.unique(batches(step)[0]).tolist()) for step in range(steps)]


@pytest.mark.parametrize(("every", "expected"), [(1, [0, 0, 1, 1, 2, 2]), (2, [0, 0, 0, 0, 1, 1])])
def test_a_fresh_set_comes_every_few_epochs(every, expected):
    sets = Sets(8)
    assert rounds_seen(regenerated_batches(sets, every, 4, "s"), 6) == [{n} for n in expected]
    assert sets.drawn == sorted(set(expected))


def test_only_the_current_set_is_kept_and_an_earlier_step_draws_it_again():
    sets = Sets(8)
    batches = regenerated_batches(sets, 1, 4, "s")
    before = batches(1)[1]
    batches(5)
    assert np.array_equal(batches(1)[1], before)
    assert sets.drawn == [0, 2, 0]


def test_each_image_of_a_set_is_seen_once_an_epoch():
    images = np.arange(12, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 1), np.uint8)
    batches = regenerated_batches(lambda _: (images, np.full((12, 2), 0.5, np.float16)), 1, 4, "s")
    assert sorted(np.concatenate([batches(step)[0][:, 0, 0, 0] for step in range(3)])) == list(range(12))


def test_a_set_that_is_smaller_than_the_first_gives_full_batches_of_its_own_images():
    batches = regenerated_batches(Sets(12, 5, 20), 1, 4, "s")
    assert rounds_seen(batches, 9) == [{0}] * 3 + [{1}] * 3 + [{2}] * 3
    assert {len(batches(step)[0]) for step in range(9)} == {4}


def test_a_student_takes_the_labels_that_it_is_given(pictures, runtime):
    data = pictures((30, 30, 0, 0))
    # Labels that say the opposite: what the student knows comes from them alone.
    soft = np.eye(4, dtype=np.float16)[1 - data.labels]
    config = StudentConfig(arch="resnet8", width=4, steps=30, batch=16, lr=0.05)
    student = distill_student(config, lambda _: SoftSet(data.images, soft), Job(runtime, seed=("s",)), "student")
    assert not student.training
    assert (predict_logits(student, data.images, runtime).argmax(axis=1) == 1 - data.labels).mean() > 0.9
    assert all(torch.isfinite(p).all() for p in student.parameters())


def test_classes_are_counted_by_the_parts_of_the_first_sets_labels():
    soft = np.array([[0.75, 0.25, 0], [0.25, 0.5, 0.25], [1, 0, 0]], np.float16)
    batches = regenerated_batches(lambda _: SoftSet(np.zeros((3, 4, 4, 1), np.uint8), soft), 1, 2, "s")
    np.testing.assert_allclose(batches.counts, [2, 0.75, 0])
    np.testing.assert_allclose(log_shares(batches.counts, 0.5), [*np.log([2 / 2.75, 0.75 / 2.75]) / 2, 0], rtol=1e-6)


def test_a_class_that_is_no_labels_first_choice_is_not_met_however_much_of_it_labels_hold():
    soft = np.array([[0.6, 0.0, 0.4], [0.0, 0.6, 0.4]] * 10, np.float32)
    np.testing.assert_allclose(soft_counts(soft), [6, 6, 0], rtol=1e-6)


def test_a_student_behind_its_class_shares_calls_a_rare_class_by_its_name(runtime, overlapping):
    train, test = overlapping((380, 20), 0), overlapping((200, 200), 1)
    released = SoftSet(train.images, np.eye(2, dtype=np.float16)[train.labels])
    recalls = {}
    for adjustment in (0.0, 1.0):
        config = StudentConfig(arch="resnet8", width=4, steps=60, batch=64, lr=0.05, logit_adjustment=adjustment)
        student = distill_student(config, lambda _: released, Job(runtime, seed=("s",)), "student")
        chosen = predict_logits(student, test.images, runtime).argmax(axis=1)
        recalls[adjustment] = [(chosen == k)[test.labels == k].mean() for k in (0, 1)]
    assert recalls[0.0][1] < 0.3 and recalls[1.0][1] > 0.7, "the rare class"
    assert sum(recalls[1.0]) > sum(recalls[0.0]) + 0.2, "balanced accuracy"
