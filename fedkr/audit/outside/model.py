"""The audit of a classifier that fedkr did not train: its owner's images, direct references, and a control of our own.

The rule of the verdict is the sites' (:mod:`fedkr.audit.verdict`). It lets a model pass only where the same attack
detects a control that knows the members by heart (:mod:`fedkr.audit.control`), which the audit trains itself.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fedkr.audit.attacks.queries import Queries
from fedkr.audit.attacks.with_references import ReferenceSignals, reference_signals
from fedkr.audit.challenge import Challenge, build_challenge, candidates, population_of
from fedkr.audit.control import train_control
from fedkr.audit.document import audit_document, audit_extras
from fedkr.audit.findings import AuditReport
from fedkr.audit.references.direct import reference_halves, reference_task, train_references
from fedkr.audit.references.shadows import scaled_steps
from fedkr.audit.run import Knowledge, Predict, audit_model
from fedkr.audit.statistics.blind import BlindResult, blind_baseline, voided
from fedkr.audit.statistics.class_shares import class_shares_p_value
from fedkr.audit.statistics.membership import guessing_rates
from fedkr.audit.subject import Subject
from fedkr.audit.targets import CONTROL
from fedkr.audit.verdict import Blind, SiteVerdict, site_verdicts
from fedkr.config import AuditConfig, ClassifierConfig, DataConfig
from fedkr.data.images import ImageSet, Shape, content_digest
from fedkr.data.sources.npz import read_splits
from fedkr.data.sources.npz_file import NpzFile
from fedkr.data.sources.npz_images import check_uint8
from fedkr.errors import UserError
from fedkr.learning.job import Job
from fedkr.learning.models import load_classifier
from fedkr.learning.prediction import predict_logits
from fedkr.seeds import numpy_rng
from fedkr.stages import Artifact, StageStore, model_tensors

# In order of preference: a holdout was set apart for this very purpose.
NONMEMBERS = ("holdout", "val")
# Of the non-members, where the file has no other images that no model trained on.
POPULATION_SHARE = 0.25


@dataclass(frozen=True)
class OutsideData:
    """Whose membership is asked after.

    Attributes:
        name: of the file, as the report names the site.
        challenge: members (train) and non-members.
        population: images that no model trained on, RMIA's z.
        notes: what a reader has to know of where they come from, a line each.
    """

    name: str
    challenge: Challenge
    population: ImageSet
    notes: list[str]


def read_outside(path: Path, classes: int | None = None, seed: int = 0) -> OutsideData:
    """Read an ``.npz`` in the MedMNIST layout.

    ``train_*`` are the members; ``holdout_*``, else ``val_*``, the non-members; what is left of val and test is the
    population. The model has ``classes``, None for as many as the file has. ``seed`` deals out the population where it
    has to be taken from the non-members.

    Raises:
        UserError: a file that cannot be read, arrays that do not fit together, or no images to serve as non-members.
    """
    with NpzFile(path) as file:
        names = () if classes is None else tuple(str(label) for label in range(classes))
        wanted = ("train", *NONMEMBERS, "test")
        for key in [f"{name}_images" for name in wanted if f"{name}_images" in file]:
            check_uint8(file, key)  # who trained on more than 8 bits trained on other images than the audit would see
        splits, told, renamed = read_splits(file, wanted, DataConfig(classes=list(names)))
        # Labels are the places of the model's outputs, which no order of other values tells.
        if renamed or (file.header("train_labels")[1].kind in "US" and "classes" not in file):
            raise UserError(
                f"{path}: labels are not the places of the model's outputs; number them from 0 to one less than it "
                "has, or name how many it has by --classes"
            )
    source = next((name for name in NONMEMBERS if name in splits), None)
    if source is None:
        raise UserError(
            f"{path}: has neither holdout_images nor val_images, so there are no non-members; add images (and labels) "
            "of the same origin that the model was not trained on"
        )
    train, nonmembers = splits["train"], splits[source]
    if (train.groups is None) != (nonmembers.groups is None):
        raise UserError(f"{path}: groups are given for only one of train and {source}; give both or neither")
    notes = [*told, f"members are the file's train split, non-members its {source} split"]
    if source == "val":
        notes.append(
            "a val split that chose the model's checkpoint or settings is not untouched, which makes leakage look "
            "smaller; a holdout of the training images' own distribution (holdout_images) is the better choice"
        )
    spare = [splits[name] for name in ("val", "test") if name in splits and name != source]
    if not spare:
        nonmembers, taken = _divided(nonmembers, numpy_rng(seed, "audit", "population"))
        spare = [taken]
        notes.append(
            f"the file has no test split: {len(taken)} of the {source} images are RMIA's population, not non-members"
        )
    challenge = build_challenge(train, nonmembers)
    lacking = f"{path}: val and test hold only copies of members and non-members; add a test split"
    return OutsideData(path.stem, challenge, population_of(spare, challenge, lacking), notes)


def _divided(data: ImageSet, rng: np.random.Generator) -> tuple[ImageSet, ImageSet]:
    """Return what stays and a random share of :data:`POPULATION_SHARE`, whole groups (patients) on one side."""
    units = np.arange(len(data)) if data.groups is None else np.unique(data.groups, return_inverse=True)[1]
    count = int(units.max()) + 1
    taken = np.isin(units, rng.permutation(count)[: max(1, round(POPULATION_SHARE * count))])
    return data.subset(np.flatnonzero(~taken)), data.subset(np.flatnonzero(taken))


@dataclass(frozen=True)
class OutsideAudit:
    """What the audit of an outside model came to.

    Attributes:
        reports: of the model and, where reference models were trained, of the control (``teacher``).
        blind: members against non-members without any model, by images; ``classes_p_value`` by class shares.
        void: whether one of the two tells them apart.
    """

    reports: list[AuditReport]
    config: AuditConfig
    blind: BlindResult
    classes_p_value: float
    void: bool
    verdict: SiteVerdict

    def as_results(self) -> dict[str, Any]:
        """Return ``audit`` and ``audit_extras`` as in ``results.json``; no figure of a single image is among them."""
        site = self.verdict.site
        blind = {"site": site, **vars(self.blind), "classes_p_value": self.classes_p_value, "rejected": self.void}
        extras: dict[str, list[Any]] = {"blind": [blind], "verdicts": [self.verdict.as_row()]}
        for report in self.reports:
            for name, rows in audit_extras(audit_document(report), self.config).items():
                extras.setdefault(name, []).extend(rows)
        rows = [row | guessing_rates(row, row["nonmembers"]) for report in self.reports for row in report.rows]
        return {"audit": rows, "audit_extras": extras}


class OutsideAuditor:
    """Audits one outside model; reference models and the control are stages on disk.

    Args:
        config: attacks and how many direct references; none makes a verdict of the threshold attacks alone.
        recipe: of reference models and control, as near to the audited model's own as is known.
        job: where and how they are trained; which mirror images count as real.
    """

    def __init__(
        self,
        data: OutsideData,
        config: AuditConfig,
        recipe: ClassifierConfig,
        stages: StageStore,
        job: Job,
        seed: int = 0,
    ) -> None:
        self.data, self.config, self.recipe, self.stages, self.seed = data, config, recipe, stages, seed
        self.job = replace(job, seed=(seed, data.name))
        self.members = data.challenge.members
        self.key = {"seed": seed, **job.describe(), "recipe": dataclasses.asdict(recipe)}

    def audit(self, predict: Predict, target: str) -> OutsideAudit:
        """Attack the model that ``predict`` is (uint8 ``[N, H, W, C]`` to float32 logits ``[N, K]``), and the control.

        ``target`` is how the report names the model; ``student`` says that it was trained on releases, which direct
        references cannot clear.

        Raises:
            UserError: a model whose logits are not finite, or too few images.
        """
        sides, count = self.data.challenge.sides, self.config.permutations_for(sites=1)
        blind, of_classes = blind_baseline(*sides, self.seed, count), class_shares_p_value(*sides, self.seed, count)
        void = voided([(blind.p_value, of_classes)])[0]
        references = [self._signals()] if self.config.direct_references else []
        reports = [self._attack(predict, target, references)]
        if references:
            reports.append(self._attack(self._control(), CONTROL, references))
        rows = [row for report in reports for row in report.rows]
        patients = [row for report in reports for row in report.patients]
        verdicts = site_verdicts(rows, Blind([self.data.name] if void else []), patients=patients)
        return OutsideAudit(
            reports, self.config, blind, of_classes, void, next(v for v in verdicts if v.target == target)
        )

    def _attack(self, predict: Predict, target: str, references: list[ReferenceSignals]) -> AuditReport:
        subject = Subject(target, self.data.name, self.data.challenge, self.config, self.seed)
        population = self.data.population if subject.config.uses_population else None
        known = Knowledge(references, population, self.job.flip)
        return audit_model(predict, subject, known, self.job.progress)

    def _signals(self) -> ReferenceSignals:
        images, count = candidates(self.data.challenge), self.config.direct_references
        rng = numpy_rng(self.seed, self.data.name, "references", "direct")
        # As many epochs as the recipe gives the members.
        steps = scaled_steps(self.recipe.steps, len(images) // 2, len(self.members))
        membership = reference_halves(count, images, rng)
        recipe, queries = replace(self.recipe, steps=steps), Queries(self.config.queries, self.job.flip)
        task = reference_task(recipe, images, membership, None, self.job.seeded("references"))
        references = train_references(task, self.stages, self.key)
        return reference_signals(references, images, self.data.population, queries, "direct", others=False)

    def _control(self) -> Predict:
        """Return the control's predictions: a classifier of the recipe's architecture, overfitted to the members."""
        members, key = self.members, self.key | {"members": content_digest(self.members)}

        def train() -> Artifact:
            return Artifact(model_tensors(train_control(self.recipe, members, self.job.seeded("control"))))

        weights, runtime = self.stages.run("control", key, train).tensors, self.job.runtime
        model = load_classifier(self.recipe, Shape.of(members), weights, runtime)
        return partial(predict_logits, model, runtime=runtime)
