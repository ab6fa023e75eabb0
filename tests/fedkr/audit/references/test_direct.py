"""Reference models: who trains on what, alone or together, in chunks that survive an interruption."""

import dataclasses

import numpy as np
import pytest
import torch

from fedkr.audit.attacks.lira import lira_online
from fedkr.audit.attacks.observed import Observed
from fedkr.audit.references.direct import (
    ENGINES,
    balanced_membership,
    choose_engine,
    chunk_size,
    measure_engines,
    reference_halves,
    reference_task,
    train_references,
)
from fedkr.audit.references.engines import ReferenceTask, StackedTraining, train_alone
from fedkr.audit.statistics.membership import auc
from fedkr.config import ClassifierConfig, StudentConfig
from fedkr.data import ImageSet
from fedkr.errors import UserError
from fedkr.learning.job import Job
from fedkr.learning.prediction import predict_logits
from fedkr.learning.runtime import Runtime
from fedkr.learning.training import DivergedError
from fedkr.progress import SilentProgress
from fedkr.stages import StageStore

PLAIN = ClassifierConfig(arch="resnet8", width=4, steps=4, batch=8, lr=0.05, augment="none")


@pytest.fixture
def candidates():
    """Noisy dark and bright squares."""
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    images = np.clip(60 + 130 * labels[:, None, None, None] + rng.normal(0, 20, (40, 8, 8, 1)), 0, 255)
    return ImageSet(images.astype(np.uint8), labels.astype(np.int64), ("dark", "bright"))


@pytest.fixture
def train(candidates, runtime, tmp_path):
    """Return a function that trains four references in ``tmp_path``."""

    def run(config=PLAIN, membership=None, folder=tmp_path, progress=None, extra=None, key=None, **settings):
        if membership is None:
            membership = balanced_membership(4, len(candidates), np.random.default_rng(1))
        job = Job(runtime, progress or SilentProgress(), seed=("study", 0))
        task = reference_task(config, candidates, membership, extra, job)
        return train_references(task, StageStore(folder), key or {"site": "a"}, **settings)

    return run


@pytest.fixture
def task(candidates, runtime):
    """Return a function that makes a task of four references."""

    def make(config=PLAIN, models=4, extra=None):
        membership = balanced_membership(models, len(candidates), np.random.default_rng(1))
        return reference_task(config, candidates, membership, extra, Job(runtime, seed=("study", 0)))

    return make


class Recorder(SilentProgress):
    """Keeps what it is told, and interrupts the work at an update."""

    def __init__(self, stop_at=None):
        self.told, self.stop_at = [], stop_at

    def update(self, stage, done, total, unit="step", **numbers):
        self.told.append((stage, done, total))
        if len(self.told) == self.stop_at:
            raise KeyboardInterrupt


def states(models):
    return [model.state_dict() for model in models]


def assert_same(first, second, **tolerance):
    for one, other in zip(states(first), states(second), strict=True):
        for name, value in one.items():
            torch.testing.assert_close(value, other[name], **(tolerance or {"atol": 0, "rtol": 0}), msg=name)


def test_each_image_is_in_exactly_half_of_the_references_by_chance():
    membership = balanced_membership(8, 500, np.random.default_rng(0))
    assert membership.dtype == np.bool_ and membership.shape == (8, 500)
    assert (membership.sum(axis=0) == 4).all()
    assert (abs(membership.sum(axis=1) - 250) < 60).all()
    assert len(np.unique(membership, axis=1).T) == 70  # all of the 8-choose-4 halves appear


def test_halves_divide_neither_patients_nor_copies_of_an_image(candidates):
    rng = np.random.default_rng(0)
    copied = candidates.subset(np.arange(40) % 30)
    patients = dataclasses.replace(candidates, groups=np.arange(40) % 12)
    for images, units in ((copied, 30), (patients, 12)):
        halves = reference_halves(8, images, rng)
        assert (halves.sum(axis=0) == 4).all()
        for unit in range(units):
            (together,) = np.unique(halves[:, np.arange(40) % units == unit], axis=1).T
            assert together.sum() == 4
    alone = reference_halves(8, candidates, np.random.default_rng(0))
    np.testing.assert_array_equal(alone, balanced_membership(8, 40, np.random.default_rng(0)))


