"""The teacher: early stopping that keeps the best, sites of one class, calibration and soft labels."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from fedkr.config import TeacherConfig
from fedkr.data import SiteData
from fedkr.errors import UserError
from fedkr.learning import classifier
from fedkr.learning.classifier import ClassifierTraining, real_batches
from fedkr.learning.job import Job
from fedkr.learning.prediction import predict_logits
from fedkr.recycle import teacher as teacher_module
from fedkr.recycle.teacher import (
    SoftLabeller,
    fit_temperature,
    load_teacher,
    train_teacher,
)

CONFIG = TeacherConfig(arch="resnet8", width=4, steps=12, batch=16, evaluations=6, patience=2)


@pytest.fixture
def train(site_data, runtime):
    def run(config=CONFIG, data=site_data, seed="seed"):
        return train_teacher(config, data, Job(runtime, seed=(seed,)))

    return run


@pytest.fixture
def scripted(monkeypatch):
    """Let val see a chosen accuracy (and loss) at each evaluation; remember the weights that were looked at."""

    def script(data, accuracies, margins=None):
        seen = []

        def predict(model, images, runtime):
            index = len(seen)
            seen.append({name: value.clone() for name, value in model.state_dict().items()})
            labels, classes = data.val.labels, len(data.val.classes)
            right = round(accuracies[index] * len(labels))
            shown = np.where(np.arange(len(labels)) < right, labels, (labels + 1) % classes)
            return ((margins or {}).get(index, 5.0) * np.eye(classes)[shown]).astype(np.float32)

        monkeypatch.setattr(classifier, "predict_logits", predict)
        return seen

    return script


def equal(tensors, state):
    return all(torch.equal(tensors[name], value) for name, value in state.items())


def test_the_best_evaluations_weights_are_kept_and_training_stops_when_patience_ends(train, site_data, scripted):
    seen = scripted(site_data, [0.4, 0.8, 0.6, 0.6, 1.0, 1.0])
    found = train()
    assert len(seen) == 4
    assert equal(found.tensors, seen[1])
    assert found.info["step"] == 4
    assert [point["step"] for point in found.info["curve"]] == [2, 4, 6, 8]


def test_a_better_score_starts_patience_anew(train, site_data, scripted):
    seen = scripted(site_data, [0.4, 0.2, 0.6, 0.4, 0.8, 0.6])
    found = train()
    assert len(seen) == 6
    assert equal(found.tensors, seen[4])


def test_of_equal_accuracies_the_one_with_less_loss_is_kept(train, site_data, scripted):
    seen = scripted(site_data, [1.0] * 6, {1: 9.0})
    assert equal(train(dataclasses.replace(CONFIG, patience=9)).tensors, seen[1])


@pytest.mark.parametrize(("keep_by", "kept"), [("accuracy", 1), ("loss", 2), ("last", 5)])
def test_what_is_kept_is_what_the_option_names(train, site_data, scripted, keep_by, kept):
    # The second is right and hardly sure, the third wrong at times and surer.
    seen = scripted(site_data, [0.4, 1.0, 0.8, 0.4, 0.4, 0.4], {1: 0.1, 2: 2.0})
    patience = 1 if keep_by == "last" else 9
    assert equal(train(dataclasses.replace(CONFIG, patience=patience, keep_by=keep_by)).tensors, seen[kept])


def test_too_few_val_images_neither_stop_training_nor_choose_what_is_kept(train, site_data, scripted, too_few_images):
    seen = scripted(site_data, [0.4, 1.0, 0.4, 0.4, 0.4, 0.4])
    found = train(dataclasses.replace(CONFIG, patience=1))
    assert found.info["step"] == CONFIG.steps and not found.info["by_val"]
    assert equal(found.tensors, seen[5])


def test_too_few_val_images_calibrate_nothing(train, too_few_images):
    assert train(dataclasses.replace(CONFIG, calibrate=True)).info["temperature"] == 1.0


def test_a_teacher_that_gets_better_to_the_end_uses_all_its_steps(train, site_data, scripted):
    seen = scripted(site_data, [0.2, 0.3, 0.4, 0.6, 0.8, 1.0])
    found = train()
    assert found.info["step"] == CONFIG.steps
    assert equal(found.tensors, seen[5])


def test_the_loaded_teacher_is_the_one_that_was_kept(train, site_data, runtime):
    found = train()
    model = load_teacher(CONFIG, site_data, found, runtime)
    assert equal(found.tensors, model.state_dict())
    assert not model.training


def one_class(pictures, label=2):
    counts = [0, 0, 0]
    counts[label] = 12
    return SiteData(pictures(counts), pictures(counts, seed=1), pictures((1, 1, 1)), pictures((1, 1, 1)))


def test_a_site_of_one_class_is_an_error_that_names_class_and_remedy(train, pictures):
    with pytest.raises(
        UserError, match=r"all 12 training images are of class 'striped'.*teacher\.single_class=constant"
    ):
        train(data=one_class(pictures))


def test_a_site_of_one_class_has_a_teacher_that_always_says_so_where_the_study_accepts_that(train, pictures, runtime):
    config, data = dataclasses.replace(CONFIG, single_class="constant"), one_class(pictures)
    teacher = load_teacher(config, data, train(config, data), runtime)
    labels = SoftLabeller(teacher, 1.0, 3, "strong", Job(runtime, flip="both"))(pictures((4, 4, 4)).images, "s")
    assert labels.shape == (12, 4)
    assert (labels[:, 2] > 0.999).all()


def test_the_temperature_is_the_one_with_the_least_cross_entropy():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400)
    logits = 6 * np.eye(3)[np.where(rng.random(400) < 0.7, labels, (labels + 1) % 3)].astype(np.float32)

    def loss(temperature):
        return -log_softmax(logits / temperature, axis=1)[np.arange(400), labels].mean()

    found = fit_temperature(logits, labels)
    assert found > 1.5
    assert loss(found) <= min(loss(t) for t in np.linspace(0.25, 8, 300)) + 1e-6


def test_a_confident_and_right_teacher_keeps_the_temperature_in_its_bounds():
    assert 0.25 <= fit_temperature(20 * np.eye(3, dtype=np.float32), np.arange(3)) <= 8


def test_calibration_is_done_only_where_the_study_asks(train):
    assert train().info["temperature"] == 1.0
    assert train(dataclasses.replace(CONFIG, calibrate=True)).info["temperature"] != 1.0


@pytest.fixture
def labeller(train, site_data, runtime):
    def make(temperature=1.0, views=1, augment="standard"):
        return SoftLabeller(
            load_teacher(CONFIG, site_data, train(), runtime), temperature, views, augment, Job(runtime)
        )

    return make


def test_soft_labels_are_distributions_over_all_classes(labeller, pictures):
    labels = labeller(views=3)(pictures((3, 3, 3)).images, "s")
    assert (labels.shape, labels.dtype) == ((9, 4), np.float32)
    assert np.allclose(labels.sum(axis=1), 1, atol=1e-6)


def test_one_view_is_the_image_itself_whatever_the_seed(labeller, pictures):
    images = pictures((3, 3, 3)).images
    assert np.array_equal(labeller()(images, "s"), labeller()(images, "t"))
    assert np.array_equal(labeller(views=3)(images, "s"), labeller(views=3)(images, "s"))
    assert not np.array_equal(labeller(views=3)(images, "s"), labeller(views=3)(images, "t"))


def test_views_without_augmentation_change_nothing(labeller, pictures):
    images = pictures((3, 3, 3)).images
    assert np.allclose(labeller(augment="none", views=4)(images, "s"), labeller()(images, "s"), atol=1e-6)


def test_a_higher_temperature_softens(labeller, pictures):
    images = pictures((3, 3, 3)).images
    sharp, soft = labeller(0.25)(images, "s"), labeller(8.0)(images, "s")
    assert (sharp.max(axis=1) > soft.max(axis=1)).all()
    assert np.array_equal(sharp.argmax(axis=1), soft.argmax(axis=1))


def teacher_on_its_way(config, data, runtime):
    model = teacher_module.build_teacher(config, data, 0)
    return ClassifierTraining(model, config, real_batches(data.train, config.batch, 0), Job(runtime))


def test_a_teacher_behind_its_class_shares_calls_a_rare_class_by_its_name(runtime, overlapping):
    train, test = overlapping((380, 20, 0), 0), overlapping((200, 200, 0), 1)
    recalls = {}
    for adjustment in (0.0, 1.0):
        config = dataclasses.replace(CONFIG, steps=60, batch=64, logit_adjustment=adjustment)
        work = teacher_on_its_way(config, SiteData(train, train, train, train), runtime)
        work.advance(60, "teacher")
        chosen = predict_logits(work.model.eval(), test.images, runtime).argmax(1)
        recalls[adjustment] = [(chosen == label)[test.labels == label].mean() for label in (0, 1)]
        assert not (chosen == 2).any(), "a class that it never met"
    plain, adjusted = recalls[0.0], recalls[1.0]
    assert plain[1] < 0.3 and adjusted[1] > 0.7, "the rare class"
    assert sum(adjusted) > sum(plain) + 0.2, "balanced accuracy"


def test_a_class_without_images_is_not_adjusted(runtime, site_data, overlapping):
    train = overlapping((30, 10, 0), 0)
    config = dataclasses.replace(CONFIG, logit_adjustment=2.0)
    work = teacher_on_its_way(config, dataclasses.replace(site_data, train=train), runtime)
    np.testing.assert_allclose(work.log_shares.numpy(), [2 * np.log(0.75), 2 * np.log(0.25), 0], rtol=1e-6)
    alone = predict_logits(work.model, train.images, runtime)
    np.testing.assert_allclose(work.logits_as_met(train.images), alone + work.log_shares.numpy(), rtol=1e-6)


def test_the_option_reaches_the_teacher_and_val_judges_it_behind_the_class_shares(runtime, monkeypatch, overlapping):
    train = overlapping((100, 20, 0), 0)
    data = SiteData(train, overlapping((100, 20, 0), 1), train, train)
    monkeypatch.setattr(classifier, "predict_logits", lambda _, images, __: np.zeros((len(images), 3), np.float32))
    found = {}
    for adjustment in (0.0, 1.0):
        config = dataclasses.replace(CONFIG, logit_adjustment=adjustment, keep_by="accuracy")
        found[adjustment] = train_teacher(config, data, Job(runtime))
    assert not equal(found[0.0].tensors, found[1.0].tensors)
    # A class without images is not adjusted, and so the likeliest where a model tells nothing.
    assert found[1.0].info["curve"][0]["accuracy"] == 0
    assert found[1.0].info["curve"][0]["loss"] != found[0.0].info["curve"][0]["loss"]
