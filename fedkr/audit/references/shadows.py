"""Pipeline references: Knowledge Recycling repeated on random halves of a site's images, up to a student each.

A direct reference answers for an image that it trained on; a student never saw one. What an image leaves behind in a
student went through Teacher, Generator and soft labels, so only references that went the same way are calibrated for
it. Approximations: checkpoint and knobs are the target's, not searched again, and the other sites' share of the
student's training set is what they really released. Which classes its own teacher doubts, each finds anew.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from functools import partial
from typing import Any

import numpy as np

from fedkr.audit.attacks.observed import Bools
from fedkr.audit.references.direct import References
from fedkr.config import Study
from fedkr.data.images import ImageSet, Shape, SiteData, content_digest
from fedkr.errors import UserError
from fedkr.fingerprint import array_digest, fingerprint
from fedkr.learning.job import Job
from fedkr.learning.models import load_classifier
from fedkr.progress import RelayedProgress
from fedkr.recycle import SitePipeline, pipeline_class
from fedkr.recycle.distill import distill_student, for_union
from fedkr.recycle.pipeline import site_job
from fedkr.recycle.terms import Terms
from fedkr.release import ReleasedSets
from fedkr.stages import NAME_DIGITS, Artifact, StageStore, model_tensors


class ShadowPipeline(SitePipeline):
    """Knowledge Recycling with a checkpoint and knobs that were chosen elsewhere.

    ``checkpoint_share`` is the chosen checkpoint's step as a share of the generator's steps.
    """

    def __init__(self, checkpoint_share: float, knobs: dict[str, Any], **pipeline: Any) -> None:
        super().__init__(**pipeline)
        self.checkpoint_share, self.knobs = checkpoint_share, knobs

    def choose(self) -> dict[str, Any]:
        """Return the given knobs and the checkpoint nearest to the given share; nothing is scored."""
        wanted = self.checkpoint_share * self.study.generator.steps
        step = min(self.generator_checkpoints(), key=lambda step: abs(step - wanted))
        return {"checkpoint": step, "knobs": self.knobs, "by_val": False, "checkpoints": [], "tuning": []}


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

    def students(self, others: ReleasedSets | None) -> References:
        """Return the shadows' students, trained on what each shadow released and what ``others``, other sites, did.

        Raises:
            UserError: a shadow whose half cannot be learned from, such as one with a single class.
        """
        config, shape, runtime = self.target.study.student, Shape.of(self.candidates), self.target.job.runtime
        models = []
        for m in range(len(self.membership)):
            key = self._key(m) | {"others": others and others.digest()}
            student = self.target.stages.run(f"shadow-{m}-student", key, partial(self._train_student, m, others))
            models.append(load_classifier(config, shape, student.tensors, runtime))
        return References(models, self.membership, runtime)

    def release(self, m: int) -> ReleasedSets:
        """Return what shadow ``m`` releases; its teacher and generator are removed from the disk afterwards.

        Raises:
            UserError: a half that nothing can be released of, such as one too small for the noise of a guarantee.
        """
        folder = self.target.stages.folder / f"shadow-{m}-{fingerprint(self._key(m))[:NAME_DIGITS]}"

        def compute() -> Artifact:
            """Run the pipeline; what it says of a half that releases nothing names the reference."""
            try:
                releases = self._pipeline(m, StageStore(folder)).releases(self.max_images)
            except UserError as error:
                which = f"reference pipeline {m + 1} of {len(self.membership)}, on {self.membership[m].sum()} images"
                raise UserError(
                    f"{which}: {error} (audit.pipeline_references=0 audits without such references)"
                ) from None
            return ReleasedSets.of_releases(releases).as_artifact()

        found = self.target.stages.run(f"shadow-{m}-release", self._key(m), compute)
        shutil.rmtree(folder, ignore_errors=True)
        return ReleasedSets.from_artifact(found)

    def _train_student(self, m: int, others: ReleasedSets | None) -> Artifact:
        own, target = self.release(m), for_union(self.target.study.student, sites_with(others))
        extra = 0 if others is None else len(others(0).images)
        # The target's share of the union, by which its epochs are counted.
        _, usual = self.target.slices(self.max_images)
        steps = scaled_steps(target.steps, len(own(0).images) + extra, usual + extra)
        config = dataclasses.replace(target, steps=steps)
        model = distill_student(config, own.united(others), self._job(m).seeded("student"), "student")
        return Artifact(model_tensors(model))

    def _pipeline(self, m: int, stages: StageStore) -> SitePipeline:
        target, choice = self.target, self.target.choose()
        half = self.candidates.subset(np.flatnonzero(self.membership[m]))
        val = target.data.val
        parts: dict[str, Any] = {
            "site": self._name(m),
            # A pipeline reads train and val only.
            "data": SiteData(half, val, val, val),
            "study": shadow_study(target.study, len(half), len(target.data.train)),
            "stages": stages,
            "job": self._job(m),
        }
        if target.study.privacy.guaranteed:
            # Nothing was chosen, and its noise need be no secret: what it draws stays here.
            return pipeline_class(target.study)(**parts, terms=Terms(least=self._least(len(half))))
        return ShadowPipeline(choice["checkpoint"] / target.study.generator.steps, choice["knobs"], **parts)

    def _least(self, images: int) -> int:
        """Return the site's least count of a class, scaled to a shadow of so many training images."""
        return scaled_least(self.target.terms.least, images, len(self.target.data.train))

    def _name(self, m: int) -> str:
        return f"{self.target.site}/shadow-{m}"

    def _job(self, m: int) -> Job:
        progress = RelayedProgress(self.target.job.progress, f"shadow {m + 1}/{len(self.membership)}: ")
        return site_job(self.target.study, self._name(m), self.target.job.runtime, progress)

    def _key(self, m: int) -> dict[str, Any]:
        choice = self.target.choose()
        # Of the terms only the least count, and only with a guarantee, decides what a shadow releases.
        least = {"least": self.target.terms.least} if self.target.study.privacy.guaranteed else {}
        return (
            self.target.key()
            | least
            | {
                **{name: choice[name] for name in ("checkpoint", "knobs")},
                "max_images": self.max_images,
                "candidates": content_digest(self.candidates),
                "half": array_digest([self.membership[m]]),
            }
        )


def sites_with(others: ReleasedSets | None) -> int:
    """Return of how many sites the releases are that a target learns from: one's own and ``others``."""
    return 1 if others is None else 1 + others.sites


def scaled_steps(steps: int, images: int, usual: int) -> int:
    """Return the steps that give ``images`` as many epochs as ``steps`` give ``usual`` images, rounded up."""
    return max(1, math.ceil(steps * images / usual))


def scaled_least(least: int, images: int, usual: int) -> int:
    """Return the least count of a class that is to ``images`` what ``least`` is to ``usual``, rounded down."""
    return max(1, math.floor(least * min(1.0, images / usual)))


def shadow_study(study: Study, images: int, usual: int) -> Study:
    """Return the study of a shadow with ``images`` training images in place of ``usual``: the same epochs."""
    least = scaled_least(study.recycle.min_class_count, images, usual)
    recycle = dataclasses.replace(study.recycle, min_class_count=least)
    generator = dataclasses.replace(study.generator, steps=scaled_steps(study.generator.steps, images, usual))
    teacher = dataclasses.replace(study.teacher, steps=scaled_steps(study.teacher.steps, images, usual))
    return dataclasses.replace(study, recycle=recycle, generator=generator, teacher=teacher)
