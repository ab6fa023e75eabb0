"""The images of a sweep: who trains on which, and who has none of it; the same for every variant."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkr.audit.attacks.observed import Bools
from fedkr.audit.challenge import build_challenge, population_of
from fedkr.audit.references.direct import reference_halves
from fedkr.audit.references.shadows import ShadowPipeline
from fedkr.config import DataConfig, Study, check_study, one_of, read_dataclass, set_option, with_options
from fedkr.data import ImageSet, SiteData, Source, content_digest, joined, load_source
from fedkr.data.distances import Rows, common_spaces
from fedkr.data.stratify import deal
from fedkr.errors import UserError
from fedkr.fingerprint import array_digest, fingerprint
from fedkr.learning.runtime import Runtime
from fedkr.progress import SilentProgress
from fedkr.recycle import SitePipeline, pipeline_class
from fedkr.recycle.pipeline import site_job
from fedkr.recycle.terms import Terms
from fedkr.seeds import numpy_rng
from fedkr.stages import StageStore, code_version
from server.composition import compose_study
from simulations.evidence.long_tail import long_tail
from simulations.evidence.privacy.variants import Variant

# Candidates, of which each pipeline trains on half, and val images; all others are the population.
SIZES = {
    "digits": (600, 40),
    "pneumoniamnist": (2400, 200),
    "breastmnist": (240, 24),
    "bloodmnist": (2400, 200),
}
# Other sites, each with as many images as a pipeline trains on: what they release is the same for all pipelines.
PEERS = 2
SITES = 1 + PEERS
# Options that say where images and results lie, which the images' digests stand for.
OF_NO_VARIANT = ("data", "out", "run_dir")


@dataclass(frozen=True)
class Settings:
    """What a sweep was asked for.

    Attributes:
        dataset: one of ``SIZES``.
        data_root: folder of the datasets' files.
        members: how many images each pipeline and each other site trains on; 0 is half the pool of ``SIZES``, with the
            dataset's own schedules, any other number has the rule's for sites of so many.
        pipelines: how many train on a random half of the pool each, an even number.
        seed: redraws halves, trainings and samples.
        device, precision: as in a study.
        options: of the study, as ``group.option=value``, for all variants.
        stages: folder of everything that is trained.
        out: folder of what the pipelines' models answered, and of the results.
        tail: the last class keeps so many times fewer of its images than the first, which keeps all.
    """

    dataset: str
    data_root: str
    members: int
    pipelines: int
    seed: int
    device: str
    precision: str
    options: tuple[str, ...]
    stages: str
    out: str
    tail: float = 1.0


class Bench:
    """One dataset, dealt to pipelines on halves of one pool, to other sites, and to those that nobody trains on."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        one_of("dataset", settings.dataset, tuple(SIZES))
        self.base = base_study(settings)
        source = load_dataset(settings.dataset, settings.data_root)
        self.test = source.test
        pool, *peers, self.val, rest = self._dealt(source)
        self.pool, self.peers = pool, tuple(peers)
        challenge = build_challenge(pool, joined([*peers, self.val]))
        self.population = population_of([rest], challenge, f"{settings.dataset}: no image is left for the population")
        self.membership: Bools = reference_halves(settings.pipelines, pool, numpy_rng(settings.seed, "halves"))

    def _dealt(self, source: Source) -> list[ImageSet]:
        size, val = SIZES[self.settings.dataset]
        members, everything, tail = self.settings.members or size // 2, source.pool, self.settings.tail
        if tail > 1:
            order = numpy_rng(self.settings.seed, "tail").permutation(len(everything))
            everything = everything.subset(order[long_tail(everything.labels[order], len(everything.classes), tail)])
        counts = [2 * members, *[members] * PEERS, val]
        if sum(counts) >= len(everything):
            most = (len(everything) - val - 1) // (2 + PEERS)
            left = f" with tail={tail:g}" if tail > 1 else ""
            raise UserError(f"members={members}: {self.settings.dataset} has images for {most} at most{left}")
        shares = [count / len(everything) for count in counts]
        parts = deal(everything.labels, [*shares, 1 - sum(shares)], numpy_rng(self.settings.seed, "privacy"))
        return [everything.subset(part) for part in parts]

    def train_of(self, number: int) -> ImageSet:
        """Return what a pipeline trains on; those after ``settings.pipelines`` are the other sites."""
        if number >= self.settings.pipelines:
            return self.peers[number - self.settings.pipelines]
        return self.pool.subset(np.flatnonzero(self.membership[number]))

    def study(self, variant: Variant) -> Study:
        """Return a variant's study; raise :class:`UserError` for options that no run could work with."""
        values = dataclasses.asdict(self.base)
        for name, value in variant.sets.items():
            set_option(values, name, value)
        for name, factor in variant.times.items():
            group, option = name.split(".")
            set_option(values, name, max(1, round(values[group][option] * factor)))
        study = read_dataclass(Study, values, "study")
        check_study(study)
        return study

    def pipeline(self, variant: Variant, number: int) -> SitePipeline:
        """Return a variant's pipeline, which draws from its last checkpoint by the generator's own knobs."""
        study, site = self.study(variant), f"pipeline-{number}"
        runtime = Runtime.choose(study.device, study.precision, study.threads)
        parts: dict[str, Any] = {
            "site": site,
            "data": SiteData(self.train_of(number), self.val, self.val, self.val),
            "study": study,
            "stages": StageStore(Path(self.settings.stages)),
            "job": site_job(study, site, runtime, SilentProgress()),
            "terms": Terms(classes=variant.classes),
        }
        return pipeline_class(study)(**parts) if study.privacy.guaranteed else ShadowPipeline(1.0, {}, **parts)

    def rows(self, images: NDArray[np.uint8]) -> Rows:
        """Bring images into the spaces of the release attacks, fitted on images of others than the candidates."""
        outside = joined(self.peers).images, self.population.images
        return common_spaces(*outside, numpy_rng(self.settings.seed, "components"))(images)

    def identity(self, variant: Variant) -> str:
        """Return what a variant's answers depend on: its options, and what all variants share."""
        options = self.study(variant).options(*OF_NO_VARIANT)
        return fingerprint({"options": options, "classes": variant.classes, "shared": self.shared})

    @cached_property
    def shared(self) -> str:
        """What the answers of all variants of a sweep depend on: options, images, halves and code."""
        sets = (self.pool, *self.peers, self.val, self.population, self.test)
        return fingerprint(
            {
                "options": self.base.options(*OF_NO_VARIANT),
                "flip": self.base.data.flip,
                "images": [content_digest(data) for data in sets],
                "halves": array_digest([self.membership]),
                "code": code_version(),
            }
        )


