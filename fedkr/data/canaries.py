"""Canaries: images made to be memorised, planted in a site's training split by fair coins, for the worst case."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from fedkr.config import CANARY_KINDS, AuditConfig
from fedkr.data.images import CanarySet, ImageSet, SiteData, joined
from fedkr.errors import UserError
from fedkr.seeds import numpy_rng

# More canaries than this share of the training images would change the model that they are meant to audit.
LARGEST_SHARE = 0.25
# Standard deviation, in grey levels of 256, of the noise that makes a near-duplicate.
PERTURBATION = 8.0
# A side of an outlier's pattern.
SQUARES = 4


def plant_canaries(data: SiteData, config: AuditConfig, seed: int, site: str) -> SiteData:
    """Make ``config.canaries`` canaries, the kinds in equal parts, and plant those whose fair coin says so.

    - ``mislabelled``: an image of the holdout, removed from it, under a wrong label;
    - ``noise``: uniform noise under a random label;
    - ``near-duplicate``: a training image with a little noise, under its own label. The image itself stays in the
      training split but is no challenge member any more (``CanarySet.companions``);
    - ``outlier``: a coarse pattern of black and white (or plain colours) under a random label. No image is like it, and
      it has far less in it than noise has, so that a generator can learn some of it.

    The first three show what leaks through labels, the last what leaks through images (``config.CANARY_CHANNELS``).
    Where the site has groups (patients), whole groups leave the holdout or become companions, so that no patient is
    a canary and a non-member at once. Images and coins depend on (data, config, seed, site) only, and not on one
    another; ``config.canary_toss`` changes the coins alone. Call this before
    :func:`~fedkr.data.split.toss_coins`: which images canaries are made from must not depend on the coins of the
    others.

    Returns:
        The site with its planted canaries as the last images of ``train``; the same data if none are asked for.

    Raises:
        UserError: more canaries than a quarter of the training images or than the site has images to make them from,
            no kind, mislabelled ones at a site with a single class, or outliers of images too small for their patterns.
    """
    if not config.canaries:
        return data
    _check(data, config, site)
    rng = numpy_rng(seed, site, "canaries")
    kinds = np.array([CANARY_KINDS.index(kind) for kind in config.canary_kinds])[
        np.arange(config.canaries) % len(config.canary_kinds)
    ]
    wanted = np.bincount(kinds, minlength=len(CANARY_KINDS))
    labels = _common_classes(data.train)
    sources, holdout = _take(data.holdout, np.arange(len(data.holdout)), wanted[0], rng, f"{site}: the holdout")
    usual = np.flatnonzero(np.isin(data.train.labels, labels))
    companions, members = _take(data.train, usual, wanted[2], rng, f"{site}: the training split")
    made = [
        _mislabelled(sources.subset(np.arange(wanted[0])), labels, rng),
        _noise(data.train, wanted[1], labels, rng),
        _near_duplicates(companions.subset(np.arange(wanted[2])), rng),
        # A stream of their own: other kinds are the same beside them as without them.
        _outliers(data.train, wanted[3], labels, numpy_rng(seed, site, "outliers")),
    ]
    toss = (config.canary_toss,) if config.canary_toss else ()
    canaries = _canary_set(joined(made), kinds, len(companions), data, numpy_rng(seed, site, "canary coins", *toss))
    included = np.flatnonzero(canaries.included)
    planted = ImageSet(canaries.images, canaries.labels, data.train.classes, canaries.groups).subset(included)
    return dataclasses.replace(data, train=joined([members, companions, planted]), holdout=holdout, canaries=canaries)


def _check(data: SiteData, config: AuditConfig, site: str) -> None:
    if not config.canary_kinds:
        raise UserError("audit.canary_kinds=[]: name at least one kind, or set audit.canaries=0")
    train = (len(data.train) + len(data.holdout)) // 2 if config.coins else len(data.train)
    most = int(LARGEST_SHARE * train)
    if config.canaries > most:
        raise UserError(
            f"{site}: audit.canaries={config.canaries} is more than a quarter of its {train} training images; "
            f"set it to {most} or less"
        )
    if "mislabelled" in config.canary_kinds and len(np.unique(data.train.labels)) < 2:
        raise UserError(
            f"{site}: audit.canary_kinds names 'mislabelled', but the site has one class only; leave that kind out"
        )


def _common_classes(train: ImageSet) -> NDArray[np.int64]:
    """Return the classes with at least half the mean count, and always the two largest.

    A canary must not lift a rare class over the least count from which on a site's policy lets a class be generated.
    """
    counts = train.class_counts()
    enough = counts >= counts[counts > 0].mean() / 2
    enough[[k for k in np.argsort(-counts, kind="stable")[:2] if counts[k]]] = True
    return np.flatnonzero(enough)


def _take(
    part: ImageSet, candidates: NDArray[np.int64], count: int, rng: np.random.Generator, where: str
) -> tuple[ImageSet, ImageSet]:
    """Return ``count`` random images of ``candidates`` followed by the rest of their groups, and all other images."""
    order = rng.permutation(candidates)
    chosen = order[:count] if part.groups is None else _by_whole_groups(part.groups, order, count, rng)
    left = np.setdiff1d(np.arange(len(part)), chosen)
    if len(chosen) < count or not len(left):
        raise UserError(f"{where} has too few images ({len(part)}) for {count} canaries; lower audit.canaries")
    return part.subset(chosen), part.subset(left)


def _by_whole_groups(
    groups: NDArray[np.int64], candidates: NDArray[np.int64], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return ``count`` candidates of random groups, one group used up after the other; then the groups' other images.

    Every group is as likely to come first, whatever its size. If groups left by their images, those with many would
    leave first, and patients of the holdout would differ in size from patients that were trained on.
    """
    first: list[int] = []
    used: list[int] = []
    for group in rng.permutation(np.unique(groups[candidates])).tolist():
        if len(first) >= count:
            break
        used.append(group)
        first += candidates[groups[candidates] == group].tolist()
    first = first[:count]
    others = np.setdiff1d(np.flatnonzero(np.isin(groups, used)), first)
    return np.concatenate([np.array(first, np.int64), others])


