"""Five sites of a cut, what each draws, what its teachers say of it, and the student of a way."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp
from torch import nn

from fedkr.config import Study
from fedkr.data import ImageSet, SiteData, load_source, partition_sites, prepare_site
from fedkr.data.images import Shape
from fedkr.generators import Generator
from fedkr.generators.base import Task
from fedkr.learning.classifier import ClassifierTraining, real_batches
from fedkr.learning.evaluation import measure_utility
from fedkr.learning.job import Job
from fedkr.learning.prediction import predict_logits
from fedkr.learning.runtime import Runtime
from fedkr.recycle.distill import distill_student
from fedkr.recycle.doubt import doubted_classes
from fedkr.recycle.drawer import Drawer, class_shares
from fedkr.recycle.pipeline import SitePipeline
from fedkr.recycle.teacher import SoftLabeller, build_teacher
from fedkr.release import ReleasedSets, SoftSet
from fedkr.seeds import numpy_rng
from fedkr.stages import Artifact, StageStore
from server.composition import compose_study
from server.judges import JUDGE_STEPS
from server.student import train_student
from server.targets import figures_of, predict
from simulations.evidence import neighbours
from simulations.evidence.labels import drawn_alike, softmax
from simulations.evidence.skew.cuts import CUTS
from simulations.evidence.skew.ways import Draw, Way

Floats = NDArray[np.floating]
BySite = dict[str, Floats]
STAND_IN = "neighbours"
# Small classifiers, so that all of it fits.
SMALL = ("student.arch=resnet8", "student.width=8", "teacher.arch=resnet8", "teacher.width=8", "federation.sites=5")
ENSEMBLE = 3


def study_of(name: str, seed: int, root: str, budget: str, generator: str = STAND_IN) -> Study:
    """Return the study of a cut, with the rule's schedules of a budget."""
    cut = CUTS[name]
    images = [f"dataset={cut.dataset}", f"data.limit={cut.images}", f"data.root={root}"]
    kind = [] if generator == STAND_IN else [f"generator={generator}"]
    dealt = [f"partition.alpha={cut.alpha}", f"seed={seed}"]
    return compose_study([*SMALL, *images, *kind, *dealt, f"budget={budget}", "device=cpu"])


def images_of(name: str, study: Study) -> tuple[ImageSet, ImageSet]:
    """Return the images of a cut, and the set's test images."""
    source = load_source(dataclasses.replace(study.data, limit=0))
    return CUTS[name].of(source.pool, study.seed), source.test


class Site:
    """A site with its images: what it draws, and what its teachers say."""

    def __init__(self, name: str, data: SiteData, study: Study, job: Job, generator: Generator) -> None:
        self.name, self.data, self.study, self.job = name, data, study, job.seeded(name)
        self.generator, self.counts = generator, data.train.class_counts()
        self._drawn = dict[Draw, tuple[NDArray[np.int64], NDArray[np.uint8]]]()
        self._labels = dict[tuple[str, Draw], Floats]()
        self._drawers = dict[Draw, Drawer]()

    def drawn(self, draw: Draw) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Return the classes asked for and the images of all slices, drawn once."""
        if draw not in self._drawn:
            recycle, rng = self.study.recycle, numpy_rng(*self.job.seed, "classes")
            count = len(self.data.train)
            # Where no class has as many, the commonest is drawn alone.
            least = min(draw.least or recycle.min_class_count, int(self.counts.max()))
            slices = [class_shares(self.counts, count, draw.balance, least, rng) for _ in range(recycle.rounds)]
            asked = np.concatenate(slices)
            self._drawn[draw] = asked, self.drawer(draw).draw(asked, "images").images
        return self._drawn[draw]

    def drawer(self, draw: Draw) -> Drawer:
        """Return what draws by the generator's own knobs, made once; where there is doubt, the plain teacher's."""
        if draw not in self._drawers:
            recycle = dataclasses.replace(self.study.recycle, doubt=draw.doubt)
            doubted = frozenset[int]()
            if draw.doubt:
                labeller = self._labeller(self.plain)
                doubted = doubted_classes(self.generator, self.counts, recycle, labeller, self.job)
            knobs = self.generator.default_knobs()
            self._drawers[draw] = Drawer(self.generator, knobs, self.counts, recycle, None, self.job, doubted)
        return self._drawers[draw]

    def sample(self, asked: NDArray[np.int64], *seed: object) -> NDArray[np.uint8]:
        """Return an image of each class of ``asked [N]``, uint8 ``[N, H, W, C]``, by the generator's own knobs."""
        knobs = self.generator.default_knobs()
        return np.concatenate(list(self.generator.sample(asked, knobs, *self.job.seed, *seed)))

    def soft_labels(self, teacher: str, draw: Draw) -> Floats:
        """Return what a teacher says of the drawn images, float ``[N, K]``."""
        if (teacher, draw) not in self._labels:
            images = self.drawn(draw)[1]
            labels = [self._labeller(model)(images, *self.job.seed) for model in self._teachers(teacher)]
            self._labels[teacher, draw] = np.mean(labels, axis=0)
        return self._labels[teacher, draw]

    def _labeller(self, teacher: nn.Module) -> SoftLabeller:
        return SoftLabeller(teacher, 1.0, self.study.recycle.views, self.study.teacher.augment, self.job)

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
        batches = real_batches(self.data.train, config.batch, *job.seed)
        work = ClassifierTraining(build_teacher(config, self.data, *job.seed), config, batches, job)
        work.advance(config.steps, "teacher")
        return work.model.eval()


