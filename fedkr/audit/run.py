"""The audit of one model at one site: every configured attack, with and without reference models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedkr.audit.attacks.queries import query_views
from fedkr.audit.attacks.thresholds import SIGNALS, attack_score
from fedkr.audit.attacks.with_references import Logits, ReferenceSignals, reference_attack_score
from fedkr.audit.challenge import Challenge, candidates
from fedkr.audit.figures import AttackResult, AuditReport, ClassAuc
from fedkr.audit.statistics.coins import one_run_bound
from fedkr.audit.statistics.membership import Floats, MembershipMetrics, membership_metrics, roc_points
from fedkr.audit.statistics.per_class import class_aucs
from fedkr.audit.targets import adversary_of, headline_key, row_key, row_names
from fedkr.config import AuditConfig
from fedkr.data.images import CanarySet, ImageSet
from fedkr.errors import UserError
from fedkr.seeds import derive_seed

Predict = Callable[[NDArray[np.uint8]], Logits]


def audit_model(
    predict: Predict,
    challenge: Challenge,
    *,
    target: str,
    site: str,
    config: AuditConfig,
    seed: int,
    references: Sequence[ReferenceSignals] = (),
    population: ImageSet | None = None,
    flip: str = "none",
) -> AuditReport:
    """Attack a model with every attack of ``config.attacks``.

    Attacks without reference models see each image once. Attacks by reference models run once for each kind that is
    given, on ``config.queries`` views, and not at all where none is.

    Args:
        predict: maps uint8 images ``[N, H, W, C]`` to logits float ``[N, K]``, in evaluation mode.
        challenge: the site's members, non-members and canaries.
        target: which model, as the report names it.
        site: whose challenge set.
        config: attacks, FPRs, resamples and the headline attack.
        seed: the study's; the resamples depend on it and the site only, so every target meets the same ones.
        references: what each kind of reference models answered (:func:`~fedkr.audit.reference_signals`).
        population: the images of the references' ``population``; needed with ``references``.
        flip: mirror images among the views, as the references saw them.

    Raises:
        UserError: an unknown attack, a model whose logits are not finite, or references that do not fit.
    """
    try:
        images = candidates(challenge)
        logits = _answers(predict, _parts(challenge), config.queries if references else 1, flip)
        scores = {
            row_key(name, "none"): attack_score(name, logits[0], images.labels)
            for name in config.attacks
            if name in SIGNALS
        }
        if references:
            if population is None:
                raise UserError("reference attacks: no population given; pass the images that the references answered")
            scores |= _reference_scores(
                logits,
                _answers(predict, [population.images], config.queries, flip),
                (images.labels, population.labels),
                references,
                config,
            )
        others = {signals.kind: signals.others for signals in references}
        return report_from_scores(scores, challenge, target=target, site=site, config=config, seed=seed, others=others)
    except UserError as error:
        raise UserError(f"audit of {target} at {site}: {error}") from None


def report_from_scores(
    scores: Mapping[str, Floats],
    challenge: Challenge,
    *,
    target: str,
    site: str,
    config: AuditConfig,
    seed: int,
    others: Mapping[str, bool] | None = None,
) -> AuditReport:
    """Return all figures of attacks that have already scored the candidates, of a model or of a release.

    Args:
        scores: float ``[N]`` on all candidates by row key (:func:`~fedkr.audit.targets.row_key`); attacks that are not
            configured for the target are ignored.
        challenge: whose candidates.
        target: which model, or ``release``.
        site: whose challenge set.
        config: FPRs, resamples, coins and the headline attack.
        seed: the study's.
        others: for each kind of reference models, whether they trained on the other sites' releases.
    """
    resampling = derive_seed(seed, site, "audit")
    quoted = headline_key(target, config.headline, scores)
    rows, canaries = [], []
    for attack, kind in row_names(target, config.attacks):
        key = row_key(attack, kind)
        if key in scores:
            row = AttackResult(
                target=target,
                site=site,
                attack=attack,
                metrics=_natural_metrics(scores[key], challenge, config, resampling),
                duplicates=challenge.duplicates,
                headline=key == quoted,
                roc=roc_points(*_sides(scores[key], challenge)),
                references=kind,
                adversary=adversary_of(target),
                others=None if kind == "none" else (others or {}).get(kind, False),
            )
            rows.append(row)
            canaries += _canary_row(row, scores[key], challenge, config, resampling)
    headline = None if quoted is None else scores[quoted]
    bound, reason = one_run_bound(headline, challenge, config, seed, site)
    return AuditReport(
        target,
        site,
        rows,
        scores={row.key: scores[row.key][: challenge.natural] for row in rows},
        canary_scores={row.key: scores[row.key][challenge.natural :] for row in canaries},
        canaries=canaries,
        per_class=_classes(headline, challenge, config, resampling),
        epsilon=bound,
        epsilon_reason=reason,
    )


def _parts(challenge: Challenge) -> list[NDArray[np.uint8]]:
    planted = [] if challenge.canaries is None else [challenge.canaries.images]
    return [challenge.members.images, challenge.nonmembers.images, *planted]


def _answers(predict: Predict, parts: Sequence[NDArray[np.uint8]], queries: int, flip: str) -> Logits:
    """Return float ``[A, N, K]`` for the concatenation of ``parts``."""
    # Part by part, so that a site without canaries or references gets the same last digits as one with them.
    answers = [np.stack([predict(view) for view in query_views(part, queries, flip)]) for part in parts]
    return np.concatenate(answers, axis=1)


def _reference_scores(
    logits: Logits,
    population: Logits,
    labels: tuple[NDArray[np.int64], NDArray[np.int64]],
    references: Sequence[ReferenceSignals],
    config: AuditConfig,
) -> dict[str, Floats]:
    return {
        row_key(name, signals.kind): reference_attack_score(name, logits, population, *labels, signals, config.gamma)
        for name in config.attacks
        if name not in SIGNALS
        for signals in references
    }


def _sides(scores: Floats, challenge: Challenge) -> tuple[Floats, Floats]:
    split = len(challenge.members)
    return scores[:split], scores[split : challenge.natural]


def _natural_metrics(scores: Floats, challenge: Challenge, config: AuditConfig, seed: int) -> MembershipMetrics:
    return membership_metrics(
        *_sides(scores, challenge),
        fprs=config.fprs,
        bootstrap=config.bootstrap,
        seed=seed,
        member_groups=challenge.members.groups,
        nonmember_groups=challenge.nonmembers.groups,
    )


def _classes(scores: Floats | None, challenge: Challenge, config: AuditConfig, seed: int) -> list[ClassAuc | None]:
    if scores is None:
        return []
    return class_aucs(scores[: challenge.natural], challenge, bootstrap=config.bootstrap, seed=seed)


def _canary_row(
    row: AttackResult, scores: Floats, challenge: Challenge, config: AuditConfig, seed: int
) -> list[AttackResult]:
    """Return the same attack on the canaries, or nothing where there are none of one side."""
    planted: CanarySet | None = challenge.canaries
    if planted is None or planted.included.all() or not planted.included.any():
        return []
    own = scores[challenge.natural :]
    sides = own[planted.included], own[~planted.included]
    metrics = membership_metrics(*sides, fprs=config.fprs, bootstrap=config.bootstrap, seed=seed)
    # Half of so few images chooses no threshold worth quoting.
    metrics = dataclasses.replace(
        metrics, balanced_accuracy=None, balanced_accuracy_low=None, balanced_accuracy_high=None
    )
    return [dataclasses.replace(row, metrics=metrics, duplicates=0, roc=[])]
