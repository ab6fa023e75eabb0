"""Consensus: labels of released images that follow from what all sites' teachers know, from arrays alone.

A release comes with one opinion of each image, its own teacher's. Students of the other sites' releases are further
annotators of the same images, which none of them has seen. How often an annotator says one class where the truth is
another is estimated together with the truth by expectation maximisation (Dawid and Skene 1979), with a Dirichlet prior
where there are few images. So nobody is trusted by a constant: a student that never met a class has no say in it, one
that is used to call it something else is understood, and noise says nothing.

In place of Dawid and Skene's independent annotators, who soon are certain, a teacher's label, read by what it means
where that teacher says it, is the prior, and the other sites' students give evidence by the geometric mean of their
likelihoods (Genest and Zidek 1986): they err on the same hard images. At the end half of what is between a site's own
class shares and the union's, on a logarithmic scale, is taken out of its labels (Saerens et al. 2002, Menon et al. 2021
take out all, which pays where teachers are calibrated; these are not).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Views = Mapping[str, Mapping[str, Floats]]

# Least probability: no label is certain.
LEAST = 1e-4
# So many images' worth of belief in an annotator before it is seen, and how far that it is right.
PRIOR_IMAGES = 20.0
RIGHT = 0.8
ROUNDS = 5
TO_UNION = 0.5


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
    return to_union(truth)


def evidence(truth: Mapping[str, Floats], views: Views) -> dict[str, Floats]:
    """Return, by site, the mean log-likelihood of what the others' students see, for each class, float64 ``[N, K]``."""
    pairs: dict[str, list[tuple[Floats, Floats]]] = {}
    for site, by_peer in views.items():
        for peer, view in by_peer.items():
            pairs.setdefault(peer, []).append((truth[site], view))
    logs = {peer: np.log(confusion(of_peer)) for peer, of_peer in pairs.items()}
    return {
        site: np.mean([view @ logs[peer].T for peer, view in by_peer.items()], axis=0) if by_peer else np.zeros(1)
        for site, by_peer in views.items()
    }


def confusion(pairs: Sequence[tuple[Floats, Floats]]) -> Floats:
    """Return how often an annotator says each class (column) of images of each class (row), float64 ``[K, K]``.

    ``pairs`` are labels that stand for the truth and what the annotator sees in the same images, both ``[N, K]``.
    """
    said = np.sum([truth.T @ view for truth, view in pairs], axis=0)
    habits = said.sum(axis=0) + 1.0
    prior = RIGHT * np.eye(len(said)) + (1 - RIGHT) * habits / habits.sum()
    return rows(said + PRIOR_IMAGES * prior)


def to_union(labels: Mapping[str, Floats], power: float = TO_UNION) -> dict[str, Floats]:
    """Return labels ``[N, K]`` by site, corrected from the class shares of each site towards those of all."""
    union = _shares(np.concatenate(list(labels.values())))
    return {site: rows(own * (union / _shares(own)) ** power) for site, own in labels.items()}


def rows(values: NDArray[np.floating]) -> Floats:
    """Return rows that sum to one and have no class of less than ``LEAST``."""
    least = np.maximum(values / values.sum(axis=1, keepdims=True, dtype=np.float64), LEAST)
    return least / least.sum(axis=1, keepdims=True)


def _meant(labels: Floats, truth: Floats) -> Floats:
    """Return a teacher's labels ``[N, K]`` as what is true of the images of which it says each class."""
    return labels @ rows(labels.T @ truth + PRIOR_IMAGES * np.eye(labels.shape[1]))


def _pooled(prior: Floats, likelihoods: Floats) -> Floats:
    pooled = np.log(rows(prior)) + likelihoods
    return rows(np.exp(pooled - pooled.max(axis=1, keepdims=True)))


def _shares(labels: Floats) -> Floats:
    """Return class shares, float64 ``[K]``; a class that a site hardly has counts as some hundredth of its images."""
    masses = labels.sum(axis=0) + max(1.0, len(labels) / 100)
    return masses / masses.sum()