@lru_cache(maxsize=1)
def bench_of(settings: Settings) -> Bench:
    """Return the bench of settings, built once a process."""
    return Bench(settings)


def base_study(settings: Settings) -> Study:
    """Return the product's own study of a dataset, with one checkpoint."""
    own = [f"{name}={getattr(settings, name)}" for name in ("seed", "device", "precision")]
    if settings.members:
        own += [f"facts.images={SITES * settings.members}", f"federation.sites={SITES}"]
    # The last one draws: a checkpoint that val chose would differ from pipeline to pipeline.
    study = compose_study([f"dataset={settings.dataset}", "generator.checkpoints=1", *own])
    # Left to the defaults of their kinds, which other kinds have not.
    study.generator.options, study.strategy.options = {}, {}
    return with_options(study, settings.options)


def load_dataset(name: str, root: str) -> Source:
    """Return a dataset's images; MedMNIST's files are read as they are, without the package of that name."""
    if name == "digits":
        return load_source(DataConfig(name=name))
    return load_source(DataConfig(name="npz", path=str(Path(root) / f"{name}.npz")))


def counts(bench: Bench) -> dict[str, int]:
    """Return how many images each part of a bench has."""
    parts: Iterable[tuple[str, ImageSet]] = (
        ("pool", bench.pool),
        ("each other site", bench.peers[0]),
        ("val", bench.val),
        ("population", bench.population),
        ("test", bench.test),
    )
    return {name: len(data) for name, data in parts}
