"""Personalised models: what a site makes for itself of what others share. They never leave it.

``aggregated`` is FedKR's own setting: a classifier of the site's real images and of those releases that it chose
(:mod:`fedkr.recycle.aggregate`). ``fine_tuned`` goes on with a model that all sites share.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fedkr.data.images import Shape
from fedkr.fingerprint import array_digest
from fedkr.learning.classifier import ClassifierTraining, real_batches
from fedkr.learning.models import load_classifier
from fedkr.learning.training import cosine
from fedkr.recycle.aggregate import Aggregation, Choice, Names, Verdict, with_real
from fedkr.recycle.distill import distill_student
from fedkr.recycle.pipeline import SitePipeline
from fedkr.recycle.tuned import own_allotment, tuning_key
from fedkr.release import ReleasedSets
from fedkr.stages import Artifact, model_tensors

# Fine-tuning: so small a part of the student's steps, at so small a part of its learning rate.
FINE_STEPS, FINE_LR = 0.2, 0.1


class Personal:
    """One contestant's model of one site.

    Args:
        pipeline: the site's; its study, images, stages and seeds are used.
        contestant: its name is part of every seed.
    """

    def __init__(self, pipeline: SitePipeline, contestant: str) -> None:
        self.pipeline, self.contestant = pipeline, contestant
        # Its own images are sharp.
        self.config = dataclasses.replace(pipeline.study.student, components=0)
        self.stages = pipeline.stages
        self.job = pipeline.job.seeded(contestant)

    def aggregated(self, offered: Mapping[str, ReleasedSets]) -> tuple[Artifact, Choice]:
        """Choose among other sites' releases and train on the site's own images and the chosen ones.

        Where nothing is chosen it is the site's own model. Each tried choice is a stage, as is the model.
        """
        choice = self.choose(offered)
        if not choice.chosen:
            return self.pipeline.own_model(), choice
        study, sets = self.pipeline.study, with_real(self.pipeline.data.train, offered, choice.chosen)

        def train() -> Artifact:
            """Train from the own model's first weights at its learning rate, to the end: val chooses no evaluation."""
            own, val = self.pipeline.own_model().info, len(self.pipeline.data.val)
            steps = own_allotment(study, val).schedule
            config, job = dataclasses.replace(self.config, lr=own["lr"], steps=steps), self.pipeline.job.seeded("local")
            return Artifact(model_tensors(distill_student(config, sets, job, self.contestant)))

        key = self._key(offered) | {"chosen": choice.chosen, "tuning": tuning_key(study, len(self.pipeline.data.val))}
        return self.stages.run(f"aggregated-{self.contestant}", key, train), choice

    def choose(self, offered: Mapping[str, ReleasedSets]) -> Choice:
        """Return which of the offered releases the site trains with."""
        key, work = self._key(offered), Aggregation(self.pipeline.study, self.pipeline.data, offered, self.job)

        def keep(chosen: Names, judge: Callable[[], Verdict]) -> Verdict:
            """Return what a choice comes to, judged now or before."""

            def stage() -> Artifact:
                """Judge it."""
                found = judge()
                return Artifact({"errors": torch.from_numpy(found.errors)}, {"loss": found.loss})

            kept = self.stages.run(f"tried-{self.contestant}", key | {"chosen": chosen}, stage)
            return Verdict(kept.tensors["errors"].numpy(), kept.info["loss"])

        return work.choose(keep)

    def fine_tuned(self, weights: Mapping[str, Tensor]) -> Artifact:
        """Go on training a shared model on the site's own images, gently."""
        train = self.pipeline.data.train
        digest = array_digest(weights[name].detach().cpu().numpy() for name in sorted(weights))
        steps = max(1, math.ceil(FINE_STEPS * self.config.steps))
        config = dataclasses.replace(self.config, lr=FINE_LR * self.config.lr, steps=steps)

        def tune() -> Artifact:
            """Train on real images, the learning rate falling from the first step on."""
            model = load_classifier(config, Shape.of(train), weights, self.job.runtime)
            batches = real_batches(train, config.batch, *self.job.seed)
            work = ClassifierTraining(model, config, batches, self.job, lambda step: cosine(step, steps))
            work.advance(steps, self.contestant)
            self.job.progress.finish(self.contestant)
            return Artifact(model_tensors(work.model))

        key = self.pipeline.key("teacher", "generator", "recycle") | {"contestant": self.contestant, "model": digest}
        return self.stages.run(f"tuned-{self.contestant}", key, tune)

    def _key(self, offered: Mapping[str, ReleasedSets]) -> dict[str, object]:
        digests = [(site, sets.digest()) for site, sets in offered.items()]
        return self.pipeline.key("teacher", "generator") | {"contestant": self.contestant, "offered": digests}