class Federation:
    """The sites of a cut, dealt by a seed, and the students of all ways.

    Args:
        name: of the cut.
        study: its own (:func:`study_of`), whose seed is of the cut, the deal, and all that is trained.
        trained: whether sites train the study's generator; else a stand-in draws.
        folder: keeps what was trained of the generators, so that they are trained once.
    """

    def __init__(self, name: str, study: Study, trained: bool, folder: Path) -> None:
        self.study = study
        pool, self.test = images_of(name, self.study)
        self.job = Job(Runtime.choose("cpu", "float32", 1), flip=self.study.data.flip, seed=(study.seed, name))
        self.sites = list[Site]()
        for number, held in enumerate(partition_sites(pool, self.study)):
            site = f"site-{number}"
            data = prepare_site(pool.subset(held), self.study, site)
            drawing = self._trained(site, data, folder) if trained else self._stand_in(data)
            self.sites.append(Site(site, data, self.study, self.job, drawing))

    def _stand_in(self, data: SiteData) -> Generator:
        task = Task(self.study.generator, Shape.of(data.train), self.job.flip, self.job.runtime)
        found = neighbours.Generator(task, neighbours.Options())
        found.images, found.labels = data.train.images, data.train.labels
        return found

    def _trained(self, site: str, data: SiteData, folder: Path) -> Generator:
        pipeline = SitePipeline(site, data, self.study, StageStore(folder / site), self.job.seeded(site))
        found, last = pipeline.build_generator(), max(pipeline.generator_checkpoints())
        found.load(pipeline.checkpoint(last))
        return found

    def figures(self, way: Way, labels: BySite) -> dict[str, Any]:
        """Return the headline figures, on the test images, of the students of a way with its labels."""
        models = self.students(way, labels)
        said = [log_softmax(predict(self.study, model, self.test, self.job.runtime), axis=1) for model in models]
        together = logsumexp(said, axis=0)
        return figures_of(dataclasses.asdict(measure_utility(together, self.test.labels, len(self.test.classes))))

    def students(self, way: Way, labels: BySite) -> list[Artifact]:
        """Return the students of a way with its labels."""
        sets = [self.sets_of(site, way.draw, labels[site.name]) for site in self.sites]

        def read(index: int) -> SoftSet:
            parts = [own(index) for own in sets]
            return drawn_alike(parts, "alike", index) if way.alike else SoftSet.union(parts)

        usual = self.study.student
        config = dataclasses.replace(usual, steps=way.longer * usual.steps, logit_adjustment=way.adjustment)
        union = ReleasedSets(read, self.study.recycle.rounds)
        seeds = [("student", *([number] if number else [])) for number in range(way.students)]
        return [train_student(config, union, self.job.seeded(*seed)) for seed in seeds]

    def sets_of(self, site: Site, draw: Draw, labels: Floats) -> ReleasedSets:
        """Return a site's images slice by slice, with other labels than its own."""
        rounds, images = self.study.recycle.rounds, site.drawn(draw)[1]
        return ReleasedSets.of_arrays(images, labels.astype(np.float16), [len(images) // rounds] * rounds)

    def seen(self, way: Way) -> dict[str, BySite]:
        """Return what short students of each other site's images see in a site's."""
        config = dataclasses.replace(self.study.student, steps=min(JUDGE_STEPS, self.study.student.steps))
        judges = {
            site.name: distill_student(
                config,
                self.sets_of(site, way.draw, site.soft_labels(way.teacher, way.draw)),
                self.job.seeded("judge", site.name),
                "judge",
            )
            for site in self.sites
        }
        return {
            site.name: {
                peer: softmax(predict_logits(judge, site.drawn(way.draw)[1], self.job.runtime))
                for peer, judge in judges.items()
                if peer != site.name
            }
            for site in self.sites
        }
