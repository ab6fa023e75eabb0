"""What helps where sites are skewed: teachers, labels, class shares and the student's sampling, alone and together.

``python -m simulations.evidence.skew OUT.json data.root=DIR seeds=0,1,2 [cuts=CUT,...] [ways=WAY,...]`` deals each cut
of a development set to five sites, once a seed. Their images come from ``neighbours``, a stand-in that trains nothing,
so that many ways fit into an hour: what depends on how well a generator draws is not measured here. Each way trains one
student of all sites' images, scored on the set's test images. ``skew_summary`` reads the rows.

Teachers are trained to the end of their schedule, as everywhere where val has fewer than 100 images: no cut has more at
a site.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedkr.config import Study
from fedkr.data import ImageSet, SiteData, load_source, partition_sites, prepare_site
from fedkr.data.images import Shape
from fedkr.disk import write_json
from fedkr.environment import provenance
from fedkr.errors import UserError
from fedkr.generators.base import Task
from fedkr.learning.job import Job
from fedkr.learning.prediction import predict_logits
from fedkr.learning.runtime import Runtime
from fedkr.recycle.distill import distill_student
from fedkr.recycle.drawer import class_shares, one_hot
from fedkr.recycle.teacher import SoftLabeller, TeacherTraining, build_teacher
from fedkr.release import ReleasedSets, SoftSet
from fedkr.seeds import numpy_rng
from server.composition import compose_study
from server.consensus import consensus, rows
from server.judges import JUDGE_STEPS
from server.student import train_student
from server.targets import measure_model
from simulations.evidence.labels import drawn_alike, softmax
from simulations.evidence.neighbours import Generator, Options

Floats = NDArray[np.floating]
BySite = dict[str, Floats]
Row = dict[str, Any]
# Small classifiers and short schedules, so that all of it fits.
USUAL = (
    *("federation.sites=5", "budget=quick", "student.arch=resnet8", "student.width=8"),
    *("teacher.arch=resnet8", "teacher.width=8"),
)
# A teacher is sure of a class as far as n / (n + KNOWN) of its n images of it go.
KNOWN = 20.0
ENSEMBLE = 3


@dataclass(frozen=True)
class Cut:
    """A part of a development set, and how it is dealt.

    Attributes:
        dataset: its name.
        alpha: of Dirichlet.
        images: of the pool that are kept, at random; 0 is all.
        tail: the rarest class has so many times fewer images than the commonest, the others lie between.
        noise: share of labels that are another class's.
    """

    dataset: str
    alpha: float = 0.5
    images: int = 0
    tail: float = 1.0
    noise: float = 0.0

    def of(self, pool: ImageSet, seed: int) -> ImageSet:
        """Return the images that are kept, some with other labels."""
        rng = numpy_rng("cut", seed)
        order = rng.permutation(len(pool))
        if self.tail > 1:
            order = np.concatenate([self._of_class(order, pool, k) for k in range(len(pool.classes))])
            order = rng.permutation(order)
        kept = pool.subset(np.sort(order[: self.images or None]))
        wrong = np.flatnonzero(rng.random(len(kept)) < self.noise)
        labels, classes = kept.labels.copy(), len(kept.classes)
        labels[wrong] = (labels[wrong] + rng.integers(1, classes, len(wrong))) % classes
        return dataclasses.replace(kept, labels=labels)

    def _of_class(self, order: NDArray[np.int64], pool: ImageSet, k: int) -> NDArray[np.int64]:
        own = order[pool.labels[order] == k]
        share = self.tail ** (-k / (len(pool.classes) - 1))
        return own[: max(1, round(share * len(own)))]


CUTS = {
    "digits-0.1": Cut("digits", alpha=0.1),
    "digits-60": Cut("digits", images=480),
    "digits-tail": Cut("digits", tail=50),
    "breast-0.5": Cut("breastmnist"),
    "breast-noise": Cut("breastmnist", noise=0.1),
    "pneumonia-0.5": Cut("pneumoniamnist", images=900),
    "pneumonia-0.1": Cut("pneumoniamnist", alpha=0.1, images=1800),
    "blood-0.5": Cut("bloodmnist", images=1000),
    "blood-0.1": Cut("bloodmnist", alpha=0.1, images=1600),
    "blood-tail": Cut("bloodmnist", images=1000, tail=50),
}


@dataclass(frozen=True)
class Way:
    """One way from the sites' images to a student.

    Attributes:
        teacher: ``plain``, ``adjusted`` (``teacher.logit_adjustment=1``) or ``ensemble`` (the mean of three).
        balance: class shares of a release.
        labels: what is made of the teacher's labels, by :data:`LABELS`.
        alike: whether the student meets each class of each site equally often.
    """

    teacher: str = "plain"
    balance: str = "histogram"
    labels: str = "released"
    alike: bool = False


WAYS = {
    "default": Way(),
    "adjusted": Way(teacher="adjusted"),
    "adjusted+union": Way(teacher="adjusted", labels="union"),
    "adjusted+known": Way(teacher="adjusted", labels="known"),
    "adjusted+alike": Way(teacher="adjusted", alike=True),
    "ensemble": Way(teacher="ensemble"),
    "balanced": Way(balance="balanced"),
    "asked": Way(labels="asked"),
    "known": Way(labels="known"),
    "consensus": Way(labels="consensus"),
    "alike": Way(alike=True),
    "ensemble+asked": Way(teacher="ensemble", labels="asked"),
    "ensemble+known": Way(teacher="ensemble", labels="known"),
    "all": Way(teacher="ensemble", balance="tempered", labels="known", alike=True),
}


class Site:
    """A site with its images: what it draws, and what its teachers say."""

    def __init__(self, name: str, data: SiteData, study: Study, job: Job) -> None:
        self.name, self.data, self.study, self.job = name, data, study, job.seeded(name)
        task = Task(study.generator, Shape.of(data.train), job.flip, job.runtime)
        self.generator = Generator(task, Options())
        self.generator.images, self.generator.labels = data.train.images, data.train.labels
        self.counts = data.train.class_counts()
        self._drawn = dict[str, tuple[NDArray[np.int64], NDArray[np.uint8]]]()
        self._labels = dict[tuple[str, str], Floats]()

    def drawn(self, balance: str) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Return the classes asked for and the images of all slices, drawn once."""
        if balance not in self._drawn:
            recycle, rng = self.study.recycle, numpy_rng(*self.job.seed, "classes")
            count = len(self.data.train)
            slices = [
                class_shares(self.counts, count, balance, recycle.min_class_count, rng) for _ in range(recycle.rounds)
            ]
            asked = np.concatenate(slices)
            images = np.concatenate(list(self.generator.sample(asked, {}, *self.job.seed, "images")))
            self._drawn[balance] = asked, images
        return self._drawn[balance]

    def soft_labels(self, teacher: str, balance: str) -> Floats:
        """Return what a teacher says of the drawn images, float ``[N, K]``."""
        if (teacher, balance) not in self._labels:
            own, images = self.study, self.drawn(balance)[1]
            labels = [
                SoftLabeller(model, 1.0, own.recycle.views, own.teacher.augment, self.job)(images, *self.job.seed)
                for model in self._teachers(teacher)
            ]
            self._labels[teacher, balance] = np.mean(labels, axis=0)
        return self._labels[teacher, balance]

    def _teachers(self, kind: str) -> list[nn.Module]:
        if kind == "ensemble":
            return self.ensemble
        return [self.plain if kind == "plain" else self.adjusted]

    @cached_property
    def plain(self) -> nn.Module:
        """The teacher as the default has it."""
        return self._trained()

    @cached_property
    def ensemble(self) -> list[nn.Module]:
        """It and others from other seeds."""
        return [self.plain, *(self._trained("again", number) for number in range(1, ENSEMBLE))]

    @cached_property
    def adjusted(self) -> nn.Module:
        """One that is trained behind the site's class shares."""
        return self._trained(logit_adjustment=1.0)

    def _trained(self, *seed: object, logit_adjustment: float = 0.0) -> nn.Module:
        job = self.job.seeded("teacher", *seed)
        config = dataclasses.replace(self.study.teacher, logit_adjustment=logit_adjustment)
        work = TeacherTraining(build_teacher(config, self.data, *job.seed), config, self.data.train, job)
        work.advance(config.steps, "teacher")
        return work.model.eval()


