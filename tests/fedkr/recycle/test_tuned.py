"""A classifier of real images, tuned on val: a site's own model and the centralised one."""

import dataclasses

import numpy as np
import pytest
import torch

from fedkr.learning.classifier import ClassifierTraining
from fedkr.learning.job import Job
from fedkr.learning.training import DivergedError
from fedkr.recycle.tuned import keeping, train_tuned


@pytest.fixture
def tune(site_data, tiny_study, runtime):
    def run(**strategy):
        study = dataclasses.replace(tiny_study, strategy=dataclasses.replace(tiny_study.strategy, **strategy))
        return train_tuned(study, site_data.train, site_data.val, Job(runtime, seed=("seed",)), "own model")

    return run


def equal(first, second):
    return all(torch.equal(first.tensors[name], value) for name, value in second.tensors.items())


def test_the_learning_rate_is_the_best_on_val_and_all_steps_are_counted(tune, tiny_study):
    tiny_study.student.lr = 1e-9
    found = tune(lrs=[0.05], steps=60)
    assert (found.info["lr"], found.info["looks"], found.info["by_val"]) == (0.05, 2, True)
    assert found.info["steps"] <= 60
    assert found.info["accuracy"] > 0.8


def test_val_judges_settings_by_the_logits_that_they_are_trained_with(tune, tiny_study, site_data, monkeypatch):
    """With ``logit_adjustment`` those are behind class shares: here they alone are right, of one rate."""
    right = 10 * np.eye(len(site_data.val.classes), dtype=np.float32)[site_data.val.labels]
    tiny_study.student.lr = 1e-9
    monkeypatch.setattr(
        ClassifierTraining, "logits_as_met", lambda self, images: right if self.config.lr == 1e-9 else -right
    )
    assert tune(lrs=[0.05], steps=60).info["lr"] == 1e-9


def test_a_learning_rate_that_diverges_is_not_chosen(tune):
    found = tune(lrs=[1e30], steps=60)
    assert found.info["lr"] == 0.1


@pytest.fixture
def diverging(monkeypatch):
    """Return a function that has learning rates diverge on the way to any step after a given one."""

    def diverge(after, *rates):
        real = ClassifierTraining.advance

        def advance(self, until, stage):
            if self.config.lr in rates and until > after:
                raise DivergedError("the loss is nan")
            real(self, until, stage)

        monkeypatch.setattr(ClassifierTraining, "advance", advance)

    return diverge


def test_a_rate_that_diverges_after_its_look_keeps_what_it_was_evaluated_at_before(tune, tiny_study, diverging):
    tiny_study.student.lr = 1e-9
    diverging(30, 0.05)
    found = tune(lrs=[0.05], steps=60)
    assert found.info["lr"] == 0.05 and 0 < found.info["step"] <= 30


def test_a_rate_that_diverges_before_anything_is_kept_leaves_its_place_to_the_next_best(tune, tiny_study, diverging):
    # Looked at after 10 steps, evaluated for the first time after 50.
    tiny_study.student.lr, tiny_study.teacher.evaluations = 1e-9, 1
    diverging(10, 0.05)
    assert tune(lrs=[0.05], steps=60).info["lr"] == 1e-9
    diverging(10, 0.05, 1e-9)
    with pytest.raises(DivergedError):
        tune(lrs=[0.05], steps=60)


def test_no_more_learning_rates_are_tried_than_fedkr_scores_settings(tune, tiny_study):
    tiny_study.generator.checkpoints, tiny_study.recycle.tuning_budget = 1, 1
    assert tune(lrs=[0.05, 0.03, 0.02], steps=30).info["looks"] == 2


def test_too_few_val_images_choose_neither_rate_nor_step(tune, tiny_study, too_few_images):
    tiny_study.student.lr = 1e-9
    found = tune(lrs=[0.05], steps=30)
    assert (found.info["lr"], found.info["looks"], found.info["by_val"]) == (1e-9, 0, False)
    assert found.info["step"] == found.info["steps"] == 30


def test_a_rate_that_val_chose_is_chosen_by_val_though_the_last_step_is_kept(tune, tiny_study):
    tiny_study.teacher.keep_by = "last"
    assert tune(lrs=[0.05], steps=20).info["by_val"]
    assert not tune(lrs=[0.1], steps=20).info["by_val"]


def test_the_evaluation_is_kept_by_the_studys_metric_unless_the_teachers_rule_is_another(tiny_study):
    tiny_study.recycle.metric = "auc"
    assert keeping(tiny_study).keep_by == "auc"
    tiny_study.teacher.keep_by = "last"
    assert keeping(tiny_study).keep_by == "last"


def test_the_same_study_gives_the_same_model(tune):
    assert equal(tune(lrs=[0.05], steps=20), tune(lrs=[0.05], steps=20))
