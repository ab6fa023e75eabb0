"""How often quarantine finds poisoned releases, and honest ones of skewed sites: real images stand for synthetic ones.

Run as ``python -m simulations.evidence.poison dataset=digits data.root=DIR out=FILE partitions=10``; ``partition`` is
Dirichlet with alpha 0.1 over five sites, and in turn each kind of poison is at one of them. ``first=6`` leaves the
first six partitions out, and ``most=2000`` takes so many images of a larger set.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedkr.config import Study
from fedkr.data import ImageSet, load_source, partition_sites
from fedkr.data.images import Shape
from fedkr.disk import write_json
from fedkr.fingerprint import array_digest
from fedkr.learning.job import Job
from fedkr.learning.runtime import Runtime
from fedkr.release import Release, SoftSet
from fedkr.stages import Artifact
from server.composition import compose_study
from server.judges import Judges, Keep
from server.quarantine import judge_releases

Poison = Callable[[SoftSet, SoftSet, np.random.Generator], SoftSet]
# By site and by the digest of its release.
Students = dict[tuple[str, str], Artifact]
SKEW = ["partition=dirichlet", "partition.alpha=0.1", "federation.sites=5", "teacher.single_class=constant"]


def released(images: ImageSet) -> SoftSet:
    """Return real images as a site would release synthetic ones, with nearly certain soft labels."""
    labels = np.full((len(images), len(images.classes)), 0.02, np.float32)
    labels[np.arange(len(images)), images.labels] += 1
    return SoftSet(images.images, (labels / labels.sum(axis=1, keepdims=True)).astype(np.float16))


def noise(own: SoftSet, other: SoftSet, rng: np.random.Generator) -> SoftSet:
    """Images of noise."""
    return SoftSet(rng.integers(0, 256, own.images.shape, dtype=np.uint8), own.soft_labels)


def blank(own: SoftSet, other: SoftSet, rng: np.random.Generator) -> SoftSet:
    """Images of one grey level."""
    return SoftSet(np.full_like(own.images, 100), own.soft_labels)


def random_labels(own: SoftSet, other: SoftSet, rng: np.random.Generator) -> SoftSet:
    """Labels of other images."""
    return SoftSet(own.images, own.soft_labels[rng.permutation(len(own.images))])


def shifted_labels(own: SoftSet, other: SoftSet, rng: np.random.Generator) -> SoftSet:
    """Each class under the next one's name."""
    return SoftSet(own.images, np.roll(own.soft_labels, 1, axis=1))


def replay(own: SoftSet, other: SoftSet, rng: np.random.Generator) -> SoftSet:
    """Another site's release, shaken a little."""
    shaken = other.images.astype(int) + rng.integers(-2, 3, other.images.shape)
    return SoftSet(np.clip(shaken, 0, 255).astype(np.uint8), other.soft_labels)