@pytest.mark.parametrize("models", [0, 1, 7])
def test_halves_of_an_odd_number_of_references_are_refused(models):
    with pytest.raises(UserError, match="even number"):
        balanced_membership(models, 10, np.random.default_rng(0))


@pytest.mark.parametrize("convolution", ENGINES[1:])
@pytest.mark.parametrize("recipe", [{}, {"label_smoothing": 0.1}, {"logit_adjustment": 1.0}])
def test_references_trained_together_are_those_trained_alone(task, convolution, recipe):
    work = task(dataclasses.replace(PLAIN, **recipe))
    alone = [train_alone(work, index, SilentProgress()) for index in (1, 2, 3)]
    together = StackedTraining(work, (1, 2, 3), convolution)
    together.advance(PLAIN.steps, SilentProgress(), "references")
    assert_same(alone, together.finished(), atol=2e-5, rtol=1e-3)


def test_a_reference_trains_behind_the_class_shares_of_its_own_images(task):
    plain, adjusted = task(), task(dataclasses.replace(PLAIN, logit_adjustment=2.0))
    assert len({tuple(plain.counts(index)) for index in range(4)}) > 1
    with pytest.raises(AssertionError):
        assert_same(*([train_alone(work, 1, SilentProgress())] for work in (plain, adjusted)))


def test_a_recipe_of_kl_divergence_gives_the_same_references_alone_and_together(task):
    config = StudentConfig(arch="resnet8", width=4, steps=4, batch=8, augment="none", loss="kl", label_smoothing=0.2)
    together = StackedTraining(task(config), (0, 1))
    together.advance(config.steps, SilentProgress(), "references")
    alone = [train_alone(task(config), index, SilentProgress()) for index in (0, 1)]
    assert_same(alone, together.finished(), atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("settings", [{"mixup": 0.4}, {"augment": "strong"}])
def test_augmentation_and_mixup_differ_between_the_references_of_a_stack(task, settings):
    config = dataclasses.replace(PLAIN, **settings)
    shared = task(config, models=2)
    shared = dataclasses.replace(shared, chosen=(shared.chosen[0], shared.chosen[0]))
    seen = []
    work = StackedTraining(shared, (0, 1))
    work.rows = work.rows[:, :, :1].expand(-1, -1, 2)
    work.stacked.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    work.advance(1, SilentProgress(), "references")
    assert not torch.allclose(seen[0][:, 0], seen[0][:, 1])


@pytest.mark.parametrize("settings", [{}, {"mixup": 0.4}, {"augment": "strong"}])
@pytest.mark.parametrize("engine", ["loop", "grouped"])
def test_references_are_a_function_of_data_settings_and_seed(train, tmp_path, engine, settings):
    config = dataclasses.replace(PLAIN, **settings)
    runs = [train(config, folder=tmp_path / name, engine=engine).models for name in "ab"]
    assert_same(*runs)


@pytest.mark.parametrize(("engine", "updates"), [("loop", 11), ("grouped", 7)])
def test_interrupted_references_go_on_with_the_next_chunk_and_end_the_same(train, tmp_path, engine, updates):
    whole = train(folder=tmp_path / "whole", engine=engine, together=2)
    with pytest.raises(KeyboardInterrupt):
        train(folder=tmp_path / "cut", engine=engine, together=2, progress=Recorder(stop_at=updates))
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut").iterdir()}
    assert len(finished) == 1
    after = train(folder=tmp_path / "cut", engine=engine, together=2)
    assert_same(whole.models, after.models)
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items())
    assert len(list((tmp_path / "cut").iterdir())) == 2


@pytest.mark.parametrize(("engine", "together"), [("loop", None), ("loop", 2), ("grouped", 3)])
def test_progress_counts_the_steps_of_all_references_as_one_stage(train, engine, together):
    for _ in ("trained", "read again"):
        progress = Recorder()
        train(engine=engine, together=together, progress=progress)
        stages, done, totals = zip(*progress.told, strict=True)
        assert set(stages) == {"reference models"} and set(totals) == {4 * PLAIN.steps}
        assert list(done) == sorted(done) and done[-1] == 4 * PLAIN.steps


