"""Pipeline references: Knowledge Recycling repeated on random halves of a site's images, up to a student each.

A direct reference answers for an image that it trained on; a student never saw one. What an image leaves behind in a
student went through Teacher, Generator and soft labels, so only references that went the same way are calibrated for
it. Approximations: checkpoint and knobs are the target's, not searched again, and the other sites' share of the
student's training set is what they really released.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedkr.config import ClassifierConfig, Study
from fedkr.data.images import ImageSet, SiteData, content_digest
from fedkr.fingerprint import fingerprint
from fedkr.learning.models import build_classifier
from fedkr.learning.training import Runtime, predict_logits
from fedkr.progress import Progress
from fedkr.recycle import SitePipeline
from fedkr.recycle.distill import distill_student
from fedkr.recycle.drawing import SoftSet
from fedkr.release import Release
from fedkr.stages import Artifact, StageStore, model_tensors

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Draws:
    """Soft-labelled synthetic sets in the order in which a student turns to them.

    Attributes:
        images: uint8 ``[N, H, W, C]``, one draw after the other.
        soft_labels: float16 ``[N, K]``.
        sizes: how many images each draw has.
    """

    images: NDArray[np.uint8]
    soft_labels: NDArray[np.float16]
    sizes: tuple[int, ...]

    def __call__(self, index: int) -> SoftSet:
        """Return draw ``index``, from the first again after the last."""
        index %= len(self.sizes)
        start = sum(self.sizes[:index])
        part = slice(start, start + self.sizes[index])
        return self.images[part], self.soft_labels[part]

    def digest(self) -> str:
        """Return what names these sets in a stage's key."""
        return fingerprint([self.sizes, _digest(self.images), _digest(self.soft_labels)])

    def as_artifact(self) -> Artifact:
        """Return the sets as a stage keeps them."""
        tensors = {"images": torch.from_numpy(self.images), "soft-labels": torch.from_numpy(self.soft_labels)}
        return Artifact(tensors, {"sizes": list(self.sizes)})

    @staticmethod
    def from_artifact(artifact: Artifact) -> Draws:
        """Read what :meth:`as_artifact` made."""
        images, labels = artifact.tensors["images"].numpy(), artifact.tensors["soft-labels"].numpy()
        return Draws(images, labels, tuple(artifact.info["sizes"]))

    @staticmethod
    def of_releases(releases: Sequence[Release]) -> Draws:
        """Return one site's releases slice by slice, over the exchanges first, as the central student draws them."""
        slices = int(releases[0].manifest.get("slices", 1))
        images = [part for i in range(slices) for part in (np.split(r.images, slices)[i] for r in releases)]
        labels = [part for i in range(slices) for part in (np.split(r.soft_labels, slices)[i] for r in releases)]
        return Draws(np.concatenate(images), np.concatenate(labels), tuple(map(len, images)))


class ShadowPipeline(SitePipeline):
    """Knowledge Recycling with a checkpoint and knobs that were chosen elsewhere.

    Args:
        checkpoint_share: the chosen checkpoint's step as a share of the generator's steps.
        knobs: of the generator's sampling.
        pipeline: what :class:`~fedkr.recycle.SitePipeline` takes.
    """

    def __init__(self, checkpoint_share: float, knobs: dict[str, Any], **pipeline: Any) -> None:
        super().__init__(**pipeline)
        self.checkpoint_share, self.knobs = checkpoint_share, knobs

    def choose(self) -> dict[str, Any]:
        """Return the given knobs and the checkpoint nearest to the given share; nothing is scored."""
        wanted = self.checkpoint_share * self.study.generator.steps
        step = min(self.generator_checkpoints(), key=lambda step: abs(step - wanted))
        return {"checkpoint": step, "knobs": self.knobs, "checkpoints": [], "tuning": []}


