"""Consensus: labels of released images that follow from what all sites' teachers know, from arrays alone.

A release comes with one opinion of each image, its own teacher's. Students of the other sites' releases are further
annotators of the same images, which none of them has seen. How often an annotator says one class where the truth is
another is estimated together with the truth by expectation maximisation (Dawid and Skene 1979), with a Dirichlet prior
where there are few images. So nobody is trusted by a constant: a student that never met a class has no say in it, one
that is used to call it something else is understood, and noise says nothing.

In place of Dawid and Skene's independent annotators, who soon are certain, a teacher's label is the prior, read by what
is true of the images of which that teacher says it. The other sites' students give evidence by their log-likelihoods,
whose sum over n students is divided by the square root of n: they err on the same hard images, so that n of them are
worth more than one and less than n (a logarithmic opinion pool, Genest and Zidek 1986).

Nothing is corrected from a site's class shares to the union's: a student of the union of all releases, each labelled by
its own site's posterior, learns the union's posterior, as each site's images weigh where they lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Views = Mapping[str, Mapping[str, Floats]]

# Least probability: no label is certain.
LEAST = 1e-4
# So many images' worth of belief in a student, and in a teacher's every class, before others are heard.
STUDENT_IMAGES = 20.0
TEACHER_IMAGES = 60.0
# How far a student is believed to be right before it is seen.
RIGHT = 0.8
# Each lets the students move the truth by which they are judged further from what the teachers said.
ROUNDS = 3


def consensus(
    released: Mapping[str, NDArray[np.floating]],
    seen: Mapping[str, Mapping[str, NDArray[np.floating]]],
    rounds: int = ROUNDS,
) -> dict[str, Floats]:
    """Return the labels of each site's images, float64 ``[N, K]``.

    Args:
        released: by site, the soft labels of its teacher ``[N, K]``.
        seen: by site, and by each other site, what that one's student sees in the same images ``[N, K]``.
        rounds: of expectation maximisation, which starts from the released labels.
    """
    own = {site: rows(labels) for site, labels in released.items()}
    views = {site: {peer: rows(view) for peer, view in seen[site].items()} for site in own}
    truth = own
    for _ in range(rounds):
        likelihoods = evidence(truth, views)
        truth = {site: _pooled(_meant(labels, truth[site]), likelihoods[site]) for site, labels in own.items()}
    return truth


def evidence(truth: Mapping[str, Floats], views: Views) -> dict[str, Floats]:
    """Return, by site, the log-likelihood of what the others' students see for each class, float64 ``[N, K]``.

    It is the sum over the students, divided by the square root of their number; 0 without students.
    """
    pairs: dict[str, list[tuple[Floats, Floats]]] = {}
    for site, by_peer in views.items():
        for peer, view in by_peer.items():
            pairs.setdefault(peer, []).append((truth[site], view))
    logs = {peer: np.log(confusion(of_peer)) for peer, of_peer in pairs.items()}
    found = {}
    for site, by_peer in views.items():
        likelihoods = [view @ logs[peer].T for peer, view in by_peer.items()]
        found[site] = np.sum([np.zeros_like(truth[site]), *likelihoods], axis=0) / max(1, len(likelihoods)) ** 0.5
    return found


def confusion(pairs: Sequence[tuple[Floats, Floats]]) -> Floats:
    """Return how often an annotator says each class (column) of images of each class (row), float64 ``[K, K]``.

    ``pairs`` are labels that stand for the truth and what the annotator sees in the same images, both ``[N, K]``.
    """
    said = np.sum([truth.T @ view for truth, view in pairs], axis=0)
    habits = said.sum(axis=0) + 1.0
    prior = RIGHT * np.eye(len(said)) + (1 - RIGHT) * habits / habits.sum()
    return rows(said + STUDENT_IMAGES * prior)


def rows(values: NDArray[np.floating]) -> Floats:
    """Return rows that sum to one and have no class of less than ``LEAST``."""
    least = np.maximum(values / values.sum(axis=1, keepdims=True, dtype=np.float64), LEAST)
    return least / least.sum(axis=1, keepdims=True)


def _meant(labels: Floats, truth: Floats) -> Floats:
    """Return a teacher's labels ``[N, K]`` as what is true of the images of which it says each class."""
    return labels @ rows(labels.T @ truth + TEACHER_IMAGES * np.eye(labels.shape[1]))


def _pooled(prior: Floats, likelihoods: Floats) -> Floats:
    pooled = np.log(prior) + likelihoods
    return rows(np.exp(pooled - pooled.max(axis=1, keepdims=True)))
