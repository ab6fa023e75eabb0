"""One site's Knowledge Recycling, in order: Teacher, Generator, Checkpoint Optimisation, Tuning, Release.

Each step is a stage on disk, keyed by all that it depends on: a restart continues behind the last finished one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkr.config import Study, may_choose
from fedkr.data.images import ImageSet, Shape, SiteData, content_digest
from fedkr.errors import UserError
from fedkr.generators import Generator, Knobs, build_generator
from fedkr.generators.base import foreign_code, may_draw_nearer
from fedkr.learning.job import Job
from fedkr.learning.prediction import predict_features
from fedkr.learning.runtime import Runtime
from fedkr.learning.training import DivergedError
from fedkr.progress import Progress, SilentProgress
from fedkr.recycle.doubt import doubted_classes
from fedkr.recycle.drawer import BALANCES, Drawer, Labeller, own_knobs
from fedkr.recycle.quality import MOST_IMAGES, Quality, likeness, recognised
from fedkr.recycle.search import (
    CandidateScorer,
    Score,
    best_of,
    chance_auc,
    choose_checkpoint,
    halve,
    shortfall,
)
from fedkr.recycle.teacher import SoftLabeller, load_teacher, train_teacher
from fedkr.recycle.terms import NO_TERMS, Counted, Terms
from fedkr.recycle.tuned import train_tuned, tuning_key
from fedkr.release import Release
from fedkr.seeds import numpy_rng
from fedkr.stages import Artifact, StageStore, read_artifact, write_artifact

# In standard deviations of chance: no checkpoint above the first while the teacher is above the second is a collapse.
COLLAPSED, LEARNED = 2.0, 3.0
# What decides which images a site has and what it does with its models: of the images themselves the keys have digests,
# of device and precision what they came to. Everything else is in every key, unless a stage names it as irrelevant.
OF_NO_STAGE = (
    *("backend", "out", "run_dir", "device", "precision", "federation", "strategy", "audit"),
    *("data", "data_digest", "partition", "split", "budget", "facts"),
)
# What a release does with the choice of checkpoint and knobs.
OF_RELEASES = ("recycle.rounds", "recycle.exchange")


class SitePipeline:
    """Knowledge Recycling on one site's data.

    Args:
        site: the site's name; part of every seed.
        data: the private splits; the holdout is never read here.
        job: runtime, progress and mirror images; its seed begins every stage's (:func:`site_job`).
        terms: what the site's policy asks of every release.
    """

    def __init__(
        self, site: str, data: SiteData, study: Study, stages: StageStore, job: Job, terms: Terms = NO_TERMS
    ) -> None:
        self.site, self.data, self.study, self.stages, self.job = site, data, study, stages, job
        self.terms = dataclasses.replace(terms, withheld=data.rare)
        counts, least = data.train.class_counts(), study.recycle.min_class_count
        self.kept = np.flatnonzero(counts >= least)
        few = np.union1d(np.flatnonzero((counts > 0) & (counts < least)), data.rare).astype(int)
        self.left_out = [data.train.classes[k] for k in few]
        # Whose images score the candidates; an ablation may put others in its place to show what leakage is worth.
        self.judge = data.val
        self._given = {
            "site": site,
            "train": content_digest(data.train),
            "val": content_digest(data.val),
            "foreign_code": foreign_code(study.generator),
            **job.describe(),
        }

    def key(self, *irrelevant: str) -> dict[str, Any]:
        """Return what a stage of this pipeline depends on: everything but the options that are ``irrelevant``."""
        return {"options": self.study.options(*OF_NO_STAGE, *irrelevant), **self._given}

    def own_model(self) -> Artifact:
        """Train the site's own classifier on its real images, tuned on val by the comparison's rule; it never leaves.

        ``info`` is that of :func:`fedkr.recycle.tuned.train_tuned`.
        """
        train, val = self.data.train, self.data.val
        key = self.key("generator", "recycle") | {"tuning": tuning_key(self.study, len(val))}
        return self.stages.run(
            "local", key, lambda: train_tuned(self.study, train, val, self.job.seeded("local"), "own model")
        )

    def teacher(self) -> Artifact:
        """Train the teacher, or read it."""
        work = lambda: train_teacher(self.study.teacher, self.data, self.job.seeded("teacher"))  # noqa: E731
        return self.stages.run("teacher", self._teacher_key(), work)

    def labeller(self) -> SoftLabeller:
        """Return what labels synthetic images: the teacher at its calibrated temperature times the study's."""
        artifact, recycle = self.teacher(), self.study.recycle
        teacher = load_teacher(self.study.teacher, self.data, artifact, self.job.runtime)
        temperature = recycle.temperature * artifact.info["temperature"]
        return SoftLabeller(teacher, temperature, recycle.views, self.study.teacher.augment, self.job)

    @property
    def has_generator(self) -> bool:
        """Whether the generator is trained: what is asked of it costs seconds then, and no more hours."""
        return self.stages.path("generator", self._generator_key()).exists()

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

        train = self.generator_images()
        if not len(train):
            least = self.study.recycle.min_class_count
            raise UserError(f"no class has {least} training images; lower recycle.min_class_count={least}")
        generator.fit(train, self.generator_job(), save, state)
        write_artifact(done, Artifact({}, info))
        state_path.unlink(missing_ok=True)
        return info

    def checkpoint(self, step: int) -> Artifact:
        """Read a checkpoint of the generator from its file, the same for fresh and resumed runs."""
        return read_artifact(self._checkpoint_path(step))

    def choose(self) -> dict[str, Any]:
        """Checkpoint Optimisation, then Tuning.

        Return ``checkpoint``, ``knobs``, every tried score, ``recalls`` of the winner's student, by how much less it
        taught than ``real`` images, ``seconds`` it took, and whether val chose (``by_val``). It does not where it is
        too small, or the site has one class only: then these are the last checkpoint and the default knobs, scored all
        the same where that can be, to tell a collapse.

        Raises:
            UserError: the generator collapsed, so that it must not be released.
        """
        return self.stages.run("choice", self.choice_key(), self._search).info

    def _search(self) -> Artifact:
        checkpoints, generator = sorted(self.generator_checkpoints()), self.build_generator()
        started, knobs, best = time.perf_counter(), generator.default_knobs(), max(checkpoints)
        rows: dict[str, list[Any]] = {"checkpoints": [], "tuning": [], "recalls": []}
        compared: dict[str, Any] = {}
        by_val = len(self.kept) > 1 and may_choose(len(self.judge))
        if len(self.kept) > 1:
            checkpoints = checkpoints if by_val else [best]
            scorer = CandidateScorer(
                self.study, self.data.train, self.judge, self.labeller(), self.job.seeded("search"), self.doubted()
            )
            best, score = self._best_checkpoint(scorer, generator, checkpoints, rows["checkpoints"])
            generator.load(self.checkpoint(best))
            if by_val:
                knobs, score = self._tune(scorer, generator, score, rows["tuning"])
                # A student of real images that diverges compares with nothing, and stops nothing.
                with contextlib.suppress(DivergedError):
                    compared["real"] = shortfall(score, scorer.of_real_images(), self.judge.labels)
            rows["recalls"] += score.recalls
        found = {"checkpoint": best, "knobs": knobs, "by_val": by_val, **rows, **compared}
        return Artifact({}, found | {"seconds": time.perf_counter() - started})

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

        The round, 1, 2, ..., is part of the seed of the noise; ``max_images`` is the site policy's cap on one release.
        """
        key = self._release_key(round_number, max_images)
        return Release.from_artifact(
            self.stages.run("release", key, lambda: self._regenerate(round_number, max_images).as_artifact())
        )

    def near_copies(self, round_number: int, max_images: int | None) -> Counted:
        """Return how many near-copies the release of a round cost: figures for the site alone."""
        path = self.stages.path("near-copies", self._release_key(round_number, max_images))
        return Counted(**read_artifact(path).info) if path.exists() else Counted()

    def doubted(self) -> frozenset[int]:
        """Return the classes that the teacher doubts of the last checkpoint's images: all sets draw them nearer."""
        if not self.study.recycle.doubt:
            return frozenset()
        return frozenset(self.stages.run("doubted", self.key(*OF_RELEASES), self._ask_teacher).info["classes"])

    def _ask_teacher(self) -> Artifact:
        generator, counts = self.build_generator(), self.class_counts()
        generator.load(self.checkpoint(max(self.generator_checkpoints())))
        quiet = dataclasses.replace(self.job, progress=SilentProgress())
        found = doubted_classes(generator, counts, self.study.recycle, self.labeller(), quiet)
        return Artifact({}, {"classes": sorted(found)})

    def drawn_nearer(self) -> list[str]:
        """Return the classes that a release draws nearer, as the teacher doubts them: for the site alone."""
        if not (doubted := self.doubted()):
            return []
        # All classes are drawn so where tuning chose the firmer knobs.
        nearer = may_draw_nearer(self.build_generator(), own_knobs(self.choose()["knobs"]))
        return [self.data.train.classes[k] for k in sorted(doubted)] if nearer else []

    def _release_key(self, round_number: int, max_images: int | None) -> dict[str, Any]:
        terms = {"digits": self.terms.digits, "classes": self.terms.classes, **self.terms.names}
        return self.choice_key() | self.key() | {"round": round_number, "max_images": max_images, "terms": terms}

    def releases(self, max_images: int | None) -> list[Release]:
        """Return the release of each exchange (:meth:`release`)."""
        return [self.release(number + 1, max_images) for number in range(self.study.recycle.exchanges)]

    def slices(self, max_images: int | None) -> tuple[int, int]:
        """Return into how many slices a release divides, and how many images each has.

        Raise :class:`UserError` where the cap ``max_images`` leaves no image for each slice.
        """
        recycle = self.study.recycle
        slices = recycle.rounds // recycle.exchanges
        count = max(1, round(recycle.ratio * int(self.class_counts().sum())))
        if max_images is not None:
            count = min(count, max_images // slices)
            if not count:
                raise UserError(
                    f"the policy's max_images={max_images} is less than one image a slice ({slices} slices)"
                )
        return slices, count

    def class_counts(self) -> NDArray[np.int64]:
        """Return int64 ``[K]``: how many training images of each class a release's size and class shares follow."""
        return self.data.train.class_counts()

    def undrawn(self) -> NDArray[np.intp]:
        """Return the indices of the classes that no released image is drawn of: few of their images, or none."""
        return np.setdiff1d(np.arange(len(self.data.train.classes)), self.kept)

    def drawer(self, seeded: str) -> Drawer:
        """Return the Drawer of the chosen checkpoint and knobs; ``seeded`` is part of the seed of all that it draws."""
        choice, generator, job = self.choose(), self.build_generator(), self.job.seeded(seeded)
        generator.load(self.checkpoint(choice["checkpoint"]))
        counts, labeller = self.class_counts(), self._release_labeller()
        return Drawer(generator, choice["knobs"], counts, self.study.recycle, labeller, job, self.doubted())

    def _release_labeller(self) -> Labeller | None:
        return self.labeller()

    def _regenerate(self, round_number: int, max_images: int | None) -> Release:
        drawer = self.drawer("regenerate")
        asked = self._asked(drawer, round_number, max_images)
        (images, soft), counted = self.terms.draw(drawer, asked, round_number)
        found = self.stages.path("near-copies", self._release_key(round_number, max_images))
        write_artifact(found, Artifact({}, vars(counted)))
        slices, _ = self.slices(max_images)
        manifest = self.manifest() | {"round": round_number, "slices": slices, "count": len(images)}
        return Release(images, self.terms.labels(soft), manifest)

    def _asked(self, drawer: Drawer, round_number: int, max_images: int | None) -> NDArray[np.int64]:
        """Return int64 ``[N]``: the class that each image of a round's release is drawn for."""
        (slices, count), rng = self.slices(max_images), numpy_rng(*self.job.seed, "labels", round_number)
        return np.concatenate([drawer.classes(count, rng) for _ in range(slices)])

    def quality(self, round_number: int, max_images: int | None) -> dict[str, Any]:
        """Return what the site can tell of a round's release before it sends it; nothing where it has a guarantee.

        Those are the figures of :class:`~fedkr.recycle.quality.Quality`, and under ``real`` how much less the release
        taught in the search than as many real images do (:func:`~fedkr.recycle.search.shortfall`), where val can say.
        Of one class there is nothing to tell.
        """
        if len(self.kept) < 2:
            return {}
        work = lambda: Artifact({}, self._measured(round_number, max_images).as_row())  # noqa: E731
        found = self.stages.run("quality", self._release_key(round_number, max_images), work).info
        choice = self.choose()
        return found | ({"real": choice["real"]} if "real" in choice else {})

    def _measured(self, round_number: int, max_images: int | None) -> Quality:
        release, real = self.release(round_number, max_images), self.generator_images()
        asked = self._asked(self.drawer("regenerate"), round_number, max_images)
        rng, teacher = numpy_rng(*self.job.seed, "quality", round_number), self.labeller().teacher
        real = real.subset(np.sort(rng.permutation(len(real))[:MOST_IMAGES]))
        drawn = release.images[np.sort(rng.permutation(len(release))[:MOST_IMAGES])]
        sides = [predict_features(teacher, images, self.job.runtime) for images in (real.images, drawn)]
        shares = recognised(asked, release.soft_labels, len(real.classes))
        return Quality(*likeness(sides[0], real.groups, sides[1], rng), shares)

    def guarantee(self) -> dict[str, Any] | None:
        """Return what holds of all releases together, as the manifest has it; None where nothing is promised."""
        return None

    def manifest(self) -> dict[str, Any]:
        """Return what a release says of how it was made."""
        choice, teacher = self.choose(), self.teacher().info
        return {
            "site": self.site,
            "left_out": self.left_out,
            "knobs": choice["knobs"],
            "checkpoint": choice["checkpoint"],
            "scores": {name: choice[name] for name in ("checkpoints", "tuning")},
            "recalls": choice.get("recalls", []),
            "by_val": int(choice["by_val"]),
            "teacher": {"step": teacher["step"], "val_accuracy": teacher.get("accuracy", 1.0)},
        }

    def build_generator(self) -> Generator:
        """Return the untrained generator of this study and data."""
        return build_generator(self.study.generator, Shape.of(self.data.train), self.job, self.study.privacy)

    def generator_images(self) -> ImageSet:
        """Return the images that the generator is fitted to: those of the classes that have enough."""
        train = self.data.train
        return train.subset(np.flatnonzero(np.isin(train.labels, self.kept)))

    def generator_job(self) -> Job:
        """Return the job that the generator is fitted by."""
        return self.job.seeded("generator")

    def _checkpoint_path(self, step: int) -> Path:
        return self.stages.path(f"generator-{step}", self._generator_key())

    def _teacher_key(self) -> dict[str, Any]:
        return self.key("student", "generator", "recycle")

    def _generator_key(self) -> dict[str, Any]:
        # Of `recycle` only the least class count chooses what the generator sees.
        return self.key("student", "teacher", "recycle") | {"least": self.study.recycle.min_class_count}

    def choice_key(self) -> dict[str, Any]:
        """Return all that the choice of checkpoint and knobs depends on."""
        return self.key(*OF_RELEASES) | {"judge": content_digest(self.judge)}


def site_job(study: Study, site: str, runtime: Runtime, progress: Progress) -> Job:
    """Return the job of a site's pipeline under a study."""
    return Job(runtime, progress, study.data.flip, (study.seed, site))
