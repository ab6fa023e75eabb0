"""How many reference models does each attack need? Those of RMIA with 64 are the measure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from fedkr.audit.attacks.queries import Queries
from fedkr.audit.attacks.with_references import Answers, ReferenceSignals, reference_attack_score, reference_signals
from fedkr.audit.challenge import build_challenge, candidates
from fedkr.audit.references.direct import balanced_membership, reference_task, train_references
from fedkr.audit.statistics.membership import auc
from fedkr.config import ClassifierConfig
from fedkr.data import ImageSet, joined
from fedkr.learning.classifier import train_on_real
from fedkr.learning.job import Job
from fedkr.learning.prediction import predict_logits
from fedkr.seeds import numpy_rng
from simulations.evidence.proof import Bench, Figures, dealt, digest_of

ATTACKS = ("rmia", "lira-online", "lira-online-fixed", "bavaria", "rmia-offline", "lira-offline", "bavaria-offline")
NEAR = 0.01


@dataclass(frozen=True)
class FewReferences:
    """A model of handwritten digits that learnt its images by heart, and reference models in growing numbers.

    Attributes:
        members, population: numbers of images; there are as many non-members as members.
        counts: of reference models, each a multiple of the least; blocks of the least are balanced by themselves.
        recipe: of the model and its references.
    """

    members: int = 400
    population: int = 600
    counts: tuple[int, ...] = (4, 8, 16, 32, 64)
    recipe: ClassifierConfig = field(
        default_factory=lambda: ClassifierConfig(steps=320, lr=0.01, weight_decay=0.0, augment="none")
    )


def prove_few(bench: Bench, seeds: Sequence[int], settings: FewReferences | None = None) -> Figures:
    """Attack by few references and by many, and say whether BaVarIA with 8 finds what RMIA finds with 64."""
    settings = settings or FewReferences()
    source = bench.source("digits")
    everything = joined([source.pool, source.test])
    key = {"data": digest_of(everything), **dataclasses.asdict(settings)}
    rows = [bench.once("few", key | {"seed": s}, partial(by_count, bench, everything, settings, s)) for s in seeds]
    names = [f"{attack}@{count}" for attack in ATTACKS for count in settings.counts]
    mean = {name: float(np.mean([row["auc"][name] for row in rows])) for name in names}
    few, many = settings.counts[1], settings.counts[-1]
    holds = {f"bavaria@{few} at most {NEAR} below rmia@{many}": mean[f"bavaria@{few}"] >= mean[f"rmia@{many}"] - NEAR}
    return {"settings": dataclasses.asdict(settings), "mean_auc": mean, "rows": rows, "holds": holds}


def by_count(bench: Bench, everything: ImageSet, settings: FewReferences, seed: int) -> Figures:
    """Train the model and the most references on one draw; return the AUC of each attack by each count of them.

    Of fewer references than there are, the AUC is the mean over disjoint blocks of them.
    """
    counts = [settings.members, settings.members, settings.population]
    members, nonmembers, population = dealt(everything, counts, numpy_rng(seed, "proof", "few"))
    images, job = (
        candidates(build_challenge(members, nonmembers)),
        Job(bench.runtime, bench.progress, seed=(seed, "proof")),
    )
    model = train_on_real(settings.recipe, members, job.seeded("target"), "target")
    least, most = settings.counts[0], settings.counts[-1]
    rng = numpy_rng(seed, "proof", "few", "halves")
    membership = np.concatenate([balanced_membership(least, len(images), rng) for _ in range(most // least)])
    task = reference_task(settings.recipe, images, membership, None, job.seeded("references"))
    signals = reference_signals(
        train_references(task, bench.stages, {}), images, population, Queries(), "direct", others=False
    )
    target, others = (
        Answers(predict_logits(model, part.images, bench.runtime)[None], part.labels) for part in (images, population)
    )
    inside = np.arange(len(images)) < settings.members

    def found(attack: str, start: int, count: int) -> float:
        scores = reference_attack_score(attack, target, others, _block(signals, start, count), 1.0)
        return auc(scores[inside], scores[~inside])

    aucs = {
        f"{attack}@{count}": float(np.mean([found(attack, start, count) for start in range(0, most, count)]))
        for attack in ATTACKS
        for count in settings.counts
    }
    return {"seed": seed, "auc": aucs}


def _block(signals: ReferenceSignals, start: int, count: int) -> ReferenceSignals:
    part = slice(start, start + count)
    return dataclasses.replace(
        signals,
        logits=signals.logits[part],
        population=signals.population[part],
        membership=signals.membership[part],
    )
