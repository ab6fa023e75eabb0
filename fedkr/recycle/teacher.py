"""The Teacher: a classifier of one site's private images, whose softmax output labels what the generator draws."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedkr.config import TeacherConfig, may_choose
from fedkr.data.images import ImageSet, Shape, SiteData
from fedkr.errors import UserError
from fedkr.learning.augment import augment
from fedkr.learning.classifier import ClassifierTraining, real_batches
from fedkr.learning.evaluation import measure_utility
from fedkr.learning.job import Job
from fedkr.learning.models import build_classifier
from fedkr.learning.prediction import forward_batch, predict_logits, to_model_input
from fedkr.learning.runtime import Runtime
from fedkr.learning.training import DivergedError
from fedkr.seeds import derive_seed, torch_rng
from fedkr.stages import Artifact, model_tensors

logger = logging.getLogger(__name__)

CERTAIN = 20.0


class ConstantClassifier(nn.Module):
    """Answers with one class always: the teacher of a site that has only that class."""

    def __init__(self, label: int, classes: int) -> None:
        super().__init__()
        self.logits: Tensor
        self.register_buffer("logits", CERTAIN * torch.nn.functional.one_hot(torch.tensor(label), classes).float())

    def forward(self, x: Tensor) -> Tensor:
        """Return the same logits ``[N, K]`` for every image."""
        return self.logits.expand(len(x), -1)


def build_teacher(config: TeacherConfig, data: SiteData, *seed: object) -> nn.Module:
    """Return an untrained teacher for the site's data.

    Raise :class:`UserError` if the images are all of one class and ``teacher.single_class`` is not ``constant``.
    """
    train = data.train
    present = np.flatnonzero(train.class_counts())
    if len(present) > 1:
        return build_classifier(config, Shape.of(train), derive_seed(*seed))
    if config.single_class != "constant":
        raise UserError(
            f"all {len(train)} training images are of class {train.classes[present[0]]!r}: "
            "a teacher cannot be trained; set teacher.single_class=constant to accept such sites"
        )
    return ConstantClassifier(int(present[0]), len(train.classes))


def train_teacher(config: TeacherConfig, data: SiteData, job: Job) -> Artifact:
    """Train the teacher; the site's val split ends training and chooses what is kept, as ``config`` has it.

    With the kept evaluation's weights, ``info`` holds its step, its val figures, the curve and the temperature.
    """
    model = build_teacher(config, data, *job.seed)
    if isinstance(model, ConstantClassifier):
        return Artifact(model_tensors(model), {"step": 0, "temperature": 1.0, "curve": []})
    work = ClassifierTraining(model, config, real_batches(data.train, config.batch, *job.seed), job)
    kept = train_and_keep(work, data.val, config, "teacher")
    if config.calibrate and may_choose(len(data.val)):
        work.model.load_state_dict(kept.tensors)
        logits = predict_logits(work.model, data.val.images, job.runtime)
        kept.info["temperature"] = fit_temperature(logits, data.val.labels)
    return kept


def train_and_keep(work: ClassifierTraining, judge: ImageSet, stopping: TeacherConfig, stage: str) -> Artifact:
    """Train to the end of the schedule or until ``judge`` has seen nothing better for a while; keep one evaluation.

    ``judge`` are the images that choose, and too few of them choose nothing: then the last evaluation is kept.
    ``stopping`` says how often to look, the patience, and what is kept: with its weights, ``info`` holds its step and
    figures, the curve, a temperature of 1, and ``by_val``, whether the judge chose it. Training that
    diverges ends there.

    Raises:
        DivergedError: it diverged before anything could be kept.
    """
    rule = stopping.keep_by if may_choose(len(judge)) else "last"
    kept, curve, since_best = Artifact(), [], 0
    try:
        for step in advance_in_parts(work, stopping.evaluations, stage):
            utility = measure_utility(work.logits_as_met(judge.images), judge.labels, len(judge.classes))
            figures = {name: getattr(utility, name) for name in ("accuracy", "auc", "loss")}
            curve.append({"step": step, **figures})
            since_best += 1
            if not kept.info or rank(curve[-1], rule) >= rank(kept.info, rule):
                kept, since_best = Artifact(model_tensors(work.model), dict(curve[-1])), 0
            elif since_best >= stopping.patience:
                break
    except DivergedError as error:
        if not kept.info:
            raise
        logger.warning("%s; evaluation at step %d is kept", error, kept.info["step"])
    kept.info |= {"curve": curve, "temperature": 1.0, "by_val": rule != "last"}
    return kept


def advance_in_parts(work: ClassifierTraining, parts: int, stage: str) -> Iterator[int]:
    """Train to the end of the schedule in ``parts`` equal parts; yield the step after each, so that it can be judged.

    ``stage`` is reported as over when the last part is, or when the caller looks no further.
    """
    try:
        for part in range(1, parts + 1):
            work.advance(work.config.steps * part // parts, stage)
            yield work.training.step
    finally:
        work.job.progress.finish(stage)


def rank(figures: dict[str, Any], keep_by: str) -> tuple[float, ...]:
    """Return what to compare evaluations by: the higher is kept, the later of equals.

    By accuracy the loss decides between equals, as a small split has many. ``last`` asks val nothing: best of several
    noisy looks is a lucky one as often as a good one, and the learning rate has fallen only at the end.
    """
    accuracy, auc = figures["accuracy"], figures.get("auc")
    ranks = {
        "accuracy": (accuracy, -figures["loss"]),
        # Of one class there is none, as in Score.of.
        "auc": (accuracy if auc is None else auc, -figures["loss"]),
        "loss": (-figures["loss"],),
        "last": (figures["step"],),
    }
    return ranks[keep_by]


def load_teacher(config: TeacherConfig, data: SiteData, artifact: Artifact, runtime: Runtime) -> nn.Module:
    """Rebuild the teacher that :func:`train_teacher` returned, in evaluation mode."""
    model = build_teacher(config, data, "any")
    model.load_state_dict(artifact.tensors)
    return runtime.place(model).eval()


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the temperature in 0.25 to 8 with the least val cross-entropy (Guo et al. 2017)."""

    def loss(log_temperature: float) -> float:
        scaled = scipy.special.log_softmax(logits.astype(np.float64) / np.exp(log_temperature), axis=1)
        return float(-scaled[np.arange(len(labels)), labels].mean())

    return float(np.exp(scipy.optimize.minimize_scalar(loss, bounds=(np.log(0.25), np.log(8.0)), method="bounded").x))