@dataclass(frozen=True)
class ShadowStudents:
    """The students at the end of the shadows: reference models of kind ``pipeline``.

    Attributes:
        config: their architecture.
        classes: how many classes they tell apart.
        states: each one's weights.
        membership: bool ``[M, N]``: the candidates in each one's half.
        runtime: where they are asked.
    """

    config: ClassifierConfig
    classes: int
    states: list[dict[str, torch.Tensor]]
    membership: Bools
    runtime: Runtime

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 ``[M, Q, K]`` for uint8 images ``[Q, H, W, C]``."""
        model = build_classifier(self.config, images.shape[-1], images.shape[1], self.classes, "any")
        model, found = self.runtime.place(model), []
        for state in self.states:
            model.load_state_dict(state)
            found.append(predict_logits(model, images, self.runtime))
        return np.stack(found)


class PipelineShadows:
    """A site's pipeline, repeated once for each row of ``membership``.

    Args:
        target: the pipeline under audit, whose choice of checkpoint and knobs is done.
        candidates: N images: members, holdout and canaries.
        membership: bool ``[M, N]``: the half that each shadow takes for its training split. Val is the target's.
        max_images: the site policy's cap on one release.
    """

    def __init__(self, target: SitePipeline, candidates: ImageSet, membership: Bools, max_images: int) -> None:
        self.target, self.candidates, self.membership = target, candidates, membership
        self.max_images = max_images

    def students(self, others: Draws | None) -> ShadowStudents:
        """Return the shadows' students, trained on what each shadow released and what ``others`` did.

        Args:
            others: the other sites' releases, None for students of one site's releases alone.

        Raises:
            UserError: a shadow whose half cannot be learned from, such as one with a single class.
        """
        states = []
        for m in range(len(self.membership)):
            stages, key = self.target.stages, self._key(m) | {"others": others and others.digest()}
            name = f"shadow-{m}-student"
            states.append(stages.run(name, key, lambda m=m: self._train_student(m, others)).tensors)  # type: ignore[misc]
        target, classes = self.target, len(self.candidates.classes)
        return ShadowStudents(target.study.student, classes, states, self.membership, target.runtime)

    def release(self, m: int) -> Draws:
        """Return what shadow ``m`` releases; its teacher and generator are removed from the disk afterwards."""
        folder = self.target.stages.folder / f"shadow-{m}-{fingerprint(self._key(m))}"

        def compute() -> Artifact:
            """Run the pipeline on the members of shadow ``m`` and keep what it would release."""
            pipeline = self._pipeline(m, StageStore(folder))
            recycle = pipeline.study.recycle
            exchanges = 1 if recycle.exchange == "once" else recycle.rounds
            releases = [pipeline.release(number, self.max_images) for number in range(1, exchanges + 1)]
            return Draws.of_releases(releases).as_artifact()

        found = self.target.stages.run(f"shadow-{m}-release", self._key(m), compute)
        shutil.rmtree(folder, ignore_errors=True)
        return Draws.from_artifact(found)

    def _train_student(self, m: int, others: Draws | None) -> Artifact:
        own, study = self.release(m), self.target.study
        extra = 0 if others is None else others.sizes[0]
        # The target's share of the union, by which its epochs are counted.
        _, usual = self.target.slices(self.max_images)
        steps = scaled_steps(study.student.steps, own.sizes[0] + extra, usual + extra)
        model = distill_student(
            dataclasses.replace(study.student, steps=steps),
            own if others is None else joined_draws(own, others),
            flip=study.data.flip,
            runtime=self.target.runtime,
            seed=(study.seed, self._name(m), "student"),
            progress=self._progress(m),
            stage="student",
        )
        return Artifact(model_tensors(model))

    def _pipeline(self, m: int, stages: StageStore) -> ShadowPipeline:
        target, choice = self.target, self.target.choose()
        half = self.candidates.subset(np.flatnonzero(self.membership[m]))
        val = target.data.val
        return ShadowPipeline(
            choice["checkpoint"] / target.study.generator.steps,
            choice["knobs"],
            site=self._name(m),
            # A pipeline reads train and val only.
            data=SiteData(half, val, val, val),
            study=shadow_study(target.study, len(half), len(target.data.train)),
            stages=stages,
            runtime=target.runtime,
            progress=self._progress(m),
        )

    def _name(self, m: int) -> str:
        return f"{self.target.site}/shadow-{m}"

    def _progress(self, m: int) -> PrefixedProgress:
        return PrefixedProgress(self.target.progress, f"shadow {m + 1}/{len(self.membership)}: ")

    def _key(self, m: int) -> dict[str, Any]:
        study, choice = self.target.study, self.target.choose()
        parts = {name: dataclasses.asdict(getattr(study, name)) for name in ("teacher", "generator", "recycle")}
        return (
            self.target.common
            | parts
            | {"student": dataclasses.asdict(study.student), "checkpoint": choice["checkpoint"]}
            | {"knobs": choice["knobs"], "max_images": self.max_images}
            | {"candidates": content_digest(self.candidates), "half": _digest(self.membership[m])}
        )


class PrefixedProgress:
    """Reports to another progress under names that begin with ``prefix``."""

    def __init__(self, progress: Progress, prefix: str) -> None:
        self.progress, self.prefix = progress, prefix

    def update(self, stage: str, done: int, total: int, unit: str = "step", **numbers: float) -> None:
        """See :class:`fedkr.progress.Progress`."""
        self.progress.update(self.prefix + stage, done, total, unit, **numbers)

    def finish(self, stage: str) -> None:
        """See :class:`fedkr.progress.Progress`."""
        self.progress.finish(self.prefix + stage)


def scaled_steps(steps: int, images: int, usual: int) -> int:
    """Return the steps that give ``images`` as many epochs as ``steps`` give ``usual`` images, rounded up."""
    return max(1, math.ceil(steps * images / usual))


def shadow_study(study: Study, images: int, usual: int) -> Study:
    """Return the study of a shadow with ``images`` training images in place of ``usual``: the same epochs."""
    least = max(1, math.floor(study.recycle.min_class_count * min(1.0, images / usual)))
    recycle = dataclasses.replace(study.recycle, min_class_count=least)
    generator = dataclasses.replace(study.generator, steps=scaled_steps(study.generator.steps, images, usual))
    teacher = dataclasses.replace(study.teacher, steps=scaled_steps(study.teacher.steps, images, usual))
    return dataclasses.replace(study, recycle=recycle, generator=generator, teacher=teacher)


def joined_draws(own: Draws, others: Draws) -> Callable[[int], SoftSet]:
    """Return the union of both sides' draws, one a regeneration round."""

    def draw(index: int) -> SoftSet:
        parts = own(index), others(index)
        return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])

    return draw


def _digest(array: NDArray[Any]) -> str:
    return fingerprint([array.shape, hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()])
