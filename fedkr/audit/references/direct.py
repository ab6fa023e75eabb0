"""Reference models: many classifiers on random halves of the candidates, in chunks that are kept once trained."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import nn

from fedkr.audit.attacks.observed import Bools
from fedkr.audit.challenge import inseparable
from fedkr.audit.references.engines import ReferenceTask, StackedTraining, train_alone
from fedkr.config import ClassifierConfig
from fedkr.data.images import ImageSet
from fedkr.errors import UserError
from fedkr.fingerprint import array_digest
from fedkr.learning.job import Job
from fedkr.learning.models.stacked import CONVOLUTIONS
from fedkr.learning.one_launch import CAPTURE_AT
from fedkr.learning.prediction import predict_logits
from fedkr.learning.runtime import Runtime
from fedkr.progress import Progress, RelayedProgress, SilentProgress
from fedkr.release import SoftSet
from fedkr.stages import Artifact, StageStore

STAGE = "reference models"
ENGINES = ("loop", *CONVOLUTIONS)
MOST_TOGETHER = 64
# Values in one image's first activations up to which a stack of a few models is faster than a loop on a processor.
MOST_ON_CPU, VALUES_ON_CPU = 4, 16 * 16 * 16
# Sites may share a device, and a chunk must not change with what else happens to run: a share of the total.
MEMORY_SHARE = 0.25
TRIAL_STEPS = 5


class References:
    """Trained reference models and what each trained on.

    Attributes:
        models: M classifiers in evaluation mode.
        membership: bool ``[M, N]``, which candidates each trained on.
    """

    def __init__(self, models: Sequence[nn.Module], membership: Bools, runtime: Runtime) -> None:
        self.models, self.membership, self.runtime = list(models), membership, runtime

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 ``[M, Q, K]`` of uint8 ``images [Q, H, W, C]``: beside the result, one batch of one model."""
        first = predict_logits(self.models[0], images, self.runtime)
        found = np.empty((len(self.models), *first.shape), np.float32)
        found[0] = first
        for index, model in enumerate(self.models[1:], start=1):
            found[index] = predict_logits(model, images, self.runtime)
        return found


def reference_halves(models: int, images: ImageSet, rng: np.random.Generator) -> Bools:
    """Return bool ``[M, N]``: which images each model trains on; each image is in exactly half of the models.

    A patient's images, and copies of an image, stay together (:func:`~fedkr.audit.challenge.inseparable`): a model that
    trained on some of them is no model without the others. An odd number of models, or none, is a :class:`UserError`.
    """
    units = inseparable(images)
    count = int(units.max()) + 1
    if count == len(images):
        return balanced_membership(models, count, rng)
    return _complements(models, count, rng)[:, units]


