"""One site alone: how far a student of synthetic images stays behind the same classifier trained on the real ones.

The difference of their accuracies on real test images is the CAS gap of Knowledge Recycling (Lomurno & Matteucci 2025).
Each :class:`Variant` leaves one step of the method out, or changes it, so that its worth can be read off.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedkr.config import Study
from fedkr.data.images import ImageSet, Shape, SiteData, content_digest
from fedkr.data.registry import Source
from fedkr.data.stratify import deal
from fedkr.generators import Knobs
from fedkr.learning.classifier import ClassifierTraining
from fedkr.learning.evaluation import measure_fidelity, measure_utility
from fedkr.learning.job import Job
from fedkr.learning.models import build_student
from fedkr.learning.prediction import predict_logits
from fedkr.learning.runtime import Runtime
from fedkr.progress import Progress, SilentProgress
from fedkr.recycle.distill import regenerated_batches
from fedkr.recycle.drawer import Drawer, one_hot
from fedkr.recycle.pipeline import SitePipeline, site_job
from fedkr.recycle.teacher import SoftLabeller, load_teacher, train_and_keep
from fedkr.release import SoftSet
from fedkr.seeds import derive_seed, numpy_rng
from fedkr.stages import Artifact, StageStore

SITE = "site-0"
Row = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """One row of the ablation.

    Attributes:
        name: as tables have it.
        labels: ``views`` (the teacher labels each augmented view, TCKR), ``averaged`` (once an image, over views: what
            a release carries) or ``hard`` (the class that was asked for).
        fresh: regenerate every ``student.regenerate_every`` epochs, or train on one fixed set.
        ratio: images of a set, as a multiple of the training images.
        optimised: take the checkpoint that the search chose, or the last.
        tuned: take the knobs that tuning found, or the generator's own.
        copies: generators that draw equal shares.
        judge: split that chooses checkpoint, knobs and, unless ``teacher.keep_by`` is ``last``, the student's
            evaluation: ``val``, or ``test`` to show what leakage in selection is worth.
    """

    name: str
    labels: str = "views"
    fresh: bool = True
    ratio: float = 1.0
    optimised: bool = True
    tuned: bool = True
    copies: int = 1
    judge: str = "val"


FULL = Variant("full method")
HARD_FIXED = Variant("hard labels, fixed set", labels="hard", fresh=False)
FIXED = Variant("fixed set", fresh=False)
# What a run compares without being asked for more: the method, and synthetic data as it is used without it.
USUAL = (FULL, HARD_FIXED)
ABLATION = (
    FULL,
    Variant("averaged labels", labels="averaged"),
    Variant("hard labels", labels="hard"),
    FIXED,
    HARD_FIXED,
    Variant("no checkpoint optimisation", optimised=False),
    Variant("no tuning", tuned=False),
    *(Variant(f"fixed set, ratio {ratio:g}", fresh=False, ratio=ratio) for ratio in (0.1, 0.3, 3.0, 10.0)),
    Variant("three generators", copies=3),
    Variant("selected on test", judge="test"),
)


class SingleSite:
    """Knowledge Recycling on the official splits of a dataset, with nothing held out; ``folder`` keeps its stages.

    Teacher and student are the same classifier where the study's settings of both are the same.
    """

    def __init__(self, study: Study, source: Source, folder: Path, runtime: Runtime, progress: Progress) -> None:
        self.study, self.test, self.job = study, source.test, site_job(study, SITE, runtime, progress)
        self.data, self.stages = official_splits(source, study.split.val), StageStore(folder)
        # Each reads all images for the names of its stages: one serves all variants that select and generate alike.
        self._pipelines: dict[tuple[int, str], SitePipeline] = {}
        self.pipeline = self._pipeline_of(FULL)

    def reference(self) -> Row:
        """Return the figures of the classifier trained on real images, the teacher: what a student is compared with."""
        artifact = self.pipeline.teacher()
        model = load_teacher(self.study.teacher, self.data, artifact, self.job.runtime)
        logits = predict_logits(model, self.test.images, self.job.runtime)
        return {"name": "real images", "step": artifact.info["step"], **figures(logits, self.test)}

    def costs(self) -> Row:
        """Return seconds of generator training and of the search, and every score that the search saw."""
        choice, generator = self.pipeline.choose(), self.pipeline.generator_info()
        known = ("checkpoint", "knobs", "checkpoints", "tuning")
        return {
            "generator_seconds": generator["seconds"],
            "search_seconds": choice["seconds"],
            **{name: choice[name] for name in known},
        }

    def student(self, variant: Variant) -> Row:
        """Train a variant's student, or read what is known of it; return its figures on the test images."""
        pipeline = self._pipeline_of(variant)
        stage = self.stages.run("student", _key(variant, pipeline, self.test), lambda: self._distil(variant, pipeline))
        return {"name": variant.name, **stage.info}

    def knows(self, variant: Variant) -> bool:
        """Whether the variant's student was trained before."""
        return self.stages.path("student", _key(variant, self._pipeline_of(variant), self.test)).exists()

    def _pipeline_of(self, variant: Variant) -> SitePipeline:
        alike = variant.copies, variant.judge
        if alike not in self._pipelines:
            self._pipelines[alike] = self._new_pipeline(variant)
        return self._pipelines[alike]

    def _new_pipeline(self, variant: Variant) -> SitePipeline:
        study = self.study
        if variant.copies > 1:
            options = {"kind": study.generator.kind, "copies": variant.copies, "options": study.generator.options}
            mixture = dataclasses.replace(study.generator, kind="mixture", options=options)
            study = dataclasses.replace(study, generator=mixture)
        pipeline = SitePipeline(SITE, self.data, study, self.stages, self.job)
        if variant.judge == "test":
            pipeline.judge = self.test
        return pipeline

    def _distil(self, variant: Variant, pipeline: SitePipeline) -> Artifact:
        config, started, job = self.study.student, time.perf_counter(), self.job.seeded("student")
        source = SyntheticSource(variant, pipeline, job)
        model = build_student(config, Shape.of(self.data.train), derive_seed(*job.seed))
        batches = regenerated_batches(source.draw, config.regenerate_every, config.batch, *job.seed)
        work = ClassifierTraining(model, config, batches, job)
        if variant.labels == "views":
            work = LabelledByViews(source.labeller, model, config, batches, job)
        judge = self.test if variant.judge == "test" else self.data.val
        kept = train_and_keep(work, judge, self.study.teacher, variant.name)
        work.model.load_state_dict(kept.tensors)
        logits = predict_logits(work.model, self.test.images, self.job.runtime)
        # How near the student is to its teacher on val tells recipes apart without a look at test.
        both = work.model, source.labeller.teacher
        fidelity = measure_fidelity(*(predict_logits(m, self.data.val.images, self.job.runtime) for m in both))
        costs = {"sets": source.sets, "images": source.images, "sampling_seconds": source.seconds}
        seconds = time.perf_counter() - started
        measured = {**figures(logits, self.test), "fidelity": fidelity, **costs, "seconds": seconds}
        return Artifact({}, {"step": kept.info["step"], **measured})


