"""How a simulation deals the pool of images out to its sites."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkr.config import PartitionConfig, SplitConfig, Study
from fedkr.data.images import ImageSet
from fedkr.data.split import PARTS, split_indices, why_unsplittable
from fedkr.errors import UserError
from fedkr.seeds import derive_seed, numpy_rng

Indices = NDArray[np.int64]

REMEDIES = {
    "iid": "lower federation.sites or split.min_images",
    "dirichlet": "raise partition.alpha, lower federation.sites, or set teacher.single_class=constant",
    "pathological": "raise partition.classes_per_site, lower federation.sites, or set teacher.single_class=constant",
    "quantity": "raise partition.alpha, or lower federation.sites or split.min_images",
}


def partition_sites(pool: ImageSet, study: Study) -> list[Indices]:
    """Return sorted, disjoint indices into ``pool`` for each of the study's sites, drawn again until each is valid.

    A site is valid if it can be split (``split.min_images``, no part empty) and its training split has at least two
    classes with at least two images each, which ``teacher.single_class=constant`` waives. A group (patient) goes as a
    whole to the site that its first image is dealt to.

    ``partition.kind`` is ``iid``; ``dirichlet``: each class is shared out by Dirichlet(alpha) (Hsu et al. 2019);
    ``pathological``: each site draws ``classes_per_site`` classes (McMahan et al. 2017), none a second time before all
    were drawn once, and no site has those that none drew (:func:`left_out`); or ``quantity``: labels as in the pool,
    sizes by Dirichlet(alpha) (Li et al. 2022). The seed and the number of the draw decide.

    Raises:
        UserError: more sites than images, options that cannot be met, or no valid draw in ``redraws`` redraws.
    """
    config, seed, problem = study.partition, derive_seed(study.seed, "partition"), ""
    members = np.arange(len(pool)) if pool.groups is None else pool.groups
    _, first, unit_of = np.unique(members, return_index=True, return_inverse=True)
    _check_possible(pool.labels, first, study)
    for attempt in range(max(0, config.redraws) + 1):
        drawn = _draw(pool.labels[first], config, study.federation.sites, derive_seed(seed, attempt))
        indices = [np.flatnonzero(np.isin(unit_of, units)) for units in drawn]
        problem = _first_problem(pool, indices, study)
        if not problem:
            return indices
    raise UserError(f"partition={config.kind}: {problem} (after {config.redraws} redraws); {REMEDIES[config.kind]}")


def left_out(pool: ImageSet, dealt: Sequence[Indices]) -> list[str]:
    """Return the classes of the pool that no site was dealt an image of."""
    held = np.bincount(pool.labels[np.concatenate(dealt)], minlength=len(pool.classes))
    return [name for name, count, own in zip(pool.classes, pool.class_counts(), held, strict=True) if count and not own]


def _check_possible(labels: Indices, first: Indices, study: Study) -> None:
    sites, wanted = study.federation.sites, study.partition.classes_per_site
    if sites > len(first):
        what = "images" if len(first) == len(labels) else "groups (patients)"
        raise UserError(f"federation.sites={sites}: more than the {len(first)} {what} in the pool; lower it")
    least = sites * max(study.split.min_images, PARTS)
    if least > len(labels):
        raise UserError(
            f"federation.sites={sites}: with split.min_images={study.split.min_images} at least "
            f"{least} images are needed, the pool has {len(labels)}; lower either"
        )
    if study.partition.kind != "pathological":
        return
    present = len(np.unique(labels[first]))
    if wanted > present:
        raise UserError(f"partition.classes_per_site={wanted}: the pool has {present} classes; lower it")
    if wanted < 2 and study.teacher.single_class != "constant":
        raise UserError(
            "partition.classes_per_site=1: a teacher needs two; raise it or set teacher.single_class=constant"
        )


def _first_problem(pool: ImageSet, indices: list[Indices], study: Study) -> str:
    for site, held in enumerate(indices):
        labels, patients = pool.labels[held], None if pool.groups is None else pool.groups[held]
        reason = why_unsplittable(labels, patients, study.split)
        if not reason and study.teacher.single_class != "constant":
            reason = _too_few_classes(labels, patients, study.split)
        if reason:
            return f"site {site} would get {reason}"
    return ""


def _too_few_classes(labels: Indices, groups: Indices | None, split: SplitConfig) -> str:
    # Without groups the number of images a class gets in each part does not depend on the generator.
    train = split_indices(labels, groups, split, numpy_rng("trial split"))[0]
    values, counts = np.unique(labels[train], return_counts=True)
    if (counts >= 2).sum() >= 2:
        return ""
    held = ", ".join(f"class {value}: {count}" for value, count in zip(values, counts, strict=True))
    return f"{len(labels)} images of which {len(train)} to train on ({held}), but two classes need two images each"


def _draw(labels: Indices, config: PartitionConfig, sites: int, seed: int) -> list[Indices]:
    # Shuffled first: files are often sorted by hospital, date or class, and some partitioners cut contiguous pieces.
    order = np.random.default_rng(seed).permutation(len(labels))
    draw = {"quantity": _draw_quantity, "pathological": _draw_pathological}.get(config.kind, _draw_by_partitioner)
    return [order[piece] for piece in draw(labels[order], config, sites, seed)]


def _draw_pathological(labels: Indices, config: PartitionConfig, sites: int, seed: int) -> list[Indices]:
    """Draw each site's classes, and share each class out evenly among the sites that drew it."""
    classes, rng = np.unique(labels), np.random.default_rng(derive_seed(seed, "classes"))
    drawn = _draw_classes(len(classes), config.classes_per_site, sites, rng)
    held: list[list[Indices]] = [[] for _ in range(sites)]
    for place, value in enumerate(classes):
        owners = np.flatnonzero(drawn[:, place])
        if len(owners):
            for site, part in zip(owners, np.array_split(np.flatnonzero(labels == value), len(owners)), strict=True):
                held[site].append(part)
    return [np.sort(np.concatenate(parts)) for parts in held]