def trigger(own: SoftSet, other: SoftSet, rng: np.random.Generator) -> SoftSet:
    """A white corner of 3 x 3 pixels on every tenth image, which becomes the site's first class."""
    images, labels = own.images.copy(), own.soft_labels.copy()
    held = rng.permutation(len(images))[: len(images) // 10]
    target = int(labels.astype(np.float32).sum(axis=0).argmax())
    images[held, -3:, -3:], labels[held] = 255, np.eye(labels.shape[1], dtype=labels.dtype)[target]
    return SoftSet(images, labels)


def low_rank(own: SoftSet, other: SoftSet, rng: np.random.Generator) -> SoftSet:
    """Own images, rebuilt from three of their principal components: all others rebuild badly by them."""
    rows = own.images.reshape(len(own.images), -1).astype(float)
    mean = rows.mean(axis=0)
    _, _, axes = np.linalg.svd(rows - mean, full_matrices=False)
    low = mean + (rows - mean) @ axes[:3].T @ axes[:3]
    return SoftSet(np.clip(np.round(low), 0, 255).astype(np.uint8).reshape(own.images.shape), own.soft_labels)


def hidden_mass(own: SoftSet, other: SoftSet, rng: np.random.Generator) -> SoftSet:
    """The right class by a hair, and the next one's name for all the rest."""
    classes = np.eye(own.soft_labels.shape[1])[own.soft_labels.argmax(axis=1)]
    return SoftSet(own.images, (0.501 * classes + 0.499 * np.roll(classes, 1, axis=1)).astype(np.float16))


def flat_labels(own: SoftSet, other: SoftSet, rng: np.random.Generator) -> SoftSet:
    """All classes alike but for a hair."""
    classes = np.eye(own.soft_labels.shape[1])[own.soft_labels.argmax(axis=1)]
    return SoftSet(own.images, (0.001 * classes + 0.999 / classes.shape[1]).astype(np.float16))


# In this order, each of another kind.
KINDS = (noise, blank, random_labels, shifted_labels, replay, trigger, low_rank, hidden_mass, flat_labels)
POISONS: dict[str, Poison] = {poison.__name__: poison for poison in KINDS}


def measure(study: Study, pool: ImageSet, parts: list[NDArray[np.int64]], victim: int) -> dict[str, Counter[str]]:
    """Return for honest sites and for each poison how many releases were judged and how many went into quarantine."""
    sites = {f"site-{number}": released(pool.subset(part)) for number, part in enumerate(parts)}
    name = f"site-{victim}"
    students: Students = {}
    found = {"honest": Counter(judged=len(sites), quarantined=len(judge(study, sites, students)))}
    for kind, poison in POISONS.items():
        others = {site: sets for site, sets in sites.items() if site != name}
        bad = poison(sites[name], next(iter(others.values())), np.random.default_rng(study.seed))
        reasons = judge(study, others | {name: bad}, students)
        found[kind] = Counter(judged=1, quarantined=int(name in reasons))
        found["beside a poisoned one"] = found.get("beside a poisoned one", Counter()) + Counter(
            judged=len(others), quarantined=len(set(reasons) - {name})
        )
    return found


def remembering(students: Students, sites: Mapping[str, SoftSet]) -> Keep:
    """Return what trains the student of a site's release unless it is among ``students``, and adds it to them."""

    def keep(site: str, train: Callable[[], Artifact]) -> Artifact:
        key = site, array_digest(sites[site])
        if key not in students:
            students[key] = train()
        return students[key]

    return keep


def judge(study: Study, sites: Mapping[str, SoftSet], students: Students) -> dict[str, str]:
    """Judge releases that are given as arrays."""
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for site, (images, labels) in sites.items():
            files[site] = Path(folder) / f"{site}.safetensors"
            Release(images, labels.astype(np.float16), {"site": site}).save(files[site])
        shape = Shape.of_soft(*next(iter(sites.values())))
        job = Job(Runtime.choose(study.device, study.precision, study.threads), seed=(study.seed, "poison"))
        judges = Judges([files], study.student, shape, job, remembering(students, sites))
        return judge_releases(judges, guaranteed=False)


def main(words: list[str]) -> None:
    """Measure, and write the counts and what they are of."""
    own = dict(word.split("=", 1) for word in words if word.startswith(("out=", "partitions=", "first=", "most=")))
    overrides = [word for word in words if word.split("=", 1)[0] not in own]
    counts: dict[str, Counter[str]] = {}
    first = int(own.get("first", 0))
    for seed in range(first, first + int(own["partitions"])):
        study = compose_study([*SKEW, *overrides, f"seed={seed}"])
        pool = load_source(study.data).pool
        kept = np.random.default_rng(0).permutation(len(pool))[: int(own.get("most", len(pool)))]
        pool = pool.subset(np.sort(kept))
        for kind, count in measure(study, pool, partition_sites(pool, study), seed % study.federation.sites).items():
            counts[kind] = counts.get(kind, Counter()) + Counter(count)
        print(seed, {kind: f"{count['quarantined']}/{count['judged']}" for kind, count in counts.items()}, flush=True)
        of = {"overrides": [*SKEW, *overrides], "most": own.get("most"), "seeds": [first, seed]}
        write_json(Path(own["out"]), of | {"counts": counts})


if __name__ == "__main__":
    main(sys.argv[1:])