def _mislabelled(sources: ImageSet, classes: NDArray[np.int64], rng: np.random.Generator) -> ImageSet:
    labels = [int(rng.choice(classes[classes != own])) for own in sources.labels]
    return ImageSet(sources.images, np.array(labels, np.int64), sources.classes)


def _noise(like: ImageSet, count: int, classes: NDArray[np.int64], rng: np.random.Generator) -> ImageSet:
    images = rng.integers(0, 256, (count, *like.images.shape[1:]), dtype=np.uint8)
    return ImageSet(images, rng.choice(classes, count).astype(np.int64), like.classes)


def _near_duplicates(sources: ImageSet, rng: np.random.Generator) -> ImageSet:
    noisy = sources.images + rng.normal(0, PERTURBATION, sources.images.shape)
    return ImageSet(np.clip(np.rint(noisy), 0, 255).astype(np.uint8), sources.labels, sources.classes)


def _outliers(like: ImageSet, count: int, classes: NDArray[np.int64], rng: np.random.Generator) -> ImageSet:
    height, width, channels = like.images.shape[1:]
    rows, columns = (np.arange(side) * SQUARES // side for side in (height, width))
    shape = (SQUARES, SQUARES, channels)
    levels = rng.integers(0, 2, (count, *shape), dtype=np.uint8)
    labels = rng.choice(classes, count).astype(np.int64)
    # What is put in and what is left out must differ: a pattern that an earlier outlier has is drawn again.
    seen = np.ix_(np.arange(count), np.unique(rows), np.unique(columns))
    if 2 * count > 2 ** math.prod(levels[seen].shape[1:]):
        raise UserError(
            f"audit.canaries: there are not enough patterns of {height} x {width} pixels for {count} outliers; lower it"
        )
    while len(again := _repeated(levels[seen])):
        levels[again] = rng.integers(0, 2, (len(again), *shape), dtype=np.uint8)
    return ImageSet(255 * levels[:, rows[:, None], columns], labels, like.classes)


def _repeated(patterns: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Return which of the patterns ``[N, ...]`` an earlier one equals."""
    first: dict[bytes, int] = {}
    return np.array([i for i, each in enumerate(patterns) if first.setdefault(each.tobytes(), i) != i], np.intp)


def _canary_set(
    made: ImageSet, kinds: NDArray[np.int64], companions: int, data: SiteData, coins: np.random.Generator
) -> CanarySet:
    # The images were made kind after kind; the canaries' own order takes the kinds in turn.
    ordered = made.subset(np.argsort(np.argsort(kinds, kind="stable"), kind="stable"))
    groups = None
    if data.train.groups is not None:
        parts = (data.train, data.val, data.test, data.holdout)
        first = 1 + max(int(part.groups.max()) for part in parts if part.groups is not None)
        groups = first + np.arange(len(kinds), dtype=np.int64)
    return CanarySet(ordered.images, ordered.labels, coins.random(len(kinds)) < 0.5, kinds, groups, companions)