def _draw_classes(classes: int, each: int, sites: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return bool ``[sites, classes]`` with ``each`` true a row; no column is without where there are rows enough."""
    drawn = np.zeros((sites, classes), dtype=bool)
    for site in np.tile(rng.permutation(sites), each):
        free = np.flatnonzero(~drawn[site])
        unused = free[~drawn[:, free].any(axis=0)]
        drawn[site, rng.choice(unused if len(unused) else free)] = True
    return drawn


def _draw_quantity(labels: Indices, config: PartitionConfig, sites: int, seed: int) -> list[Indices]:
    shares = np.random.default_rng(derive_seed(seed, "quantity")).dirichlet(np.full(sites, config.alpha))
    cuts = np.rint(np.cumsum(shares)[:-1] * len(labels)).astype(np.int64)
    return np.split(np.arange(len(labels)), cuts)


def _draw_by_partitioner(labels: Indices, config: PartitionConfig, sites: int, seed: int) -> list[Indices]:
    # Imported late: it takes seconds, and a site of a real deployment never partitions.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from datasets import Dataset
    from flwr_datasets import partitioner

    if config.kind == "iid":
        dealer: Any = partitioner.IidPartitioner(sites)
    else:
        # No least size here: the partitioner gives up after ten draws of its own, and what makes a site valid is ours.
        dealer = partitioner.DirichletPartitioner(sites, "label", config.alpha, min_partition_size=0, seed=seed)
    rows = Dataset.from_dict({"index": np.arange(len(labels)), "label": labels})
    # As Arrow columns: the default format hands the partitioner one Python object a row, seconds on large pools.
    dealer.dataset = rows.with_format("arrow")
    return [np.asarray(dealer.load_partition(site)["index"], dtype=np.int64) for site in range(sites)]
