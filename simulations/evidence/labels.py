"""Which labels a student should learn from: the same releases, relabelled in many ways, with the same student and seed.

``python -m simulations.evidence.labels out=FILE seeds=2 data.root=DIR RUN [RUN ...]``, with the folders of runs of
``fedkr simulate`` over development sets that compare ``fedkr`` and ``centralised``. Each way's student is scored on the
set's test images; beside it stands how far the labels are from what the centralised model says of the same images.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from fedkr.config import Study, read_dataclass
from fedkr.data import load_source
from fedkr.data.images import Shape
from fedkr.disk import write_json
from fedkr.learning.job import Job
from fedkr.learning.models import load_classifier
from fedkr.learning.prediction import predict_logits
from fedkr.learning.runtime import Runtime
from fedkr.recycle.distill import for_union
from fedkr.release import ReleasedSets, SoftSet, slice_count
from fedkr.seeds import numpy_rng
from server.consensus import consensus, rows
from server.judges import Judges
from server.student import train_student
from server.targets import FIGURES, Target, measure_model

Floats = NDArray[np.floating]
BySite = dict[str, Floats]
# In the crude consensus, a site knows a class as far as n / (n + KNOWN) of its n images of it go.
KNOWN = 20.0


class Releases:
    """A finished run's releases, and what everybody thinks of their images.

    Args:
        folder: of the run.
        root: of the public datasets.
    """

    def __init__(self, folder: Path, root: str) -> None:
        self.folder, self.results = folder, json.loads((folder / "results.json").read_text())
        self.study = read_dataclass(Study, json.loads((folder / "study.json").read_text()), "study")
        self.study.data.root = root
        files = {site: folder / paths[0] for site, paths in self.results["releases"].items()}
        self.slices = max(slice_count(path) for path in files.values())
        runtime = Runtime.choose(self.study.device, self.study.precision, self.study.threads)
        self.job = Job(runtime, flip=self.study.data.flip, seed=(self.study.seed, "server"))
        first = ReleasedSets.of_files([list(files.values())])(0)
        self.judges = Judges([files], self.study.student, Shape.of_soft(*first), self.job.seeded("quarantine"))
        self.test = load_source(self.study.data).test

    @cached_property
    def sets(self) -> dict[str, SoftSet]:
        """Each site's images of all slices, with its own labels."""
        return {site: sets.arrays()[0] for site, sets in self.judges.sets.items()}

    @cached_property
    def released(self) -> BySite:
        """The labels as released."""
        return {site: part.soft_labels.astype(np.float64) for site, part in self.sets.items()}

    @cached_property
    def seen(self) -> dict[str, BySite]:
        """What the students of all other sites see in a site's images."""
        return {
            site: {p: softmax(self.judges.logits(p, part.images)) for p in self.sets if p != site}
            for site, part in self.sets.items()
        }

    @cached_property
    def pooled(self) -> BySite:
        """What the centralised model sees in the images: a reference that no server has."""
        row = next(row for row in self.results["targets"] if row["contestant"] == "centralised")
        model = Target.read(self.folder, row).model
        assert model is not None
        network = load_classifier(self.study.student, self.judges.shape, model.tensors, self.job.runtime)
        return {site: softmax(predict_logits(network, s.images, self.job.runtime)) for site, s in self.sets.items()}

    def student(self, labels: BySite, seed: int, balanced: bool = False, longer: int = 1) -> dict[str, float | None]:
        """Return the figures of a student of the union with other labels, or other shares or steps."""
        usual = for_union(self.study.student, len(self.sets))
        config = dataclasses.replace(usual, steps=longer * usual.steps)

        def read(index: int) -> SoftSet:
            parts = [self._part(site, labels[site], index) for site in self.sets]
            return drawn_alike(parts, "balanced", index) if balanced else SoftSet.union(parts)

        job = self.job.seeded("student", *([seed] if seed else []))
        model = train_student(config, ReleasedSets(read, self.slices), job)
        return measure_model(self.study, model, self.test, self.job.runtime)

    def _part(self, site: str, labels: Floats, index: int) -> SoftSet:
        part = np.split(np.arange(len(labels)), self.slices)[index]
        return SoftSet(self.sets[site].images[part], labels[part].astype(np.float16))


def softmax(logits: Floats) -> Floats:
    """Return logits ``[N, K]`` as probabilities."""
    return np.asarray(scipy.special.softmax(logits.astype(np.float64), axis=1))