def test_references_for_other_images_or_another_key_are_trained_again(train, tmp_path, candidates):
    train()
    first = len(list(tmp_path.iterdir()))
    train(key={"site": "b"})
    train(membership=~balanced_membership(4, len(candidates), np.random.default_rng(1)))
    train(extra=(candidates.images[:3], np.full((3, 2), 0.5)))
    assert len(list(tmp_path.iterdir())) == 4 * first


def test_a_reference_trains_on_its_half_and_on_all_extra_images(task, candidates):
    extra = (candidates.images[:3], np.full((3, 2), 0.5))
    work = task(extra=extra)
    membership = balanced_membership(4, len(candidates), np.random.default_rng(1))
    for row, own in zip(membership, work.chosen, strict=True):
        assert own.tolist() == [*np.flatnonzero(row), 40, 41, 42]
    assert work.targets.dtype == np.float32
    np.testing.assert_array_equal(work.targets[:40].argmax(axis=1), candidates.labels)
    np.testing.assert_array_equal(work.targets[40:], 0.5)


@pytest.mark.parametrize("engine", ["loop", "grouped"])
def test_a_diverging_reference_is_named(train, candidates, engine):
    labels = np.full((1, 2), 0.5)
    labels[0, 0] = np.nan
    membership = np.ones((4, len(candidates)), dtype=bool)
    poisoned = (candidates.images[:1], labels)
    with pytest.raises(DivergedError, match=r"reference model 0.*lower its lr"):
        train(dataclasses.replace(PLAIN, steps=60), membership=membership, extra=poisoned, engine=engine)


def test_the_diverging_one_of_a_stack_is_found(task):
    work = StackedTraining(task(), (1, 2, 3))
    with torch.no_grad():
        work.stacked.get_parameter("network.head.bias")[2:4] = torch.nan
    with pytest.raises(DivergedError, match="reference model 2, among"):
        work.advance(PLAIN.steps, SilentProgress(), "reference models 1 to 3")


def test_logits_are_those_of_each_model(train, candidates, runtime):
    references = train()
    found = references.logits(candidates.images[:7])
    assert found.shape == (4, 7, 2) and found.dtype == np.float32
    for model, row in zip(references.models, found, strict=True):
        np.testing.assert_array_equal(row, predict_logits(model, candidates.images[:7], runtime))


def test_references_know_their_members_better_than_the_others(candidates, train, tmp_path):
    rng = np.random.default_rng(3)
    noise = dataclasses.replace(candidates, labels=rng.integers(0, 2, 40))
    membership = balanced_membership(4, 40, rng)
    job = Job(Runtime.choose("cpu", "float32", 1), seed=("study", 0))
    task = reference_task(dataclasses.replace(PLAIN, steps=80), noise, membership, None, job)
    references = train_references(task, StageStore(tmp_path / "noise"), {})
    right = references.logits(noise.images).argmax(axis=2) == noise.labels
    assert right[membership].mean() > right[~membership].mean() + 0.25


@pytest.mark.parametrize(
    ("settings", "size", "engine"),
    [({}, 8, "grouped"), ({"width": 16}, 16, "grouped"), ({"width": 16}, 28, "loop"), ({"norm": "group"}, 8, "loop")],
)
def test_on_a_processor_only_small_activations_are_stacked_and_nothing_is_tried(task, tmp_path, settings, size, engine):
    work = task(dataclasses.replace(PLAIN, **settings))
    larger = dataclasses.replace(work, images=np.zeros((40, size, size, 1), np.uint8))
    assert choose_engine(larger, StageStore(tmp_path), {}) == engine
    assert not list(tmp_path.iterdir())


def test_in_bfloat16_a_processor_trains_one_after_the_other(task, tmp_path):
    work = dataclasses.replace(task(), job=Job(Runtime(torch.device("cpu"), torch.bfloat16)))
    assert choose_engine(work, StageStore(tmp_path), {}) == "loop"


def test_on_a_gpu_the_engine_that_measured_fastest_is_taken_and_remembered(task, tmp_path, monkeypatch):
    times = iter([{"loop": 3.0, "grouped": 1.0, "matmul": 2.0}, {"loop": 1.0, "grouped": 2.0, "matmul": 3.0}])
    monkeypatch.setattr("fedkr.audit.references.direct.measure_engines", lambda task: next(times))
    on_gpu = dataclasses.replace(task(), job=Job(Runtime(torch.device("cuda"), None)))
    for _ in range(2):
        assert choose_engine(on_gpu, StageStore(tmp_path), {}) == "grouped"
    monkeypatch.setattr(ReferenceTask, "fresh", lambda task, index: torch.nn.Identity())
    assert choose_engine(on_gpu, StageStore(tmp_path), {"another": "architecture"}) == "loop"


