"""Consensus: labels of released images that follow from what all sites' teachers know, from arrays alone.

A release comes with one opinion of each image, its own teacher's. Students of the other sites' releases are further
annotators of the same images, which none of them has seen. How often one says a class where the truth is another is
estimated as Dawid and Skene (1979) do, together with the truth, and with a Dirichlet prior towards its habits, which
say nothing: so nobody is trusted by a constant. A student that never met a class has no say in it, one that is used to
call it something else is understood, and noise says nothing.

Two things are not as in Dawid and Skene. A student is known by the images of third sites alone, neither its own nor
those that it is asked about: a teacher's own errors do not speak for it, and what no third site bears witness to leaves
its labels as they were. And annotators are not independent, as they err on the same hard images: the teacher's label is
the prior, and the sum of n students' log-likelihoods is divided by the square root of n (a logarithmic opinion pool,
Genest and Zidek 1986).

Nothing is corrected from a site's class shares to the union's: a student of the union of all releases, each labelled by
its own site's posterior, learns the union's posterior, as each site's images weigh where they lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Views = Mapping[str, Mapping[str, Floats]]

# A site's labels, a student, and a third site that bears witness to it.
LEAST_SITES = 3
# Least probability: no label is certain.
LEAST = 1e-4
# So many images' worth of belief that a student says of a class what it always says.
HABIT_IMAGES = 5.0
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
        said = {site: {peer: truth[site].T @ view for peer, view in views[site].items()} for site in own}
        truth = {site: _pooled(labels, _evidence(site, views[site], said)) for site, labels in own.items()}
    return truth


def confusion(said: Sequence[Floats], classes: int) -> Floats:
    """Return how often a student says each class (column) of images of each class (row), float64 ``[K, K]``.

    ``said`` are such counts ``[K, K]``, one of each site that bears witness; without any, all rows are alike.
    """
    counts = np.sum([np.zeros((classes, classes)), *said], axis=0)
    habits = counts.sum(axis=0) + 1.0
    return rows(counts + HABIT_IMAGES * habits / habits.sum())


def rows(values: NDArray[np.floating]) -> Floats:
    """Return rows that sum to one and have no class of less than ``LEAST``."""
    least = np.maximum(values / values.sum(axis=1, keepdims=True, dtype=np.float64), LEAST)
    return least / least.sum(axis=1, keepdims=True)


def _evidence(site: str, views: Mapping[str, Floats], said: Views) -> list[Floats]:
    """Return the log-likelihood ``[N, K]`` of what each student sees in a site's images, by what third sites know."""
    found = []
    for peer, view in views.items():
        witnesses = [counts[peer] for third, counts in said.items() if third != site and peer in counts]
        found.append(view @ np.log(confusion(witnesses, view.shape[1])).T)
    return found


def _pooled(label: Floats, evidence: Sequence[Floats]) -> Floats:
    pooled = np.log(label) + np.sum([np.zeros_like(label), *evidence], axis=0) / max(1, len(evidence)) ** 0.5
    return rows(np.exp(pooled - pooled.max(axis=1, keepdims=True)))
