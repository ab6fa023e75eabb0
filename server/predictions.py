"""What the compared models answer on the global test images, kept for readers, and how sure it makes the comparison."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkr.audit.statistics.membership import ENDS, IMAGE, PATIENT
from fedkr.config import Study
from fedkr.data import ImageSet
from fedkr.disk import write_atomic_stream
from fedkr.learning.evaluation import measure_utility
from fedkr.learning.paired import PAIRED_FIGURES, Interval, PairedUtility
from fedkr.learning.runtime import Runtime
from fedkr.run_files import RunFiles
from fedkr.stages import Artifact
from server.contestant import Row
from server.targets import figures_of, predict

# What the differences of the comparison are those of.
OURS = "fedkr"


def measure_on_test(
    name: str, study: Study, model: Artifact, test: ImageSet | None, runtime: Runtime, run_dir: Path
) -> Row:
    """Return a contestant's headline figures on the global test images and its ``confusion``, and keep its answers.

    ``predictions/NAME.npz`` has ``logits`` float32 ``[N, K]``, ``labels`` int64 ``[N]`` and, where the images have
    them, ``groups``, in the order of the test images. Without these, all figures are None.
    """
    if test is None:
        return figures_of({})
    logits = predict(study, model, test, runtime)
    arrays: dict[str, NDArray[Any]] = {"logits": logits, "labels": test.labels}
    arrays |= {} if test.groups is None else {"groups": test.groups}
    write_atomic_stream(RunFiles(run_dir).predictions(name), lambda file: np.savez(file, allow_pickle=False, **arrays))
    utility = dataclasses.asdict(measure_utility(logits, test.labels, len(test.classes)))
    return figures_of(utility) | {"confusion": utility["confusion"]}


def with_intervals(results: Mapping[str, Any], run_dir: Path, test: ImageSet | None) -> Row:
    """Return results with 95 % intervals in the rows of strategies, and ``differences`` of FedKR from the others.

    They are of the models that all sites share: the figures of models that stay at the sites are means over sites.
    """
    measured = [row["name"] for row in results["strategies"] if "confusion" in row]
    if test is None or not measured:
        return dict(results)
    logits = {name: _read(run_dir, name) for name in measured}
    paired = PairedUtility(logits, test.labels, test.groups, results["seed"])
    limits = {name: _limits(paired, name) for name in measured}
    strategies = [row | limits.get(row["name"], {}) for row in results["strategies"]]
    unit = IMAGE if test.groups is None else PATIENT
    differences = [
        {"strategy": OURS, "other": other, "figure": figure, **_named("difference", found), "unit": unit}
        for other in measured
        for figure in PAIRED_FIGURES
        if OURS in logits and other != OURS and (found := paired.difference(OURS, other, figure)) is not None
    ]
    return {**results, "strategies": strategies, "differences": differences}


def _read(run_dir: Path, name: str) -> Any:
    with np.load(RunFiles(run_dir).predictions(name), allow_pickle=False) as arrays:
        return arrays["logits"]


def _limits(paired: PairedUtility, name: str) -> Row:
    limits: Row = {}
    for figure in PAIRED_FIGURES:
        found = paired.figure(name, figure)
        limits |= {f"{figure}_low": found and found.low, f"{figure}_high": found and found.high}
    return limits


def _named(name: str, interval: Interval) -> dict[str, float]:
    return {f"{name}{end}": value for end, value in zip(ENDS, dataclasses.astuple(interval), strict=True)}