def test_every_engine_can_be_measured(task):
    seconds = measure_engines(task(models=2), steps=2)
    assert set(seconds) == set(ENGINES)


def test_a_chunk_is_bounded_by_memory_and_a_loop_s_chunk_is_one_model(task, monkeypatch):
    work = task()
    one = work.bytes_a_model("grouped")
    assert chunk_size(work, "loop") == 1
    for share, models in ((0.0, 1), (2.5, 2), (1e6, 4)):
        total = type("Memory", (), {"total": share * one * 4})
        monkeypatch.setattr("fedkr.audit.references.direct.psutil.virtual_memory", lambda total=total: total)
        assert chunk_size(work, "grouped") == models


def test_a_gpu_s_own_memory_bounds_its_chunks(task, monkeypatch):
    work, memory = task(), {"bytes": 0}
    on_gpu = dataclasses.replace(work, job=Job(Runtime(torch.device("cuda"), None)))
    device = type("Device", (), {"total_memory": property(lambda device: memory["bytes"])})
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device_: device())
    for share, models in ((17, 16), (1e6, 64)):
        memory["bytes"] = share * work.bytes_a_model("grouped") * 4
        assert chunk_size(on_gpu, "grouped") == models


@pytest.mark.parametrize(
    ("membership", "extra", "message"),
    [
        (np.ones((2, 39), bool), None, r"expected bool \[M, 40\]"),
        (np.ones((2, 40), int), None, r"expected bool \[M, 40\]"),
        (np.zeros((2, 40), bool), None, "reference model 0: no image"),
        (np.ones((2, 40), bool), (np.zeros((3, 9, 8, 1), np.uint8), np.ones((3, 2))), "extra images"),
        (np.ones((2, 40), bool), (np.zeros((3, 8, 8, 1), np.uint8), np.ones((3, 5))), "extra images"),
    ],
)
def test_what_does_not_fit_together_is_refused_in_one_line(train, membership, extra, message):
    with pytest.raises(UserError, match=message) as refused:
        train(membership=membership, extra=extra)
    assert "\n" not in str(refused.value)


def test_halves_that_divided_patients_would_hide_what_models_remember_of_them():
    rng = np.random.default_rng(5)
    groups = np.repeat(np.arange(200), 4)
    images = ImageSet(rng.integers(0, 256, (800, 4, 4, 1), dtype=np.uint8), np.zeros(800, np.int64), ("a",), groups)
    difficulty, member = rng.normal(0, 3, 800), groups < 100

    def answers(inside):
        """A model knows an image by as many of its patient's images as it trained on."""
        shares = np.array([np.bincount(groups, row)[groups] / 4 for row in inside])
        return difficulty + shares + rng.normal(0, 0.7, shares.shape)

    def found(halves):
        seen = Observed(answers(member[None])[0][:, None], answers(halves)[:, :, None], halves)
        scores = lira_online(seen, fixed_variance=True)
        return auc(scores[member], scores[~member])

    whole, divided = reference_halves(16, images, rng), balanced_membership(16, 800, rng)
    assert found(whole) > found(divided) + 0.05 > 0.6


@pytest.mark.parametrize("patients", [2, 3, 5, 40])
def test_however_few_patients_there_are_each_model_has_some_of_them_and_lacks_some(patients):
    groups = np.repeat(np.arange(patients), 6)
    rng = np.random.default_rng(0)
    images = ImageSet(rng.integers(0, 256, (len(groups), 4, 4, 1), dtype=np.uint8), groups % 2, ("a", "b"), groups)
    for _ in range(20):
        halves = reference_halves(16, images, rng)
        assert (halves.sum(0) == 8).all()
        assert halves.any(1).all() and not halves.all(1).any()
        assert all(
            (halves[:, groups == patient][:, 0] == halves[:, groups == patient].T).all() for patient in range(patients)
        )
