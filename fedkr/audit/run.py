"""The audit of one model at one site, by every configured attack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from fedkr.audit.attacks.label_only import label_only_score
from fedkr.audit.attacks.lira import logit_scaled_confidence
from fedkr.audit.attacks.quantile import Confidences, Describe, describe_images, quantile_score
from fedkr.audit.attacks.queries import Queries
from fedkr.audit.attacks.thresholds import attack_score, check_answers
from fedkr.audit.attacks.with_references import Answers, Logits, ReferenceSignals, reference_attack_score
from fedkr.audit.challenge import Challenge, candidates
from fedkr.audit.findings import AuditReport, report_from_scores
from fedkr.audit.subject import Subject
from fedkr.audit.targets import attacks_on, row_key
from fedkr.config import QUANTILE, QUERY_ATTACKS, REFERENCE_ATTACKS, ROUND_ATTACK
from fedkr.data.images import CanarySet, ImageSet
from fedkr.errors import UserError
from fedkr.progress import Progress, SilentProgress
from fedkr.seeds import numpy_rng

Predict = Callable[[NDArray[np.uint8]], Logits]
SILENT = SilentProgress()


@dataclass(frozen=True)
class AskedRounds:
    """A site's rounds of weight sharing as two models to ask: the one attacked is that of what the site sent back."""

    before: Predict
    after: Predict

    def __call__(self, images: NDArray[np.uint8]) -> Logits:
        """Answer as the model of what the site sent back."""
        return self.after(images)


@dataclass(frozen=True)
class Knowledge:
    """What an attacker has beside the model and the candidates.

    Attributes:
        references: what reference models of each kind answer; attacks by them run once for each, not at all without.
        population: images that no model trained on, needed with references and for ``quantile``.
        flip: the mirror images among the views, as the references saw them.
        describe: tells ``quantile`` what images show; one that remembers serves several models.
    """

    references: Sequence[ReferenceSignals] = ()
    population: ImageSet | None = None
    flip: str = "none"
    describe: Describe = describe_images


NOTHING = Knowledge()


def audit_model(
    predict: Predict, subject: Subject, known: Knowledge = NOTHING, progress: Progress = SILENT
) -> AuditReport:
    """Attack a model with every attack of ``config.attacks``.

    Attacks without reference models see each image once, ``label-only`` altered views of it, and attacks by reference
    models ``config.queries`` views. ``predict`` maps uint8 images ``[N, H, W, C]`` to logits float ``[N, K]``, in
    evaluation mode; of a target of the kind ``rounds`` it is :class:`AskedRounds`. ``progress`` is told after each
    attack.

    Raises:
        UserError: an unknown attack, a model whose logits are not finite, or references that do not fit.
    """
    try:
        asked = _Asked(predict, subject, known)
        attacks: dict[str, Callable[[], NDArray[np.float64]]] = {
            row_key(name, "none"): partial(asked.score, name)
            for name in attacks_on(subject.kind, subject.config.attacks)
            if name not in REFERENCE_ATTACKS
        }
        attacks |= {
            row_key(name, signals.kind): partial(asked.score_by, name, signals)
            for name in subject.config.attacks
            if name in REFERENCE_ATTACKS
            for signals in known.references
        }
        scores = _in_turn(attacks, progress, f"attacks on {subject.kind}")
        return report_from_scores(scores, subject, {signals.kind: signals.others for signals in known.references})
    except UserError as error:
        raise UserError(f"audit of {subject.target} at {subject.site}: {error}") from None


def _in_turn(
    attacks: Mapping[str, Callable[[], NDArray[np.float64]]], progress: Progress, stage: str
) -> dict[str, NDArray[np.float64]]:
    scores = dict[str, NDArray[np.float64]]()
    try:
        for key, attack in attacks.items():
            scores[key] = attack()
            progress.update(stage, len(scores), len(attacks), unit="attack")
    finally:
        progress.finish(stage)
    return scores


@dataclass(frozen=True)
class _Asked:
    """A model under attack, and what it answered so far."""

    predict: Predict
    subject: Subject
    known: Knowledge

    @property
    def queries(self) -> Queries:
        return Queries(self.subject.config.queries if self.known.references else 1, self.known.flip)

    @cached_property
    def candidates(self) -> Answers:
        return answers_of(self.predict, self.subject.challenge, self.queries)

    @cached_property
    def population(self) -> Answers:
        return Answers(_answers(self.predict, [self._population.images], self.queries), self._population.labels)

    @property
    def _population(self) -> ImageSet:
        if self.known.population is None:
            raise UserError("references and quantile: no population given; pass images that no model trained on")
        return self.known.population

    def score(self, name: str) -> NDArray[np.float64]:
        """Return the scores ``[N]`` of an attack without reference models."""
        if name == ROUND_ATTACK:
            return self._gain()
        if name not in QUERY_ATTACKS:
            return attack_score(name, self.candidates.logits[0], self.candidates.labels)
        check_answers(self.candidates.logits[0], self.candidates.labels)
        return self._quantile() if name == QUANTILE else self._label_only()

    def score_by(self, name: str, signals: ReferenceSignals) -> NDArray[np.float64]:
        """Return the scores ``[N]`` of an attack by the reference models of one kind."""
        return reference_attack_score(name, self.candidates, self.population, signals, self.subject.config.gamma)

    def _gain(self) -> NDArray[np.float64]:
        """Return how much surer of the true class the rounds made the model: the difference of the class's log-odds.

        RMIA with what came before as its reference would order by a ratio of probabilities, which saturates at one.
        """
        if not isinstance(self.predict, AskedRounds):
            raise UserError(f"{ROUND_ATTACK}: the target {self.subject.target} has no rounds")
        before = answers_of(self.predict.before, self.subject.challenge, replace(self.queries, count=1))
        after = self.candidates.logits[0]
        check_answers(before.logits[0], before.labels)
        odds = [logit_scaled_confidence(logits, before.labels) for logits in (after, before.logits[0])]
        gained: NDArray[np.float64] = odds[0] - odds[1]
        return gained

    def _label_only(self) -> NDArray[np.float64]:
        parts = [(part.images, part.labels) for part in _parts(self.subject.challenge)]
        return label_only_score(
            self.predict, parts, self.queries.flip, numpy_rng(self.subject.seed, self.subject.site, "label-only")
        )

    def _quantile(self) -> NDArray[np.float64]:
        of_population, asked = (
            Confidences(images, logit_scaled_confidence(answers.logits[0], answers.labels))
            for images, answers in (
                (self._population, self.population),
                (candidates(self.subject.challenge), self.candidates),
            )
        )
        return quantile_score(asked, of_population, self.known.describe)


def answers_of(predict: Predict, challenge: Challenge, queries: Queries) -> Answers:
    """Return a model's answers on views of all candidates."""
    return Answers(
        _answers(predict, [part.images for part in _parts(challenge)], queries), candidates(challenge).labels
    )


def _parts(challenge: Challenge) -> list[ImageSet | CanarySet]:
    return [*challenge.sides, *([] if challenge.canaries is None else [challenge.canaries])]


def _answers(predict: Predict, parts: Sequence[NDArray[np.uint8]], queries: Queries) -> Logits:
    """Return float ``[A, N, K]`` for the concatenation of ``parts``."""
    # Part by part, so that a site without canaries or references gets the same last digits as one with them.
    return np.concatenate([np.stack([predict(view) for view in queries.views(part)]) for part in parts], axis=1)
