"""One site's images into train, val, test and holdout, before anything is trained."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from fedkr.config import SplitConfig, Study
from fedkr.data.canaries import plant_canaries
from fedkr.data.images import ImageSet, SiteData, joined
from fedkr.data.stratify import deal
from fedkr.errors import UserError
from fedkr.seeds import numpy_rng

PARTS = 4


def prepare_site(pool: ImageSet, study: Study, site: str, least_patients: int = 1) -> SiteData:
    """Return the splits of a site that holds ``pool``, the same wherever it is called.

    Classes with fewer than ``least_patients`` patients in train are taken out (:func:`without_rare_classes`).

    Raises:
        UserError: too few images to split, for the canaries asked for, or for ``audit.coins``.
    """
    data = without_rare_classes(split_site(pool, study.split, study.seed, site), least_patients, site)
    data = plant_canaries(data, study.audit, study.seed, site)
    if study.audit.coins:
        data = toss_coins(data, study.seed, site)
        _check_patients(data, least_patients, site)
    return data


def without_rare_classes(data: SiteData, least: int, site: str) -> SiteData:
    """Take classes with fewer than ``least`` patients (without groups: images) in train out of all but the test split.

    Before canaries are planted: none may be made from such a class, nor lift it over the least count. The test split
    keeps them, since a model of all sites may know them.

    Raises:
        UserError: a part that is left without images.
    """
    counts = data.train.patient_counts()
    rare = np.flatnonzero((counts > 0) & (counts < least))
    # A class that is in val or holdout alone is as rare.
    seen = data.val.class_counts() + data.holdout.class_counts()
    rare = np.union1d(rare, np.flatnonzero((counts == 0) & (seen > 0))) if least > 1 else rare
    if not len(rare):
        return data
    parts = {
        name: part.subset(np.flatnonzero(~np.isin(part.labels, rare)))
        for name, part in (("train", data.train), ("val", data.val), ("holdout", data.holdout))
    }
    for name, part in parts.items():
        if not len(part):
            raise UserError(
                f"{site}: without its classes of fewer than {least} patients, no image is left in {name}; add data or "
                "lower policy.min_class_count"
            )
    return SiteData(parts["train"], parts["val"], data.test, parts["holdout"], rare=tuple(rare.tolist()))


def _check_patients(data: SiteData, least: int, site: str) -> None:
    """Raise :class:`UserError` where coins left a class of train with fewer than ``least`` patients."""
    planted = 0 if data.canaries is None else int(data.canaries.included.sum())
    counts = data.train.subset(np.arange(len(data.train) - planted)).patient_counts()
    if ((counts > 0) & (counts < least)).any():
        raise UserError(
            f"{site}: audit.coins=true leaves a class with fewer than {least} patients in train; set audit.coins=false"
        )


def split_site(data: ImageSet, config: SplitConfig, seed: int, site: str) -> SiteData:
    """Split a site's images at random, stratified by label; no group (patient) is divided and no part is empty.

    The same (data, config, seed, site) gives the same split everywhere.

    Raises:
        UserError: fewer images than ``config.min_images``, or fewer images or groups than parts.
    """
    problem = why_unsplittable(data.labels, data.groups, config)
    if problem:
        raise UserError(f"{site}: {problem}; add data or lower split.min_images")
    parts = split_indices(data.labels, data.groups, config, numpy_rng(seed, site, "split"))
    train, val, test, holdout = (data.subset(part) for part in parts)
    return SiteData(train, val, test, holdout)


def split_indices(
    labels: NDArray[np.int64], groups: NDArray[np.int64] | None, config: SplitConfig, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Return the sorted indices of train, val, test and holdout. Tiny classes go to train first."""
    train = 1 - config.val - config.test - config.holdout
    return deal(labels, (train, config.val, config.test, config.holdout), rng, groups)


def why_unsplittable(labels: NDArray[np.int64], groups: NDArray[np.int64] | None, config: SplitConfig) -> str:
    """Return why a site's images cannot be split, or an empty string where they can."""
    if len(labels) < config.min_images:
        return f"{len(labels)} images, fewer than split.min_images={config.min_images}"
    units, what = (len(labels), "images") if groups is None else (len(np.unique(groups)), "groups (patients)")
    if units < PARTS:
        return f"{units} {what}, fewer than the {PARTS} parts train, val, test and holdout"
    return ""


def toss_coins(data: SiteData, seed: int, site: str) -> SiteData:
    """Deal members and holdout anew: a fair coin for each image, with groups for each group, says which it becomes.

    Only memberships that are independent fair coins support a bound on epsilon from one run (Steinke et al. 2023). Val
    and test stay as they are, and so do planted canaries, which have coins of their own. On average both parts get
    half of the images, whatever ``split.holdout`` says.

    Raises:
        UserError: the coins leave train or holdout without images, or with one class where there are more.
    """
    pool = joined([data.members, data.holdout])
    rng = numpy_rng(seed, site, "coins")
    if pool.groups is None:
        heads = rng.random(len(pool)) < 0.5
    else:
        names, group_of = np.unique(pool.groups, return_inverse=True)
        heads = (rng.random(len(names)) < 0.5)[group_of]
    members, holdout = pool.subset(np.flatnonzero(heads)), pool.subset(np.flatnonzero(~heads))
    needed = min(2, len(np.unique(pool.labels)))
    for name, part in (("train", members), ("holdout", holdout)):
        if len(np.unique(part.labels)) < needed:
            raise UserError(
                f"{site}: audit.coins=true left {name} with {len(part)} of {len(pool)} images, fewer than "
                f"{needed} classes among them; add data or set audit.coins=false"
            )
    planted = data.train.subset(np.arange(len(data.members), len(data.train)))
    train = joined([members, planted]) if len(planted) else members
    return dataclasses.replace(data, train=train, holdout=holdout)
