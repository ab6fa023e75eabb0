"""What one pipeline leaves an attacker: its release beside the candidates, and what its classifiers say of them."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fedkr.audit.attacks.neighbours import neighbour_signals
from fedkr.audit.attacks.on_releases import closest_distance_score
from fedkr.data.distances import small_pixels
from fedkr.environment import provenance
from fedkr.learning.prediction import predict_logits
from fedkr.recycle import SitePipeline
from fedkr.recycle.distill import distill_student, for_union
from fedkr.recycle.leakage import surroundings
from fedkr.recycle.teacher import load_teacher
from fedkr.release import ReleasedSets
from fedkr.stages import Artifact, read_artifact, write_artifact
from simulations.evidence.privacy.bench import SITES, Bench, counts
from simulations.evidence.privacy.variants import Variant

TEACHER, STUDENT, UNION = "teacher", "student", "union"
MODELS = (TEACHER, STUDENT, UNION)
# What each model is asked about.
SETS = ("pool", "population", "test")


def answers_path(out: Path, variant: str, number: int) -> Path:
    """Return the file of what a pipeline left."""
    return out / "answers" / variant / f"pipeline-{number:02d}.safetensors"


def bench_path(out: Path) -> Path:
    """Return the file of what all answers are about: membership and labels."""
    return out / "answers" / "bench.safetensors"


def is_there(bench: Bench, variant: Variant, number: int) -> bool:
    """Whether a pipeline's answers were written, by this code for these settings."""
    path = answers_path(Path(bench.settings.out), variant.name, number)
    return path.exists() and read_artifact(path).info["identity"] == bench.identity(variant)


def write_answers(bench: Bench, variant: Variant, number: int) -> None:
    """Train a pipeline's students, and write what it leaves an attacker.

    The file has ``signals [N, 3]`` (:func:`~fedkr.audit.attacks.neighbours.neighbour_signals`) and ``nearest [N]``
    (minus the distance to the nearest released image) of the pool, and of each model its logits on each of ``SETS``.
    """
    pipeline, seconds = bench.pipeline(variant, number), dict[str, float]()
    own = ReleasedSets.of_releases(pipeline.releases(None))
    released, tensors = own.arrays()[0], dict[str, torch.Tensor]()
    for name, model in _models(bench, variant, pipeline, own, seconds).items():
        for part in SETS:
            logits = predict_logits(model, getattr(bench, part).images, pipeline.job.runtime)
            tensors[f"{name}.{part}"] = torch.from_numpy(logits)
    candidates, images = bench.rows(bench.pool.images), bench.rows(released.images)
    signals = neighbour_signals(candidates, bench.pool.labels, images, released.soft_labels)
    tensors["signals"] = torch.from_numpy(signals)
    tensors["nearest"] = torch.from_numpy(closest_distance_score(candidates.pixels, images.pixels))
    about = {"variant": variant.name, "pipeline": number, "identity": bench.identity(variant)}
    about["shared"] = bench.shared
    seconds["generator"] = pipeline.generator_info()["seconds"]
    about |= {"released": len(released.images), "seconds": seconds, "device": pipeline.job.runtime.describe()}
    write_artifact(answers_path(Path(bench.settings.out), variant.name, number), Artifact(tensors, about))


def _models(
    bench: Bench, variant: Variant, pipeline: SitePipeline, own: ReleasedSets, seconds: dict[str, float]
) -> dict[str, nn.Module]:
    study, job = pipeline.study, pipeline.job
    first, everything = bench.settings.pipelines, own
    for peer in range(first, first + len(bench.peers)):
        released = bench.pipeline(variant, peer).releases(None)
        everything = everything.united(ReleasedSets.of_releases(released))
    found = {TEACHER: load_teacher(study.teacher, pipeline.data, pipeline.teacher(), job.runtime)}
    for name, sets, sites in ((STUDENT, own, 1), (UNION, everything, SITES)):
        started = time.perf_counter()
        found[name] = distill_student(for_union(study.student, sites), sets, job.seeded("student"), name)
        seconds[name] = time.perf_counter() - started
    return found


def write_bench(bench: Bench) -> None:
    """Write who trained on what, labels, and what the search's statistic needs: figures then need no dataset."""
    labels = {f"labels.{part}": torch.from_numpy(np.asarray(getattr(bench, part).labels)) for part in SETS}
    expected_by = surroundings(small_pixels(bench.pool.images), bench.pool)
    tensors = {"membership": torch.from_numpy(bench.membership), "surroundings": torch.from_numpy(expected_by)} | labels
    settings = bench.settings
    about = {name: getattr(settings, name) for name in ("dataset", "members", "tail", "pipelines", "seed", "options")}
    write_artifact(
        bench_path(Path(settings.out)),
        Artifact(tensors, about | {"shared": bench.shared, "counts": counts(bench)} | provenance()),
    )
