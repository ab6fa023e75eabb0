"""Where the images come from: one module per family of datasets, found by the name in the config."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkr.config import DataConfig, FactsConfig, Study, check_values, one_of, read_dataclass, site_facts
from fedkr.data.dataset_files import file_stamp
from fedkr.data.identity import identity_of, what_changed
from fedkr.data.images import ImageSet
from fedkr.data.leaks import Leaks, find_leaks
from fedkr.data.listing import LeftOut, same_text
from fedkr.data.stratify import deal
from fedkr.documents import LONGEST_TEXT, MOST_CLASSES
from fedkr.errors import UserError, few
from fedkr.foreign import import_named
from fedkr.seeds import numpy_rng

BUILT_IN = {
    "digits": "fedkr.data.sources.digits",
    "fashionmnist": "fedkr.data.sources.torchvision_sets",
    "cifar10": "fedkr.data.sources.torchvision_sets",
    "cifar100": "fedkr.data.sources.torchvision_sets",
    "npz": "fedkr.data.sources.npz",
    "folder": "fedkr.data.sources.folder",
    "table": "fedkr.data.sources.table",
}
# Of 255; scikit-learn's digits, for one, have values from 0 to 16.
LEAST_CONTRAST = 16
# Their files are decoded one by one, which a cache spares later processes.
OF_SINGLE_FILES = ("folder", "table")
# Their values may have more than 8 bits, and each says itself what becomes of them.
OF_FILES = ("npz", *OF_SINGLE_FILES)


@dataclass(frozen=True)
class Source:
    """A dataset before it is dealt to sites.

    Attributes:
        pool: the images that are dealt to the sites (official train and val splits together).
        test: the one global test set, the same for every strategy and every study seed.
        warnings: one line each, to be shown once.
        val: how many images at the end of ``pool`` are the official val split; 0 where there is none.
        left_out: files that gave no image, and why; for whoever holds the data alone.
        leaks: what pool and test set have in common, as they were read; None before anyone compared them.
    """

    pool: ImageSet
    test: ImageSet
    warnings: list[str] = field(default_factory=list)
    val: int = 0
    left_out: tuple[LeftOut, ...] = ()
    leaks: Leaks | None = None

    @cached_property
    def identity(self) -> str:
        """What names the data, wherever they lie: all that decides a split or a result (:func:`identity_of`)."""
        return identity_of(self.pool, self.test, self.val)

    def without(self, gone: NDArray[np.bool_]) -> Source:
        """Return the same without the images of the pool at bool ``gone [N]``."""
        kept = np.flatnonzero(~gone)
        val = int((kept >= len(self.pool) - self.val).sum())
        return dataclasses.replace(self, pool=self.pool.subset(kept), val=val)


def load_source(config: DataConfig, cache: Path | None = None) -> Source:
    """Return the dataset that ``config`` names; loaded once per process, so treat its arrays as read-only.

    A file that was replaced since is loaded anew.

    ``config.name`` is a built-in set, a MedMNIST set, or the dotted name of an importable module that has a
    ``load(config: DataConfig) -> Source``.

    Args:
        config: the dataset.
        cache: a folder of this account's own, where images that are decoded from single files are kept for later
            processes.

    Raises:
        UserError: an unknown dataset, or a file that is missing, corrupt or of another layout.
    """
    return _load_once(_Wanted(json.dumps(dataclasses.asdict(config), sort_keys=True), file_stamp(config), cache))


@dataclass(frozen=True)
class _Wanted:
    """A dataset as it is on disk now, wherever decoded images are kept."""

    config: str
    stamp: tuple[Any, ...]
    cache: Path | None = field(compare=False)


def counted_facts(source: Source) -> FactsConfig:
    """Return what a schedule is made of. Images that were taken out as leaks count, as in a public set's own file."""
    pool, removed = source.pool, source.leaks.removed if source.leaks else None
    return FactsConfig(len(pool) + (removed or 0), pool.size, pool.channels, len(pool.classes))