@dataclasses.dataclass(frozen=True)
class SoftLabeller:
    """Labels images with the teacher's softmax at a temperature, averaged over augmented views.

    A release carries averaged labels because the server has no teacher to ask again for each view.
    """

    teacher: nn.Module
    temperature: float
    views: int
    augment: str
    job: Job

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.uint8], *seed: object) -> NDArray[np.float32]:
        """Return float32 ``[N, K]`` of uint8 ``images [N, H, W, C]``: the first view is the image itself."""
        batch = forward_batch(images.shape[1])
        if len(images) > batch:
            starts = range(0, len(images), batch)
            return np.concatenate([self(images[start : start + batch], *seed, start) for start in starts])
        inputs = to_model_input(torch.from_numpy(images).to(self.job.runtime.device))
        total = torch.zeros(())
        for view in range(self.views):
            seen = inputs if not view else augment(inputs, self.augment, self.job.flip, torch_rng(*seed, "view", view))
            total = total + self.of_view(seen)
        return (total / self.views).cpu().numpy()

    @torch.no_grad()
    def of_view(self, inputs: Tensor) -> Tensor:
        """Return soft labels ``[N, K]`` of one view, model inputs ``[N, C, H, W]``: what TCKR's student learns from."""
        with self.job.runtime.autocast():
            logits = self.teacher(inputs)
        return torch.softmax(logits.float() / self.temperature, dim=1)
