"""One site's Knowledge Recycling, in order: Teacher, Generator, Checkpoint Optimisation, Tuning, Release.

Each step is a stage on disk, keyed by all that it depends on: a restart continues behind the last finished one.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkr.artifacts import Artifact, StageStore, model_tensors, read_artifact, write_artifact
from fedkr.config import Study
from fedkr.data.imageset import SiteData, content_digest
from fedkr.errors import UserError
from fedkr.generators import Generator, Knobs, build_generator
from fedkr.progress import Progress
from fedkr.recycle.classifier import train_on_real
from fedkr.recycle.search import CandidateScorer, Score, release_labels
from fedkr.recycle.teacher import SoftLabeller, load_teacher, train_teacher
from fedkr.release import Release
from fedkr.seeds import numpy_rng
from fedkr.training import Runtime


class SitePipeline:
    """Knowledge Recycling on one site's data.

    Args:
        site: the site's name; part of every seed.
        data: the private splits; the holdout is never read here.
        study: all settings.
        stages: where finished stages are kept.
        runtime: device and precision.
        progress: is told of every step.
        least_class_count: the site policy's own least count, which may only raise the study's.
    """

    def __init__(
        self,
        site: str,
        data: SiteData,
        study: Study,
        stages: StageStore,
        runtime: Runtime,
        progress: Progress,
        least_class_count: int = 1,
    ) -> None:
        self.site, self.data, self.stages, self.runtime, self.progress = site, data, stages, runtime, progress
        least = max(study.recycle.min_class_count, least_class_count)
        self.study = dataclasses.replace(study, recycle=dataclasses.replace(study.recycle, min_class_count=least))
        counts = data.train.class_counts()
        self.kept = np.flatnonzero(counts >= least)
        self.left_out = [data.train.classes[k] for k in np.flatnonzero((counts > 0) & (counts < least))]
        self.common = {
            "site": site,
            "seed": study.seed,
            "threads": study.threads,
            "flip": study.data.flip,
            **runtime.describe(),
            "train": content_digest(data.train),
            "val": content_digest(data.val),
        }

    def seed(self, stage: str) -> tuple[object, ...]:
        """Return the parts of a stage's seed."""
        return (self.study.seed, self.site, stage)

    def own_model(self) -> Artifact:
        """Train the site's own classifier on its real images, with the recipe of the comparison; it never leaves."""
        config = self.study.student

        def compute() -> Artifact:
            model = train_on_real(
                config,
                self.data.train,
                flip=self.study.data.flip,
                runtime=self.runtime,
                seed=self.seed("local"),
                progress=self.progress,
                stage="own model",
            )
            return Artifact(model_tensors(model))

        return self.stages.run("local", self.common | {"student": dataclasses.asdict(config)}, compute)

    def teacher(self) -> Artifact:
        """Train the teacher, or read it."""
        config = self.study.teacher
        return self.stages.run(
            "teacher",
            self._teacher_key(),
            lambda: train_teacher(
                config,
                self.data,
                flip=self.study.data.flip,
                runtime=self.runtime,
                seed=self.seed("teacher"),
                progress=self.progress,
            ),
        )

    def labeller(self) -> SoftLabeller:
        """Return what labels synthetic images: the teacher at its calibrated temperature times the study's."""
        artifact, recycle = self.teacher(), self.study.recycle
        teacher = load_teacher(self.study.teacher, self.data, artifact, self.runtime)
        temperature = recycle.temperature * artifact.info["temperature"]
        return SoftLabeller(
            teacher, temperature, recycle.views, self.study.teacher.augment, self.study.data.flip, self.runtime
        )

    def generator_checkpoints(self) -> list[int]:
        """Train the generator, continuing behind the last checkpoint on disk; return the steps of its checkpoints."""
        done = self.stages.path("generator", self._generator_key())
        if done.exists():
            return list(read_artifact(done).info["steps"])
        state_path = self.stages.path("generator-state", self._generator_key())
        state = read_artifact(state_path) if state_path.exists() else None
        steps: list[int] = [] if state is None else list(state.info["steps"])
        generator = self.build_generator()

        def save(step: int, artifact: Artifact) -> None:
            write_artifact(self._checkpoint_path(step), generator.prune(artifact))
            steps.append(step)
            write_artifact(state_path, Artifact(artifact.tensors, artifact.info | {"steps": steps}))

        train = self.data.train.subset(np.flatnonzero(np.isin(self.data.train.labels, self.kept)))
        if not len(train):
            least = self.study.recycle.min_class_count
            raise UserError(f"no class has {least} training images; lower recycle.min_class_count={least}")
        generator.fit(train, seed=self.seed("generator"), progress=self.progress, save=save, state=state)
        write_artifact(done, Artifact({}, {"steps": steps}))
        state_path.unlink(missing_ok=True)
        return steps

    def checkpoint(self, step: int) -> Artifact:
        """Read a checkpoint of the generator from its file, the same for fresh and resumed runs."""
        return read_artifact(self._checkpoint_path(step))

    def choose(self) -> dict[str, Any]:
        """Checkpoint Optimisation, then Tuning; return checkpoint, knobs and every tried score.

        A site with one class has nothing to score by: it keeps the last checkpoint and the default knobs.
        """
        return self.stages.run("choice", self._choice_key(), self._search).info

    def _search(self) -> Artifact:
        checkpoints, generator = self.generator_checkpoints(), self.build_generator()
        knobs = generator.default_knobs()
        best = max(checkpoints)
        rows: dict[str, list[dict[str, Any]]] = {"checkpoints": [], "tuning": []}
        if len(self.kept) > 1:
            score = CandidateScorer(
                self.study, self.data, self.labeller(), self.seed("search"), self.runtime, self.progress
            )
            scores: dict[int, Score] = {}
            for step in sorted(checkpoints):
                generator.load(self.checkpoint(step))
                scores[step] = score(generator, knobs, f"checkpoint {step}")
                rows["checkpoints"].append({"step": step, **scores[step].as_row()})
            best = max(scores, key=lambda step: scores[step].order())
            generator.load(self.checkpoint(best))
            tried: list[tuple[tuple[float, float], Knobs]] = []
            for index, candidate in enumerate(generator.knob_candidates()[: self.study.recycle.tuning_budget]):
                value = scores[best] if candidate == knobs else score(generator, candidate, f"tuning {index + 1}")
                rows["tuning"].append({"knobs": candidate, **value.as_row()})
                tried.append((value.order(), candidate))
            if tried:
                knobs = max(tried, key=lambda pair: pair[0])[1]
        return Artifact({}, {"checkpoint": best, "knobs": knobs, **rows})

    def release(self, round_number: int, max_images: int | None = None) -> Release:
        """Return the release of a round: fresh images from the chosen generator, labelled by the teacher.

        Args:
            round_number: 1, 2, ...: part of the seed of the noise.
            max_images: the site policy's cap on images in one release, None for none.
        """
        key = self._choice_key() | {"round": round_number, "max_images": max_images}
        recycle = self.study.recycle
        key |= {name: getattr(recycle, name) for name in ("rounds", "ratio", "exchange")}
        return Release.from_artifact(
            self.stages.run("release", key, lambda: self._regenerate(round_number, max_images).as_artifact())
        )

    def _regenerate(self, round_number: int, max_images: int | None) -> Release:
        choice, teacher, generator = self.choose(), self.teacher().info, self.build_generator()
        generator.load(self.checkpoint(choice["checkpoint"]))
        recycle = self.study.recycle
        slices = recycle.rounds if recycle.exchange == "once" else 1
        count = max(1, round(recycle.ratio * len(self.data.train)))
        if max_images is not None:
            count = min(count, max_images // slices)
            if not count:
                raise UserError(
                    f"the policy's max_images={max_images} is less than one image a slice ({slices} slices)"
                )
        rng = numpy_rng(*self.seed("labels"), round_number)
        labels = np.concatenate(
            [
                release_labels(self.data.train, count, recycle.balance, recycle.min_class_count, rng)
                for _ in range(slices)
            ]
        )
        images, soft = self._draw(generator, choice["knobs"], labels, round_number)
        manifest = {
            "site": self.site,
            "round": round_number,
            "slices": slices,
            "count": len(images),
            "left_out": self.left_out,
            "knobs": choice["knobs"],
            "checkpoint": choice["checkpoint"],
            "scores": {name: choice[name] for name in ("checkpoints", "tuning")},
            "teacher": {"step": teacher["step"], "val_accuracy": teacher.get("accuracy", 1.0)},
        }
        return Release(images, normalised_float16(soft), manifest)

    def _draw(
        self, generator: Generator, knobs: Knobs, labels: NDArray[np.int64], round_number: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        labeller, images, soft, done = self.labeller(), [], [], 0
        seed = (*self.seed("regenerate"), round_number)
        for batch in generator.sample(labels, knobs, *seed):
            images.append(batch)
            soft.append(labeller(batch, *seed, done))
            done += len(batch)
            self.progress.update("regenerate", done, len(labels), unit="image")
        self.progress.finish("regenerate")
        return np.concatenate(images), np.concatenate(soft)

    def build_generator(self) -> Generator:
        """Return the untrained generator of this study and data."""
        train = self.data.train
        return build_generator(
            self.study.generator,
            channels=train.channels,
            size=train.size,
            classes=len(train.classes),
            flip=self.study.data.flip,
            runtime=self.runtime,
        )

    def _checkpoint_path(self, step: int) -> Path:
        return self.stages.path(f"generator-{step}", self._generator_key())

    def _teacher_key(self) -> dict[str, Any]:
        return self.common | {"teacher": dataclasses.asdict(self.study.teacher)}

    def _generator_key(self) -> dict[str, Any]:
        least = self.study.recycle.min_class_count
        return self.common | {"generator": dataclasses.asdict(self.study.generator), "least": least}

    def _choice_key(self) -> dict[str, Any]:
        recycle, used = (
            self.study.recycle,
            ("search_steps", "search_images", "tuning_budget", "metric", "views", "temperature", "balance"),
        )
        return (
            self._teacher_key()
            | self._generator_key()
            | {"student": dataclasses.asdict(self.study.student), "ratio": recycle.ratio}
            | {name: getattr(recycle, name) for name in used}
        )


def normalised_float16(soft: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return float16 rows that sum to one as nearly as float16 can."""
    return (soft / soft.sum(axis=1, keepdims=True)).astype(np.float16)