def check_facts(study: Study, source: Source) -> None:
    """Raise :class:`UserError` where a schedule was made of other images than there are, or a tenth more or fewer.

    Where nobody said their side, channels or classes, those that the rule took instead must be theirs.
    """
    told = study.facts
    if not told.images:
        return
    there, taken = counted_facts(source), site_facts(study)
    remedy = (
        f"choose it by its group (dataset={study.data.name}), or set facts.images=0, which counts them and the rest"
    )
    images = min(told.images, study.data.limit or told.images)
    if abs(there.images - images) > images / 10:
        raise UserError(f"facts.images={told.images}: {study.data.name} has {there.images} to deal out; {remedy}")
    for name in ("side", "channels", "classes"):
        had, took = getattr(there, name), getattr(taken, name)
        if had != took:
            unknown = "" if getattr(told, name) else f" (unknown, taken as {took})"
            raise UserError(
                f"facts.{name}={getattr(told, name)}{unknown}: the images of {study.data.name} have {had}; {remedy}"
            )


def study_source(study: Study) -> Source:
    """Return the dataset that a study began with: the one place where data that are read again are known again.

    Raises:
        UserError: as :func:`load_source`; or others have taken their place, with what changed of them.
    """
    source, began = load_source(study.data), study.data_digest
    if began and source.identity != began:
        where = f"data.name={study.data.name}" + (f" ({study.data.path})" if study.data.path else "")
        changed = ", ".join(what_changed(began, source.identity))
        raise UserError(
            f"the data of {where} are not those that the study began with: {changed} changed; put them back, or start "
            "a new study with these"
        )
    return source


def set_apart_test(everything: ImageSet, fraction: float, where: str) -> Source:
    """Set a stratified ``fraction`` apart as the global test set of a dataset that has no official one.

    The draw depends on nothing but the data, so results under different study seeds share one test set. No group
    (patient) is divided.

    Raises:
        UserError: ``fraction`` leaves either side empty; ``where`` names the file in the message.
    """
    if not 0 < fraction < 1:
        raise UserError(f"data.test_fraction={fraction}: a share of the images, between 0 and 1")
    rng = numpy_rng("global test set")
    pool, test = deal(everything.labels, (1 - fraction, fraction), rng, everything.groups)
    if not len(pool) or not len(test):
        raise UserError(f"{where}: {len(everything)} image(s) are too few to set a test set apart; add images")
    return Source(everything.subset(pool), everything.subset(test))


@lru_cache(maxsize=2)
def _load_once(wanted: _Wanted) -> Source:
    config = read_dataclass(DataConfig, json.loads(wanted.config), "data")
    check_values(config, "data")
    if config.range and config.scale == "image":
        raise UserError(f"data.range={config.range} and data.scale=image: choose one of them")
    load = find_loader(config.name)
    source = load(config, wanted.cache) if config.name in OF_SINGLE_FILES else load(config)
    _check(source, config)
    source = _without_leaks(_limited(source, config.limit), config)
    leaks = source.leaks.warnings() if source.leaks else []
    warnings = [*source.warnings, *_told_unused(config), *_class_warnings(source), *_contrast_warnings(source), *leaks]
    return dataclasses.replace(source, warnings=warnings)


def _told_unused(config: DataConfig) -> list[str]:
    """Return a line where the images have 8 bits in any case, and an option for more of them was set."""
    of_files = config.name in OF_FILES or "." in config.name
    if of_files or not (config.range or config.scale == "image"):
        return []
    return [f"{config.name}: 8 bits, so data.range and data.scale change nothing"]


def find_loader(name: str) -> Callable[..., Source]:
    """Return the ``load`` function of the family that ``name`` belongs to; raise :class:`UserError` for no family."""
    if "." in name:
        module = import_named("data.name", name, "function load", remedy="add load(config) that returns a Source")
    elif name in BUILT_IN:
        module = importlib.import_module(BUILT_IN[name])
    else:
        module = importlib.import_module("fedkr.data.sources.medmnist")
        one_of("data.name", name, (*BUILT_IN, *module.NAMES), "dataset")
    return module.load