def _key(variant: Variant, pipeline: SitePipeline, test: ImageSet) -> Row:
    """Return all that a variant's student depends on; what the variant is called does not matter."""
    settings = {name: value for name, value in dataclasses.asdict(variant).items() if name != "name"}
    return {"choice": pipeline.choice_key(), "test": content_digest(test)} | settings


class LabelledByViews(ClassifierTraining):
    """A student whose teacher labels the very views that it sees, mixed ones too (Beyer et al. 2022; TCKR)."""

    def __init__(self, labeller: SoftLabeller, *training: Any) -> None:
        super().__init__(*training)
        self.labeller = labeller

    def targets(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the teacher's soft labels ``[B, K]`` of the augmented ``inputs [B, C, H, W]``."""
        return self.labeller.of_view(inputs)


class SyntheticSource:
    """Draws a variant's synthetic sets and counts what they cost."""

    def __init__(self, variant: Variant, pipeline: SitePipeline, job: Job) -> None:
        self.variant, self.seed = variant, job.seed
        self.labeller: SoftLabeller = pipeline.labeller()
        choice, generator, recycle = pipeline.choose(), pipeline.build_generator(), pipeline.study.recycle
        step = choice["checkpoint"] if variant.optimised else max(pipeline.generator_checkpoints())
        generator.load(pipeline.checkpoint(step))
        knobs: Knobs = choice["knobs"] if variant.tuned else generator.default_knobs()
        # The filter asks the teacher, whatever labels the student learns.
        asked = variant.labels == "averaged" or knobs.get("filter", recycle.filter) > 0
        quiet = dataclasses.replace(job.seeded("draw"), progress=SilentProgress())
        counts = pipeline.data.train.class_counts()
        labeller = self.labeller if asked else None
        self.drawer = Drawer(generator, knobs, counts, recycle, labeller, quiet, pipeline.doubted())
        self.sets, self.images, self.seconds = 0, 0, 0.0
        self.fixed: SoftSet | None = None

    def draw(self, number: int) -> SoftSet:
        """Return set ``number``: uint8 images ``[N, H, W, C]`` and labels ``[N, K]``."""
        if self.variant.fresh:
            return self._draw(number)
        if self.fixed is None:
            self.fixed = self._draw(0)
        return self.fixed

    def _draw(self, number: int) -> SoftSet:
        started, counts = time.perf_counter(), self.drawer.counts
        count = max(1, round(self.variant.ratio * int(counts.sum())))
        asked = self.drawer.classes(count, numpy_rng(*self.seed, "labels", number))
        images, soft = self.drawer.draw(asked, number)
        self.sets, self.images = self.sets + 1, self.images + len(images)
        self.seconds += time.perf_counter() - started
        return SoftSet(images, one_hot(asked, len(counts)) if self.variant.labels == "hard" else soft)


def official_splits(source: Source, val_share: float) -> SiteData:
    """Return train and val as the dataset's makers split them; without their split, a share that never changes.

    Test and holdout are empty: nothing is held out, and the test images stay with who measures.
    """
    pool, indices = source.pool, np.arange(len(source.pool))
    if source.val:
        train, val = indices[: -source.val], indices[-source.val :]
    else:
        train, val = deal(pool.labels, (1 - val_share, val_share), numpy_rng("official val split"), pool.groups)
    nothing = pool.subset(indices[:0])
    return SiteData(pool.subset(train), pool.subset(val), nothing, nothing)


def figures(logits: NDArray[np.float32], test: ImageSet) -> Row:
    """Return accuracy, balanced accuracy, AUC and each class' recall (None for a class without test images)."""
    utility = measure_utility(logits, test.labels, len(test.classes))
    return {
        "accuracy": utility.accuracy,
        "balanced_accuracy": utility.balanced_accuracy,
        "auc": utility.auc,
        "recalls": utility.recalls(),
    }
