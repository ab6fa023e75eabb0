"""One site's Knowledge Recycling, in order: Teacher, Generator, Checkpoint Optimisation, Tuning, Release.

Each step is a stage on disk, keyed by all that it depends on: a restart continues behind the last finished one.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkr.config import Study
from fedkr.data.images import SiteData, content_digest
from fedkr.errors import UserError
from fedkr.generators import Generator, Knobs, build_generator
from fedkr.learning.classifier import train_on_real
from fedkr.learning.training import Runtime
from fedkr.progress import Progress
from fedkr.recycle.drawing import BALANCES, SoftSet, confident, release_labels, sampling_knobs
from fedkr.recycle.search import CandidateScorer, Score, best_of, chance_auc, choose_checkpoint, halve
from fedkr.recycle.teacher import SoftLabeller, load_teacher, train_teacher
from fedkr.release import Release
from fedkr.seeds import numpy_rng
from fedkr.stages import Artifact, StageStore, model_tensors, read_artifact, write_artifact

# In standard deviations of chance: no checkpoint above the first while the teacher is above the second is a collapse.
COLLAPSED, LEARNED = 2.0, 3.0
# Of `recycle`: what the choice of checkpoint and knobs depends on.
SEARCH_SETTINGS = (
    *("search_steps", "search_images", "search_rungs", "search_tolerance"),
    *("tuning_budget", "tune_balances", "tune_filters", "refuse_collapsed"),
    *("metric", "views", "temperature", "balance", "filter"),
)


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
        # Whose images score the candidates; an ablation may put others in its place to show what leakage is worth.
        self.judge = data.val
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
            """Train on the site's real images."""
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
        return list(self.generator_info()["steps"])

    def generator_info(self) -> dict[str, Any]:
        """Train the generator, or read what is known of it: ``steps`` of its checkpoints and ``seconds`` it took."""
        done = self.stages.path("generator", self._generator_key())
        if done.exists():
            return read_artifact(done).info
        state_path = self.stages.path("generator-state", self._generator_key())
        state = read_artifact(state_path) if state_path.exists() else None
        known = {} if state is None else state.info
        info: dict[str, Any] = {"steps": list(known.get("steps", [])), "seconds": known.get("seconds", 0.0)}
        generator, before, started = self.build_generator(), info["seconds"], time.perf_counter()

        def save(step: int, artifact: Artifact) -> None:
            """Write the checkpoint that draws, and the state that a killed training goes on from."""
            write_artifact(self._checkpoint_path(step), generator.prune(artifact))
            info["steps"].append(step)
            info["seconds"] = before + time.perf_counter() - started
            write_artifact(state_path, Artifact(artifact.tensors, artifact.info | info))

        train = self.data.train.subset(np.flatnonzero(np.isin(self.data.train.labels, self.kept)))
        if not len(train):
            least = self.study.recycle.min_class_count
            raise UserError(f"no class has {least} training images; lower recycle.min_class_count={least}")
        generator.fit(train, seed=self.seed("generator"), progress=self.progress, save=save, state=state)
        write_artifact(done, Artifact({}, info))
        state_path.unlink(missing_ok=True)
        return info

    def checkpoint(self, step: int) -> Artifact:
        """Read a checkpoint of the generator from its file, the same for fresh and resumed runs."""
        return read_artifact(self._checkpoint_path(step))

    def choose(self) -> dict[str, Any]:
        """Checkpoint Optimisation, then Tuning.

        Returns:
            ``checkpoint``, ``knobs``, every tried score, ``recalls`` of the winner's student, ``seconds`` it took.

        A site with one class has nothing to score by: it keeps the last checkpoint and the default knobs.

        Raises:
            UserError: the generator collapsed, so that it must not be released.
        """
        return self.stages.run("choice", self.choice_key(), self._search).info

    def _search(self) -> Artifact:
        checkpoints, generator = sorted(self.generator_checkpoints()), self.build_generator()
        started, knobs, best = time.perf_counter(), generator.default_knobs(), max(checkpoints)
        rows: dict[str, list[Any]] = {"checkpoints": [], "tuning": [], "recalls": []}
        if len(self.kept) > 1:
            scorer = CandidateScorer(
                self.study, self.data, self.labeller(), self.seed("search"), self.runtime, self.progress, self.judge
            )
            best, score = self._best_checkpoint(scorer, generator, checkpoints, rows["checkpoints"])
            generator.load(self.checkpoint(best))
            knobs, score = self._tune(scorer, generator, score, rows["tuning"])
            rows["recalls"] += score.recalls
        seconds = time.perf_counter() - started
        return Artifact({}, {"checkpoint": best, "knobs": knobs, **rows, "seconds": seconds})

    def _best_checkpoint(
        self, scorer: CandidateScorer, generator: Generator, checkpoints: list[int], rows: list[dict[str, Any]]
    ) -> tuple[int, Score]:
        """Checkpoint Optimisation; return the chosen checkpoint's step and its score."""
        recycle, knobs, trials = self.study.recycle, generator.default_knobs(), []
        for step in checkpoints:
            generator.load(self.checkpoint(step))
            trials.append(scorer.trial(generator, knobs, f"checkpoint {step}"))
        # With a tolerance the last checkpoint is taken unless it is clearly worse: it must not be dropped half-way.
        results = halve(trials, recycle.search_steps, recycle.search_rungs, spare_last=recycle.search_tolerance > 0)
        rows += [{"step": s, **score.as_row()} for s, (score, _) in zip(checkpoints, results, strict=True)]
        self._refuse_collapsed([score for score, _ in results])
        chosen = choose_checkpoint(results, recycle.search_tolerance, self.judge.labels)
        return checkpoints[chosen], results[chosen][0]

    def _refuse_collapsed(self, scores: list[Score]) -> None:
        """Raise :class:`UserError` when no checkpoint teaches anything, though the site's data can be learned."""
        known = [score.auc for score in scores if score.auc is not None]
        teacher = self.teacher().info.get("auc")
        if not self.study.recycle.refuse_collapsed or not known or teacher is None:
            return
        chance, deviation = chance_auc(self.judge.labels)
        if max(known) <= chance + COLLAPSED * deviation and teacher > chance + LEARNED * deviation:
            kind, steps = self.study.generator.kind, self.study.generator.steps
            raise UserError(
                f"the {kind} generator collapsed: students of its images reach a val AUC of {max(known):.2f} at best "
                f"(chance {chance} +- {deviation:.2f}), the teacher {teacher:.2f}; nothing is released. "
                f"Lower generator.options.lr, raise generator.steps={steps}, or take another generator "
                "(recycle.refuse_collapsed=false releases it all the same)"
            )

    def _tune(
        self, scorer: CandidateScorer, generator: Generator, score: Score, rows: list[dict[str, Any]]
    ) -> tuple[Knobs, Score]:
        """Tuning, one kind of knob after the other, as GaFi does: the generator's own, class shares, filter."""
        recycle, knobs = self.study.recycle, generator.default_knobs()
        own = generator.knob_candidates()[: recycle.tuning_budget]
        stages: list[list[Knobs]] = [
            own,
            [{"balance": BALANCES[name]} for name in recycle.tune_balances],
            [{"filter": threshold} for threshold in recycle.tune_filters],
        ]
        for stage, changes in enumerate(stages):
            candidates = [change if stage == 0 else knobs | change for change in changes]
            fresh = [candidate for candidate in candidates if candidate != knobs]
            trials = [scorer.trial(generator, c, f"tuning {len(rows) + i + 1}") for i, c in enumerate(fresh)]
            if not trials:
                continue
            # What is known to work was trained to the end already: it meets the winner of the new ones.
            tried, results = [knobs, *fresh], [(score, recycle.search_steps)]
            results += halve(trials, recycle.search_steps, recycle.search_rungs)
            rows += [{"knobs": k, **s.as_row()} for k, (s, _) in zip(tried, results, strict=True)]
            chosen = best_of(results)
            knobs, score = tried[chosen], results[chosen][0]
        return knobs, score

    def release(self, round_number: int, max_images: int | None = None) -> Release:
        """Return the release of a round: fresh images from the chosen generator, labelled by the teacher.

        Args:
            round_number: 1, 2, ...: part of the seed of the noise.
            max_images: the site policy's cap on images in one release, None for none.
        """
        key = self.choice_key() | {"round": round_number, "max_images": max_images}
        recycle = self.study.recycle
        key |= {name: getattr(recycle, name) for name in ("rounds", "ratio", "exchange")}
        return Release.from_artifact(
            self.stages.run("release", key, lambda: self._regenerate(round_number, max_images).as_artifact())
        )

    def slices(self, max_images: int | None) -> tuple[int, int]:
        """Return into how many slices a release divides, and how many images each has.

        Raises:
            UserError: the cap ``max_images`` leaves no image for each slice.
        """
        recycle = self.study.recycle
        slices = recycle.rounds if recycle.exchange == "once" else 1
        count = max(1, round(recycle.ratio * len(self.data.train)))
        if max_images is not None:
            count = min(count, max_images // slices)
            if not count:
                raise UserError(
                    f"the policy's max_images={max_images} is less than one image a slice ({slices} slices)"
                )
        return slices, count

    def _regenerate(self, round_number: int, max_images: int | None) -> Release:
        choice, teacher, generator = self.choose(), self.teacher().info, self.build_generator()
        generator.load(self.checkpoint(choice["checkpoint"]))
        recycle, (slices, count) = self.study.recycle, self.slices(max_images)
        rng, balance = numpy_rng(*self.seed("labels"), round_number), choice["knobs"].get("balance", recycle.balance)
        labels = np.concatenate(
            [release_labels(self.data.train, count, balance, recycle.min_class_count, rng) for _ in range(slices)]
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
            "recalls": choice.get("recalls", []),
            "teacher": {"step": teacher["step"], "val_accuracy": teacher.get("accuracy", 1.0)},
        }
        return Release(images, normalised_float16(soft), manifest)

    def _draw(
        self, generator: Generator, knobs: Knobs, labels: NDArray[np.int64], round_number: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.floating]]:
        labeller, seed = self.labeller(), (*self.seed("regenerate"), round_number)

        def draw(wanted: NDArray[np.int64], *more: object) -> SoftSet:
            """Draw an image for each wanted class and label it, batch by batch."""
            images, soft, done = [], [], 0
            for batch in generator.sample(wanted, sampling_knobs(knobs), *seed, *more):
                images.append(batch)
                soft.append(labeller(batch, *seed, *more, done))
                done += len(batch)
                self.progress.update("regenerate", done, len(wanted), unit="image")
            return np.concatenate(images), np.concatenate(soft)

        threshold = knobs.get("filter", self.study.recycle.filter)
        drawn = confident(*draw(labels), labels, threshold, draw)
        self.progress.finish("regenerate")
        return drawn

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

    def choice_key(self) -> dict[str, Any]:
        """Return all that the choice of checkpoint and knobs depends on."""
        recycle = self.study.recycle
        return (
            self._teacher_key()
            | self._generator_key()
            | {"student": dataclasses.asdict(self.study.student), "ratio": recycle.ratio}
            | {"judge": content_digest(self.judge)}
            | {name: getattr(recycle, name) for name in SEARCH_SETTINGS}
        )


def normalised_float16(soft: NDArray[np.floating]) -> NDArray[np.float16]:
    """Return float16 rows that sum to one as nearly as float16 can."""
    return (soft / soft.sum(axis=1, keepdims=True)).astype(np.float16)