def _check(source: Source, config: DataConfig) -> None:
    if not isinstance(source, Source):
        raise UserError(f"data.name={config.name!r}: load(config) returned {type(source).__name__}; return a Source")
    pool, test = source.pool, source.test
    if pool.images.shape[1:] != test.images.shape[1:] or pool.classes != test.classes:
        raise UserError(f"data.name={config.name!r}: pool and test differ in image shape or classes; make them agree")
    if len({same_text(name) for name in pool.classes}) < len(pool.classes):
        raise UserError(f"data.classes: two classes have one name in {list(pool.classes)}; give each its own")
    _check_names(pool.classes)
    if config.size not in (0, pool.size):
        raise UserError(
            f"data.size={config.size}: the images of {config.name!r} have {pool.size} x {pool.size} pixels; "
            f"use data.size=0 or {pool.size}"
        )
    if config.channels not in (0, pool.channels):
        raise UserError(
            f"data.channels={config.channels}: the images of {config.name!r} have {pool.channels}; "
            f"use data.channels=0 or {pool.channels}"
        )
    if config.classes and [same_text(name) for name in config.classes] != [same_text(name) for name in pool.classes]:
        raise UserError(
            f"data.classes: {config.name!r} brings its own classes {list(pool.classes)}; use data.classes=[]"
        )


def _check_names(classes: Sequence[str]) -> None:
    """Raise :class:`UserError` for class names that no site's card can carry."""
    if len(classes) > MOST_CLASSES:
        raise UserError(f"data.classes: {len(classes)} classes; a study has at most {MOST_CLASSES}")
    for name in classes:
        if len(name) > LONGEST_TEXT:
            raise UserError(
                f"data.classes: a name of {len(name)} characters ({name[:40]!a}...); {LONGEST_TEXT} at most"
            )
        if not name.strip() or not name.isprintable():
            raise UserError(f"data.classes: {name!a} is no class's name; give it one that can be printed")


def _limited(source: Source, limit: int) -> Source:
    if not 0 < limit < len(source.pool):
        return source
    share = limit / len(source.pool)
    kept, _ = deal(source.pool.labels, (share, 1 - share), numpy_rng("limit"), least=0)
    return source.without(~np.isin(np.arange(len(source.pool)), kept))


def _without_leaks(source: Source, config: DataConfig) -> Source:
    """Compare pool and test set; take what both have out of the pool where the config says so."""
    leaks, concerned = find_leaks(source.pool, source.test, config.near_leaks)
    if not config.remove_leaks:
        return dataclasses.replace(source, leaks=leaks)
    if concerned.all():
        raise UserError("data.remove_leaks=true: it would take every image of the pool; give other test images")
    leaks = dataclasses.replace(leaks, removed=int(concerned.sum()))
    return dataclasses.replace(source.without(concerned), leaks=leaks)


def _class_warnings(source: Source) -> list[str]:
    """Return a line for each way in which classes are of no use: without images, or in one of pool and test alone."""
    pool, test, names = source.pool.class_counts(), source.test.class_counts(), np.array(source.pool.classes)
    told = {
        "have no image at all": (pool == 0) & (test == 0),
        "have test images but none to train on, so that no model can get them right": (pool == 0) & (test > 0),
        "have no test image, so that no figure says how well they are told apart": (pool > 0) & (test == 0),
    }
    return [f"classes that {what}: {few(names[those].tolist())}" for what, those in told.items() if those.any()]


def _contrast_warnings(source: Source) -> list[str]:
    """Return a line for images that show next to nothing, as values from 0 to 1, or to 16, saved as uint8 do."""
    lines = []
    for images, which in ((source.pool.images, "images"), (source.test.images, "test images")):
        low, high = int(images.min(initial=255)), int(images.max(initial=0))
        if high - low <= LEAST_CONTRAST:
            lines.append(
                f"all pixels of all {which} are from {low} to {high} of 255, so they show next to nothing: "
                "are they scaled?"
            )
    return lines