def balanced_membership(models: int, units: int, rng: np.random.Generator) -> Bools:
    """Return bool ``[M, units]``, each true in exactly half of the models."""
    _check_even(models)
    halves = np.repeat([[True], [False]], models // 2, axis=0)
    return rng.permuted(np.broadcast_to(halves, (models, units)), axis=0)


def _check_even(models: int) -> None:
    if models < 2 or models % 2:
        raise UserError(f"reference models: {models}; an even number of at least 2 puts each image into half of them")


def _complements(models: int, units: int, rng: np.random.Generator) -> Bools:
    """Return bool ``[M, units]``: every other model has a random half of the units, the one after it the other half.

    So few units as a site has patients would leave a model with none of them now and then, were each drawn by itself.
    """
    _check_even(models)
    first = np.stack([rng.permutation(units) < units // 2 for _ in range(models // 2)])
    return np.stack([first, ~first], axis=1).reshape(models, units)


def train_references(
    task: ReferenceTask,
    stages: StageStore,
    key: dict[str, Any],
    engine: str | None = None,
    together: int | None = None,
) -> References:
    """Train one classifier on each half of a task, by the recipe of the model under audit.

    Each finished chunk is a stage, named by all that it depends on, ``key`` included: an interrupted training goes on
    with the next. By default ``engine``, one of ``ENGINES``, is the fastest here (:func:`choose_engine`), and
    ``together``, the models of a chunk, 1 for ``loop``, else as many as the memory allows.

    Raises:
        DivergedError: a model's loss is not finite; the message names the model.
    """
    common = key | task.depends()
    engine = engine or choose_engine(task, stages, common)
    size, steps = together or chunk_size(task, engine), task.config.steps
    shown = _OneStage(task.job.progress, len(task) * steps)
    models: list[nn.Module] = []
    for first in range(0, len(task), size):
        indices = range(first, min(first + size, len(task)))
        depends = common | {
            "engine": engine,
            "models": list(indices),
            "rows": array_digest([task.membership[first : indices.stop]]),
        }
        artifact = stages.run("references", depends, partial(_train_chunk, task, indices, engine, shown))
        models += _load(task, indices, artifact)
        shown.reach(indices.stop * steps)
    task.job.progress.finish(STAGE)
    return References(models, task.membership, task.job.runtime)


def reference_task(
    config: ClassifierConfig, candidates: ImageSet, membership: Bools, extra: SoftSet | None, job: Job
) -> ReferenceTask:
    """Bring candidates and ``extra`` images into one pool of which each model sees its part, and all the extra ones.

    ``config`` is the target's recipe, with the steps of one model; ``membership`` is bool ``[M, N]`` of N candidates.

    Raises:
        UserError: shapes that do not fit together, or a model without an image.
    """
    if membership.dtype != np.bool_ or membership.ndim != 2 or membership.shape[1] != len(candidates):
        shape = list(membership.shape)
        raise UserError(f"reference membership: expected bool [M, {len(candidates)}], got {membership.dtype} {shape}")
    images, targets = candidates.images, np.eye(len(candidates.classes), dtype=np.float32)[candidates.labels]
    if extra is not None and len(extra[0]):
        _check_extra(extra, candidates)
        images, targets = np.concatenate([images, extra[0]]), np.concatenate([targets, extra[1].astype(np.float32)])
    everyone = np.arange(len(candidates), len(images))
    chosen = tuple(np.concatenate([np.flatnonzero(row), everyone]) for row in membership)
    for index, own in enumerate(chosen):
        if not len(own):
            raise UserError(f"reference model {index}: no image to train on; audit more images or train fewer models")
    return ReferenceTask(config, images, targets, membership, chosen, job)


def choose_engine(task: ReferenceTask, stages: StageStore, key: dict[str, Any]) -> str:
    """Return the fastest way of training ``task`` here: ``loop``, or a stack's convolution.

    On a GPU every way is tried for a few steps; the outcome is kept, so that an interrupted training goes on as it
    began. On a processor the choice is fixed, since results there repeat bit by bit. Speed of a stack of 4 over the
    loop (resnet14 of width 16, batch 64, float32, processor time of one Xeon thread): 1.3 to 1.4 at 8x8, 1.1 at
    16x16, 0.96 to 1.16 at 28x28, 0.93 at 28x28 and width 32, 0.58 at 64x64. So only small activations are stacked
    there. At 28x28 a stack of batched matrix products had 0.12, ``torch.func.vmap`` 0.64 of the loop's speed.
    """
    if not task.stackable:
        return "loop"
    if task.job.runtime.device.type == "cpu":
        return "grouped" if _pays_on_cpu(task) else "loop"
    found = stages.run("reference-engine", key, lambda: Artifact(info=measure_engines(task)))
    return min(found.info, key=lambda name: found.info[name])


def measure_engines(task: ReferenceTask, steps: int = TRIAL_STEPS) -> dict[str, float]:
    """Return, for each of ``ENGINES``, the seconds of training one model for one step, its first steps not counted."""
    seconds = {}
    for engine in ENGINES:
        trained = range(min(len(task), chunk_size(task, engine)))
        times = []
        # Beyond the step at which a GPU's graphs are captured (:class:`fedkr.learning.one_launch.OneLaunch`).
        for count in (CAPTURE_AT + 2, CAPTURE_AT + 2 + steps):
            short = dataclasses.replace(task, config=dataclasses.replace(task.config, steps=count))
            began = time.perf_counter()
            train_chunk(short, trained, engine, SilentProgress())
            times.append(time.perf_counter() - began)
        seconds[engine] = (times[1] - times[0]) / (steps * len(trained))
    return seconds


def chunk_size(task: ReferenceTask, engine: str) -> int:
    """Return how many models are trained in one chunk: 1 in a loop, else a power of two that the memory allows."""
    if engine == "loop":
        return 1
    device = task.job.runtime.device
    on_gpu, most = device.type == "cuda", MOST_TOGETHER if device.type == "cuda" else MOST_ON_CPU
    total = torch.cuda.get_device_properties(device).total_memory if on_gpu else psutil.virtual_memory().total
    fitting = max(1, int(MEMORY_SHARE * total / task.bytes_a_model(engine)))
    return min(most, 1 << (fitting.bit_length() - 1))


def train_chunk(task: ReferenceTask, indices: Sequence[int], engine: str, progress: Progress) -> list[nn.Module]:
    """Train the models ``indices`` by one of ``ENGINES``, as :func:`train_references`; return them for evaluation."""
    if engine == "loop":
        return [train_alone(task, index, progress) for index in indices]
    work, stage = StackedTraining(task, indices, engine), f"reference models {indices[0]} to {indices[-1]}"
    work.advance(task.config.steps, RelayedProgress(progress, width=len(indices)), stage)
    progress.finish(stage)
    return work.finished()


def _pays_on_cpu(task: ReferenceTask) -> bool:
    """Whether the task is of the kind for which a stack was measured to be faster on a processor."""
    measured = task.config.norm == "batch" and task.job.runtime.autocast_dtype is None
    return measured and task.config.width * task.shape.size**2 <= VALUES_ON_CPU


def _train_chunk(task: ReferenceTask, indices: Sequence[int], engine: str, progress: Progress) -> Artifact:
    models = zip(indices, train_chunk(task, indices, engine, progress), strict=True)
    return Artifact({f"{index}/{name}": v for index, model in models for name, v in model.state_dict().items()})


def _load(task: ReferenceTask, indices: Sequence[int], artifact: Artifact) -> list[nn.Module]:
    models = []
    for index in indices:
        model, prefix = task.fresh(index), f"{index}/"
        model.load_state_dict({k.removeprefix(prefix): v for k, v in artifact.tensors.items() if k.startswith(prefix)})
        models.append(task.job.runtime.place(model).eval())
    return models


def _check_extra(extra: SoftSet, candidates: ImageSet) -> None:
    images, labels = extra
    wanted = (len(images), len(candidates.classes))
    if images.shape[1:] != candidates.images.shape[1:] or labels.shape != wanted:
        raise UserError(
            f"extra images of the reference models: expected {list(candidates.images.shape[1:])} each with labels "
            f"{list(wanted)}, got images {list(images.shape)} with labels {list(labels.shape)}"
        )


class _OneStage:
    """Shows the training of all models as one stage, counted in steps of single models."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.before, self.now = progress, total, 0, 0

    def reach(self, count: int) -> None:
        """Say that ``count`` steps are behind, whether taken now or in an earlier process."""
        self.before = self.now = count
        self.progress.update(STAGE, count, self.total)

    def update(self, stage: str, done: int, total: int, unit: str = "step", **numbers: float) -> None:
        """Pass on how far all models are."""
        self.now = self.before + done
        self.progress.update(STAGE, self.now, self.total, unit)

    def finish(self, stage: str) -> None:
        """Let the next model's steps follow this one's."""
        self.before = self.now