class Federation:
    """The sites of a cut, dealt by a seed, and the students of all ways."""

    def __init__(self, name: str, seed: int, root: str) -> None:
        cut = CUTS[name]
        options = [f"dataset={cut.dataset}", f"seed={seed}", f"partition.alpha={cut.alpha}", f"data.root={root}"]
        self.study = compose_study([*USUAL, *options, f"data.limit={cut.images}", "device=cpu"])
        source = load_source(dataclasses.replace(self.study.data, limit=0))
        pool, self.test = cut.of(source.pool, seed), source.test
        self.job = Job(Runtime.choose("cpu", "float32", 1), flip=self.study.data.flip, seed=(seed, name))
        self.sites = [
            Site(f"site-{number}", prepare_site(pool.subset(held), self.study, f"site-{number}"), self.study, self.job)
            for number, held in enumerate(partition_sites(pool, self.study))
        ]

    def figures(self, way: Way) -> Row:
        """Return the headline figures of a way's student on the test images."""
        labels = LABELS[way.labels](self, way)
        sets = [self.sets_of(site, way.balance, labels[site.name]) for site in self.sites]

        def read(index: int) -> SoftSet:
            parts = [own(index) for own in sets]
            return drawn_alike(parts, "alike", index) if way.alike else SoftSet.union(parts)

        rounds = ReleasedSets(read, self.study.recycle.rounds)
        model = train_student(self.study.student, rounds, self.job.seeded("student"))
        return measure_model(self.study, model, self.test, self.job.runtime)

    def sets_of(self, site: Site, balance: str, labels: Floats) -> ReleasedSets:
        """Return a site's images slice by slice, with other labels than its own."""
        rounds, images = self.study.recycle.rounds, site.drawn(balance)[1]
        return ReleasedSets.of_arrays(images, labels.astype(np.float16), [len(images) // rounds] * rounds)

    def seen(self, way: Way) -> dict[str, BySite]:
        """Return what short students of each other site's images see in a site's."""
        config = dataclasses.replace(self.study.student, steps=min(JUDGE_STEPS, self.study.student.steps))
        judges = {
            site.name: distill_student(
                config,
                self.sets_of(site, way.balance, site.soft_labels(way.teacher, way.balance)),
                self.job.seeded("judge", site.name),
                "judge",
            )
            for site in self.sites
        }
        return {
            site.name: {
                peer: softmax(predict_logits(judge, site.drawn(way.balance)[1], self.job.runtime))
                for peer, judge in judges.items()
                if peer != site.name
            }
            for site in self.sites
        }


def released(federation: Federation, way: Way) -> BySite:
    """The teacher's soft labels."""
    return {site.name: site.soft_labels(way.teacher, way.balance) for site in federation.sites}


def asked_for(federation: Federation, way: Way) -> BySite:
    """Half the teacher's label, half the class that the image was drawn for."""
    return _mixed(federation, way, lambda site, classes: np.full(len(classes), 0.5))


def as_far_as_known(federation: Federation, way: Way) -> BySite:
    """The teacher's label as far as it met the class that the image was drawn for, and else that class."""
    return _mixed(federation, way, lambda site, classes: site.counts[classes] / (site.counts[classes] + KNOWN))


def _mixed(federation: Federation, way: Way, trust: Callable[[Site, NDArray[np.int64]], NDArray[np.float64]]) -> BySite:
    mixed = dict[str, Floats]()
    for site in federation.sites:
        classes = site.drawn(way.balance)[0]
        own = trust(site, classes)[:, None]
        mixed[site.name] = own * site.soft_labels(way.teacher, way.balance) + (1 - own) * one_hot(
            classes, len(site.counts)
        )
    return mixed


def for_the_union(federation: Federation, way: Way) -> BySite:
    """The labels of a teacher that knows no class shares, with those of all sites' images together."""
    shares = np.sum([site.counts for site in federation.sites], axis=0) + 1.0
    return {site: rows(own * shares / shares.sum()) for site, own in released(federation, way).items()}


LABELS: Mapping[str, Callable[[Federation, Way], BySite]] = {
    "released": released,
    "asked": asked_for,
    "known": as_far_as_known,
    "union": for_the_union,
    "consensus": lambda f, way: dict(consensus(released(f, way), f.seen(way))),
}


def main(words: Sequence[str]) -> int:
    """Measure all ways on all cuts, and write the rows of each cut as it ends."""
    options = dict(word.split("=", 1) for word in words[1:])
    out, seeds = Path(words[0]), [int(seed) for seed in options.get("seeds", "0").split(",")]
    names, ways = (options.get(word, ",".join(of)).split(",") for word, of in (("cuts", CUTS), ("ways", WAYS)))
    found: list[Row] = []
    for seed in seeds:
        for name in names:
            try:
                federation = Federation(name, seed, options.get("data.root", "data"))
            except UserError as error:
                print(name, seed, error, flush=True)
                continue
            for way in ways:
                figures = federation.figures(WAYS[way])
                found.append({"cut": name, "set": CUTS[name].dataset, "seed": seed, "way": way} | figures)
                print(*found[-1].values(), flush=True)
            write_json(out, {"rows": found} | provenance())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
