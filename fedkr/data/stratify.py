"""Dealing labelled images out to parts of given shares, at random but stratified, with no group divided."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Among this many random deals of whole groups the one closest to the shares is kept.
GROUP_DEALS = 8


def deal(
    labels: NDArray[np.int64],
    shares: Sequence[float],
    rng: np.random.Generator,
    groups: NDArray[np.int64] | None = None,
    least: int = 2,
) -> list[NDArray[np.int64]]:
    """Deal images out to ``len(shares)`` parts, each class as close to the shares as rounding permits.

    Args:
        labels: int ``[N]``.
        shares: one share a part; they sum to 1.
        rng: which image goes where; without groups it does not change how many of each class a part gets.
        groups: int ``[N]`` or None. With groups, whole groups are dealt and shares are met approximately.
        least: without groups, so many images of each class go to the first part before any other gets one.

    Returns:
        Sorted indices, one array a part: disjoint, and together 0 to N - 1. No part is empty if there are at least as
        many images (with groups: groups) as parts.
    """
    weights = np.asarray(shares, dtype=np.float64)
    part_of = (
        _deal_images(labels, weights, rng, least) if groups is None else _deal_groups(labels, groups, weights, rng)
    )
    return [np.flatnonzero(part_of == part) for part in range(len(weights))]


def _deal_images(
    labels: NDArray[np.int64], shares: NDArray[np.float64], rng: np.random.Generator, least: int
) -> NDArray[np.int64]:
    values, sizes = np.unique(labels, return_counts=True)
    # Small classes first: what rounding costs them is made good by the large ones.
    order = np.argsort(sizes, kind="stable")
    counts = _class_counts(sizes[order], shares, least)
    part_of = np.empty(len(labels), dtype=np.int64)
    for value, row in zip(values[order], counts, strict=True):
        part_of[rng.permutation(np.flatnonzero(labels == value))] = np.repeat(np.arange(len(shares)), row)
    return part_of


def _class_counts(sizes: NDArray[np.int64], shares: NDArray[np.float64], least: int) -> NDArray[np.int64]:
    """Return int ``[classes, parts]``: rounded so that no rounding error adds up over the classes."""
    counts = np.zeros((len(sizes), len(shares)), dtype=np.int64)
    for row, size in enumerate(sizes):
        counts[row] = _floors(int(size), shares, least)
        owed = sizes[: row + 1].sum() * shares - counts.sum(axis=0)
        # Rounded, so that the last bits of a float do not decide between equal claims.
        neediest = np.argsort(-owed.round(9), kind="stable")
        counts[row, neediest[: size - counts[row].sum()]] += 1
    _fill_empty_parts(counts)
    return counts


def _floors(size: int, shares: NDArray[np.float64], least: int) -> NDArray[np.int64]:
    counts = np.floor(size * shares + 1e-9).astype(np.int64)
    first = min(size, least)
    if counts[0] < first:
        others = shares[1:] / shares[1:].sum()
        counts[0] = first
        counts[1:] = np.floor((size - first) * others + 1e-9)
    return counts


def _fill_empty_parts(counts: NDArray[np.int64]) -> None:
    for part in np.flatnonzero(counts.sum(axis=0) == 0):
        donor = int(counts.sum(axis=0).argmax())
        if counts[:, donor].sum() > 1:
            row = int(counts[:, donor].argmax())
            counts[row, donor] -= 1
            counts[row, part] += 1


def _deal_groups(
    labels: NDArray[np.int64], groups: NDArray[np.int64], shares: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.int64]:
    names, group_of = np.unique(groups, return_inverse=True)
    values, class_of = np.unique(labels, return_inverse=True)
    profiles = np.zeros((len(names), len(values)))
    np.add.at(profiles, (group_of, class_of), 1)
    deals = [_one_group_deal(profiles, shares, rng) for _ in range(GROUP_DEALS)]
    return min(deals, key=lambda deal: _distance(profiles, deal, shares))[group_of]


def _one_group_deal(
    profiles: NDArray[np.float64], shares: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Deal groups in random order, each to the part that still lacks most of what the group holds.

    The order is random and not by size: were large groups dealt first, the first part would hold the patients with
    many images, and an attack could tell members from non-members by that alone.
    """
    sizes = np.maximum(profiles.sum(axis=0), 1)
    missing = np.outer(shares, profiles.sum(axis=0))
    part_of = np.empty(len(profiles), dtype=np.int64)
    for group in rng.permutation(len(profiles)):
        part_of[group] = (missing @ (profiles[group] / sizes)).round(9).argmax()
        missing[part_of[group]] -= profiles[group]
    for part in range(len(shares)):
        members = np.bincount(part_of, minlength=len(shares))
        if members[part] == 0 and members.max() > 1:
            donors = np.flatnonzero(part_of == members.argmax())
            part_of[donors[profiles[donors].sum(axis=1).argmin()]] = part
    return part_of


def _distance(profiles: NDArray[np.float64], part_of: NDArray[np.int64], shares: NDArray[np.float64]) -> float:
    held = np.zeros((len(shares), profiles.shape[1]))
    np.add.at(held, part_of, profiles)
    sizes = np.maximum(profiles.sum(axis=0), 1)
    return float((((held - np.outer(shares, sizes)) ** 2) / sizes).sum())
