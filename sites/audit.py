"""What only an audit needs at a site: reference models, attacks on its own images, and the scores that stay here."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedkr.audit.attacks.observed import Bools, Floats, Observed
from fedkr.audit.attacks.quantile import Described, describe_images
from fedkr.audit.attacks.queries import Queries
from fedkr.audit.attacks.with_references import (
    ReferenceModels,
    ReferenceSignals,
    observed_confidence,
    reference_signals,
)
from fedkr.audit.challenge import Challenge, candidates, site_challenge, site_population
from fedkr.audit.control import train_control, train_planted
from fedkr.audit.copies import ReleaseCopies, check_copies
from fedkr.audit.counted import Counted, Uncounted
from fedkr.audit.document import Pair
from fedkr.audit.findings import AuditReport, Row
from fedkr.audit.references.direct import reference_halves, reference_task, train_references
from fedkr.audit.references.shadows import PipelineShadows, scaled_steps, sites_with
from fedkr.audit.rounds import PooledRounds
from fedkr.audit.run import AskedRounds, Knowledge, Predict, answers_of, audit_model
from fedkr.audit.run_release import ReferenceReleases, audit_release
from fedkr.audit.statistics.blind import blind_baseline
from fedkr.audit.statistics.class_shares import class_shares_p_value
from fedkr.audit.statistics.paired import PairedDifference, paired_difference
from fedkr.audit.subject import Subject
from fedkr.audit.targets import (
    CONTROL,
    OF_ONE_SITE,
    OF_RELEASES,
    OF_WEIGHTS,
    PLANTED_CONTROL,
    RELEASE,
    RELEASED,
    row_key,
)
from fedkr.audit.verdict import NEEDS_PIPELINE
from fedkr.config import StudentConfig, Study
from fedkr.data import ImageSet, content_digest
from fedkr.data.images import Shape
from fedkr.errors import UserError
from fedkr.learning.models import load_classifier
from fedkr.learning.prediction import predict_logits
from fedkr.learning.public_features import features_by
from fedkr.recycle.distill import distill_student, for_union
from fedkr.release import Release, ReleasedSets, SoftSet
from fedkr.seeds import derive_seed, numpy_rng
from fedkr.stages import Artifact, StageStore, model_tensors, read_artifact, write_artifact
from sites.coarse import finite
from sites.findings import public_config
from sites.secret import keyed
from sites.workspace import Site

logger = logging.getLogger(__name__)
REPORT_FILE = "audit.html"
# What kinds of models differ in, of the student's recipe.
BY_KIND = ("components", "logit_adjustment")


class SiteAudit:
    """One site's side of an audit; every reference model and score is a stage in its workspace."""

    def __init__(self, site: Site) -> None:
        self.site, self.study, audit = site, site.study, site.study.audit
        permutations = audit.permutations_for(self.study.federation.sites)
        self.config = dataclasses.replace(audit, permutations=permutations)
        self.pipeline, self.stages = site.pipeline, site.pipeline.stages
        self.challenge = site_challenge(site.data)
        self.candidates = candidates(self.challenge)

    @cached_property
    def seed(self) -> int:
        """Seed of all that an audit draws; a hospital's server cannot know it.

        Whoever knew which images a resample or a guess is of would learn about single ones from figures of many.
        """
        if not self.site.policy.coarse:
            return self.study.seed
        return int.from_bytes(keyed(self.site.records, f"audit\0{self.study.seed}".encode())[:6], "big")

    @cached_property
    def population(self) -> ImageSet:
        """Images that no model trained on: what RMIA compares the candidates with."""
        return site_population(self.site.data, self.challenge)

    def _uncounted(self, kind: str) -> Uncounted:
        # With a guarantee, which classes are drawn is known of a trained generator only: other kinds ask for none.
        undrawn = self.pipeline.undrawn().tolist() if kind in OF_RELEASES else []
        return Uncounted(undrawn, None if self.site.elsewhere is None else self.site.elsewhere())

    @cached_property
    def _counted(self) -> dict[str, Counted]:
        return {}

    @cached_property
    def _challenges(self) -> dict[str, Challenge]:
        return {}

    def counted(self, kind: str) -> Counted:
        """Return which candidates count for a kind of target."""
        if kind not in self._counted:
            self._counted[kind] = self._uncounted(kind).counted(self.challenge, kind)
        return self._counted[kind]

    def challenge_of(self, kind: str) -> Challenge:
        """Return the challenge of the candidates that count for a kind of target, :class:`UserError` where none do."""
        if kind not in self._challenges:
            self._challenges[kind] = self.counted(kind).of(self.challenge)
        return self._challenges[kind]

    def keep_others(self, others: ReleasedSets | None) -> None:
        """Keep the other sites' releases for the references of pooled models; None forgets earlier ones."""
        write_artifact(_others_path(self.stages, self.study), Artifact() if others is None else others.as_artifact())

    @cached_property
    def others(self) -> ReleasedSets | None:
        """The other sites' releases, None where the server sent none."""
        return kept_others(self.stages, self.study)

    def train_references(self, kind: str) -> list[ReferenceSignals]:
        """Return what the reference models for a kind of target answer, training those that are not there yet."""
        if not self.config.uses_references:
            return []
        others = None if kind in OF_ONE_SITE else self.others
        # A release has no model that classifiers could stand beside, but pipelines make releases like it.
        found = [] if kind == RELEASE else [self._direct(others, kind)]
        if self.config.pipeline_references and kind in (*NEEDS_PIPELINE, RELEASE):
            found.append(self._pipeline(others))
        return found

    def control(self, kind: str) -> Artifact:
        """Return a positive control of the site's own (:mod:`fedkr.audit.control`), training it if it is not there."""
        members, student, job = self.challenge.members, self.study.student, self.pipeline.job.seeded(kind)
        key = self.pipeline.key("teacher", "generator", "recycle") | {"members": content_digest(members)}
        if kind == CONTROL:
            return self.stages.run(kind, key, lambda: Artifact(model_tensors(train_control(student, members, job))))
        released = ReleasedSets.of_releases(self.releases())
        key |= {"released": released.digest()}
        train = partial(train_planted, student, released, members, job)
        return self.stages.run(kind, key, lambda: Artifact(model_tensors(train())))

    def report(self, target: str, model: nn.Module, kind: str = "") -> AuditReport:
        """Attack a model (see :meth:`attack`); nothing is kept."""
        references = self.train_references(kind or target)
        population = self.population if self.config.uses_population else None
        predict: Predict = partial(self._predict, model)
        if isinstance(model, PooledRounds):
            predict = AskedRounds(partial(self._predict, model.before), predict)
        known = Knowledge(references, population, self.study.data.flip, self._describe)
        return audit_model(predict, self._subject(target, kind), known, self.site.pipeline.job.progress)

    def _describe(self, population: ImageSet, candidates: ImageSet) -> Described:
        """Return what images show, described once for all targets: each comes with a message of its own."""
        key = {name: content_digest(part) for name, part in (("known", population), ("asked", candidates))}

        def describe() -> Artifact:
            found = vars(describe_images(population, candidates))
            return Artifact({name: torch.from_numpy(rows) for name, rows in found.items()})

        kept = self.stages.run("described", key, describe).tensors
        return Described(**{name: rows.numpy() for name, rows in kept.items()})

    def _predict(self, model: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits = predict_logits(model, images, self.site.runtime)
        # Whether a hospital answers at all must not hang on one image.
        return finite(logits) if self.site.policy.coarse else logits

    def attack(self, target: str, model: nn.Module, about: str = "", kind: str = "") -> AuditReport:
        """Attack a model, on the runtime's device, and keep the scores of single images here.

        ``about`` is a digest of its weights, empty for the site's own models; ``kind`` where the name does not say it.

        Raises:
            UserError: a target whose name is none, or a model that cannot be audited.
        """
        path = self._scores_path(target, about)
        report = self.report(target, model, kind)
        self._keep_scores(report, path)
        return report

    def attack_releases(self) -> tuple[AuditReport, ReleaseCopies]:
        """Attack all that the site released, and check it for copies of members."""
        released = self.releases(), self.population, self._subject(RELEASE)
        features = features_by(self.config.features, self.site.runtime)
        try:
            report = audit_release(*released, self._reference_releases(), self._auxiliary(), features)
        except UserError as error:
            # What needs no references goes on without them, as it does for models.
            logger.warning("a release is attacked without references: %s", error)
            report = audit_release(*released, features_of=features)
        self._keep_scores(report, self._scores_path(RELEASE, ""))
        return report, self._copies()

    def _reference_releases(self) -> list[ReferenceReleases]:
        """Return what the other sites released, where it was sent, and what pipelines on halves of the images did."""
        found, count = list[ReferenceReleases](), self.config.pipeline_references
        if not self.config.uses_references:
            return found
        if (others := self.others) is not None:
            nobody = np.zeros((1, len(self.candidates)), bool)
            found.append(ReferenceReleases(RELEASED, [lambda: others.arrays()[0]], nobody))
        if count:
            shadows = self.shadows(count)
            sets = [partial(_release_of, shadows, m) for m in range(count)]
            found.append(ReferenceReleases("pipeline", sets, shadows.membership))
        return found

    def _auxiliary(self) -> Observed | None:
        """Return what a student of the site's own releases says of the candidates, beside the pipelines' students.

        The site trains it, so that what a classifier learns of the release depends on no weights that a server sends.
        """
        signals = [found for found in self.train_references(RELEASE) if found.kind == "pipeline"]
        if not signals:
            return None
        queries = Queries(self.config.queries, self.study.data.flip)
        answers = answers_of(partial(self._predict, self.own_student()), self.challenge, queries)
        return observed_confidence(answers, signals[0])

    def own_student(self) -> nn.Module:
        """Return a student of the site's own releases, training it if it is not there: what anybody could make."""
        released, job = ReleasedSets.of_releases(self.releases()), self.pipeline.job.seeded("auxiliary")
        key = self.pipeline.key("teacher", "generator", "recycle") | {"released": released.digest()}
        train = partial(distill_student, self.study.student, released, job, "student of the own releases")
        kept = self.stages.run("auxiliary", key, lambda: Artifact(model_tensors(train())))
        return load_classifier(self.study.student, Shape.of(self.candidates), kept.tensors, self.site.runtime)

    def _subject(self, target: str, kind: str = "") -> Subject:
        counted = self.counted(kind or target)
        config = public_config(self.site, self.config, self.challenge_of(kind or target))
        return Subject(target, self.site.name, self.challenge, config, self.seed, kind, counted)

    def releases(self) -> list[Release]:
        """Return all that the site released, as its policy has it."""
        return self.pipeline.releases(self.site.most_images)

    def _copies(self) -> ReleaseCopies:
        releases, challenge = self.releases(), self.challenge_of(RELEASE)
        key = {
            "site": self.site.name,
            "seed": self.seed,
            "releases": ReleasedSets.of_releases(releases).digest(),
            "candidates": content_digest(candidates(challenge)),
        }

        def check() -> Artifact:
            return check_copies(releases, challenge, site=self.site.name, seed=self.seed).as_artifact()

        return ReleaseCopies.from_artifact(self.stages.run("copies", key, check))

    def _keep_scores(self, report: AuditReport, path: Path) -> None:
        scores = {name: torch.from_numpy(values) for name, values in report.scores.items()}
        known = {"target": report.target, **self._scored, "rows": report.rows}
        write_artifact(path, Artifact(scores, known | {"uncounted": np.flatnonzero(~report.counted).tolist()}))

    @cached_property
    def _scored(self) -> dict[str, str]:
        """What scores are of: this study, and the images as they are now."""
        return {"study": self.study.identity(), "candidates": content_digest(self.candidates)}

    def write_report(self) -> Path:
        """Write ``audit.html`` into the workspace: the most exposed images and closest copies, for the site alone."""
        # Imported here: every process of a site would load matplotlib for it.
        from fedkr.report.pages.site_audit import write_local_report

        reports = self._kept_reports()
        copies = self._copies() if any(report.target == RELEASE for report in reports) else None
        path = self.stages.folder.parent / REPORT_FILE
        return write_local_report(path, self.site.name, reports, self.challenge, copies)

    def _kept_reports(self) -> list[AuditReport]:
        """Return this study's reports on the images as they are, with single scores, each target's latest."""
        found: dict[str, AuditReport] = {}
        for path in sorted(self.stages.folder.glob("scores-*.safetensors"), key=lambda path: path.stat().st_mtime_ns):
            kept = read_artifact(path)
            if self._scored.items() <= kept.info.items():
                target, scores = kept.info["target"], {name: t.numpy() for name, t in kept.tensors.items()}
                found[target] = AuditReport(target, kept.info["rows"], scores=scores, counted=self._counted_in(kept))
        return [found[target] for target in sorted(found)]

    def _counted_in(self, kept: Artifact) -> Bools:
        """Return of which natural images the figures beside kept scores are, bool ``[N]``."""
        return ~np.isin(np.arange(self.challenge.natural), kept.info["uncounted"])

    def compare(self, pair: Pair) -> tuple[Row, int]:
        """Return the difference of an attack's AUCs on two targets, and the members or non-members that count for both.

        Of the two numbers it is the smaller one. There may be many pairs, so that no image is copied for one.

        Raises:
            UserError: one of the targets was not attacked, or no image counts for both.
        """
        key = row_key(pair.attack, pair.references)
        first, second = self._kept(key, pair.target, pair.about), self._kept(key, pair.other, pair.other_about)
        counted = self._counted_in(first) & self._counted_in(second)
        scores = first.tensors[key].numpy(), second.tensors[key].numpy()
        found = self.difference(*scores, counted, "audit", "paired")
        members, others, _ = self.challenge.kept(counted)
        return pair.names(self.site.name) | vars(found), min(len(members), len(others))

    def difference(self, first: Floats, second: Floats, counted: Bools, *seed: object) -> PairedDifference:
        """Return the difference of the AUCs of two attacks' scores, float ``[N]``, on the images that count.

        ``N`` are members and non-members, ``counted`` is bool ``[N]``. No image is copied. ``seed`` draws resamples.
        """
        members, _, _ = self.challenge.kept(counted)
        groups = self.candidates.groups
        return paired_difference(
            first[counted],
            second[counted],
            len(members),
            self.config.bootstrap,
            derive_seed(self.seed, self.site.name, *seed),
            None if groups is None else groups[: self.challenge.natural][counted],
        )

    def blind(self) -> Row:
        """Return whether members and non-members differ without any model."""
        seed = derive_seed(self.seed, self.site.name)
        found = blind_baseline(*self.challenge.sides, seed, self.config.permutations)
        of_classes = class_shares_p_value(*self.challenge.sides, seed, self.config.permutations)
        return {"site": self.site.name, **vars(found), "classes_p_value": of_classes}

    def _scores_path(self, target: str, about: str) -> Path:
        if Path(target).name != target:
            # The server names the target; no name of its choice may lead out of the workspace.
            raise UserError(f"target={target!r} is no name of a target")
        return self.stages.path(f"scores-{target}", self._scored | {"about": about})

    def _kept(self, key: str, target: str, about: str) -> Artifact:
        path = self._scores_path(target, about)
        found = read_artifact(path) if path.exists() else Artifact()
        if key not in found.tensors:
            raise UserError(f"evaluate.compare: {target} was not audited here by {key}")
        return found

    def _direct(self, others: ReleasedSets | None, kind: str) -> ReferenceSignals:
        # One regeneration round: in an epoch the target saw as many of the others' images.
        count, extra = self.config.direct_references, None if others is None else others(0)
        more = 0 if extra is None else len(extra.images)
        config = for_union(self._recipe(kind), sites_with(others))
        images = len(self.candidates) // 2 + more
        steps = scaled_steps(config.steps, images, len(self.site.data.train) + more)
        key = self._key(count, others) | {"steps": steps} | {name: getattr(config, name) for name in BY_KIND}

        def train() -> ReferenceModels:
            job, recipe = self.pipeline.job.seeded("references"), dataclasses.replace(config, steps=steps)
            task = reference_task(recipe, self.candidates, self._halves("direct", count), extra, job)
            return train_references(task, self.stages, key)

        return self._signals("direct", key, train, others is not None)

    def _recipe(self, kind: str) -> StudentConfig:
        """Return the student's recipe as a kind of model is trained by it."""
        config = self.study.student
        if kind not in (*OF_RELEASES, PLANTED_CONTROL):
            # Students of releases may see images otherwise than all other models do.
            config = dataclasses.replace(config, components=0)
        if kind == "teacher":
            return dataclasses.replace(config, logit_adjustment=self.study.teacher.logit_adjustment)
        if kind in OF_WEIGHTS:
            return dataclasses.replace(config, logit_adjustment=0.0)
        return config

    def _pipeline(self, others: ReleasedSets | None) -> ReferenceSignals:
        count, choice = self.config.pipeline_references, self.pipeline.choose()
        key = self._key(count, others) | self.pipeline.key()
        key |= {"checkpoint": choice["checkpoint"], "knobs": choice["knobs"], "max_images": self.site.most_images}

        def train() -> ReferenceModels:
            return self.shadows(count).students(others)

        return self._signals("pipeline", key, train, others is not None)

    def shadows(self, count: int) -> PipelineShadows:
        """Return the pipelines on halves of the images, of which each is trained when it is asked for."""
        return PipelineShadows(self.pipeline, self.candidates, self._halves("pipeline", count), self.site.most_images)

    def _signals(
        self, kind: str, key: dict[str, Any], train: Callable[[], ReferenceModels], others: bool
    ) -> ReferenceSignals:
        queries = Queries(self.config.queries, self.study.data.flip)

        def compute() -> Artifact:
            found = reference_signals(train(), self.candidates, self.population, queries, kind, others)
            arrays = {name: getattr(found, name) for name in ("logits", "population", "membership")}
            return Artifact({name: torch.from_numpy(array) for name, array in arrays.items()})

        asked = key | {"queries": self.config.queries, "population": content_digest(self.population)}
        tensors = self.stages.run(f"signals-{kind}", asked, compute).tensors
        return ReferenceSignals(kind, **{name: tensor.numpy() for name, tensor in tensors.items()}, others=others)

    def _key(self, count: int, others: ReleasedSets | None) -> dict[str, Any]:
        return self.pipeline.key("teacher", "generator", "recycle") | {
            "references": count,
            "candidates": content_digest(self.candidates),
            "others": None if others is None else others.digest(),
        }

    def _halves(self, kind: str, count: int) -> Bools:
        rng = numpy_rng(self.seed, self.site.name, "references", kind)
        return reference_halves(count, self.candidates, rng)


def _release_of(shadows: PipelineShadows, number: int) -> SoftSet:
    return shadows.release(number).arrays()[0]


def kept_others(stages: StageStore, study: Study) -> ReleasedSets | None:
    """Return the other sites' releases that a site keeps for a study's references, None where it was sent none."""
    path = _others_path(stages, study)
    kept = read_artifact(path) if path.exists() else Artifact()
    return ReleasedSets.from_artifact(kept) if kept.tensors else None


def _others_path(stages: StageStore, study: Study) -> Path:
    return stages.path("others", {"study": study.identity()})