def drawn_alike(parts: Sequence[SoftSet], *seed: object) -> SoftSet:
    """Draw as many images as there are, those of each class of each site with the same chance."""
    union = SoftSet.union(parts)
    cells = np.concatenate([s * 1000 + p.soft_labels.argmax(axis=1) for s, p in enumerate(parts)])
    _, cell, counts = np.unique(cells, return_inverse=True, return_counts=True)
    chances = 1 / counts[cell]
    drawn = numpy_rng(*seed).choice(len(cells), len(cells), p=chances / chances.sum())
    return SoftSet(union.images[drawn], union.soft_labels[drawn])


def argmax(releases: Releases) -> BySite:
    """The teacher's first choice alone."""
    return {site: np.eye(labels.shape[1])[labels.argmax(axis=1)] for site, labels in releases.released.items()}


def crude(releases: Releases) -> BySite:
    """Half a vote of students weighted by the images of a class that each met, half the teacher's corrected label."""
    released = {site: rows(labels) for site, labels in releases.released.items()}
    corrected = to_union(released, 1.0)
    union = np.concatenate(list(released.values())).mean(axis=0)
    shares = {site: labels.mean(axis=0) for site, labels in released.items()}
    met = {s: np.bincount(q.argmax(axis=1), minlength=q.shape[1]) / releases.slices for s, q in released.items()}
    trust = {site: counts / (counts + KNOWN) for site, counts in met.items()}
    mixed = {}
    for site, views in releases.seen.items():
        votes = sum(trust[peer] * rows(view / shares[peer]) for peer, view in views.items())
        weights = sum(trust[peer] for peer in views)
        mixed[site] = 0.5 * rows(rows(votes / np.maximum(weights, 1e-9) + 1e-6) * union) + 0.5 * corrected[site]
    return mixed


def to_union(labels: Mapping[str, Floats], power: float) -> BySite:
    """Labels ``[N, K]`` by site, corrected from the class shares of a site towards those of all (Saerens et al. 2002).

    A class that a site hardly has counts as some hundredth of its images; a ``power`` below 1 goes part of the way.
    """
    union = _shares(np.concatenate(list(labels.values())))
    return {site: rows(own * (union / _shares(own)) ** power) for site, own in labels.items()}


def _shares(labels: Floats) -> Floats:
    masses = labels.sum(axis=0) + max(1.0, len(labels) / 100)
    return np.asarray(masses / masses.sum())


WAYS: dict[str, Callable[[Releases], BySite]] = {
    "released": lambda r: r.released,
    "consensus": lambda r: dict(consensus(r.released, r.seen)),
    "corrected": lambda r: dict(to_union({site: rows(own) for site, own in r.released.items()}, 1.0)),
    "argmax": argmax,
    "crude": crude,
    "consensus, 1 round": lambda r: dict(consensus(r.released, r.seen, 1)),
    "consensus, corrected": lambda r: to_union(consensus(r.released, r.seen), 0.5),
}
# The student's own changes, on top of the first two.
CHANGES: Mapping[str, Mapping[str, Any]] = {"balanced": {"balanced": True}, "twice the steps": {"longer": 2}}


def distance(labels: BySite, pooled: BySite) -> dict[str, float]:
    """Return Kullback-Leibler divergence from the pooled model's answers, and the share of equal first choices."""
    own = np.concatenate([rows(labels[site]) for site in pooled])
    truth = np.concatenate([rows(pooled[site]) for site in pooled])
    divergence = (truth * (np.log(truth) - np.log(own))).sum(axis=1).mean()
    return {
        "divergence": float(divergence),
        "agreement": float((own.argmax(axis=1) == truth.argmax(axis=1)).mean()),
    }


def main(words: list[str]) -> None:
    """Relabel the releases of all runs in all ways, and write the figures as they come."""
    own = dict(word.split("=", 1) for word in words if "=" in word)
    found: list[dict[str, Any]] = []
    for folder in (Path(word) for word in words if "=" not in word):
        releases = Releases(folder, own.get("data.root", "data"))
        study = releases.study
        about = {"run": folder.name, "dataset": study.data.name, "alpha": study.partition.alpha, "seed": study.seed}
        about |= {"images": {site: len(labels) for site, labels in releases.released.items()}}
        about |= {"test": 0 if releases.test is None else len(releases.test), "generator": study.generator.kind}
        for way in own.get("ways", ";".join(WAYS)).split(";"):
            name, _, change = way.partition(" + ")
            labels = WAYS[name](releases)
            for seed in range(int(own.get("first", 0)), int(own["seeds"])):
                figures = releases.student(labels, seed, **CHANGES.get(change, {}))
                found.append(about | {"labels": way, "student": seed} | figures | distance(labels, releases.pooled))
                print(way, seed, folder.name, *(f"{n} {found[-1][n]:.3f}" for n in FIGURES), flush=True)
                write_json(Path(own["out"]), {"rows": found})


if __name__ == "__main__":
    main(sys.argv[1:])
