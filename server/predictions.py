"""What the compared models answer on the global test images, kept for readers, and how sure it makes the comparison."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkr.audit.statistics.membership import IMAGE, PATIENT, with_limits
from fedkr.config import Study
from fedkr.data import ImageSet
from fedkr.disk import write_atomic
from fedkr.learning.evaluation import measure_utility
from fedkr.learning.paired import PAIRED_FIGURES, PairedUtility
from fedkr.learning.runtime import Runtime
from fedkr.run_files import RunFiles
from server.contestant import Row
from server.targets import Target, predict

# What the differences of the comparison are those of.
OURS = "fedkr"
Logits = dict[str, NDArray[np.float32]]


def with_intervals(
    results: Mapping[str, Any], study: Study, run_dir: Path, test: ImageSet | None, runtime: Runtime
) -> Row:
    """Return results with 95 % intervals and ``confusion`` of strategies, and ``differences`` of FedKR from the others.

    They are of the models that all sites share, as they were kept, which answer the test images once more here: what
    they say is kept in ``predictions/NAME.npz`` (``logits`` float32 ``[N, K]``, ``labels`` int64 ``[N]`` and, where
    images have them, ``groups``, in the order of the test images). The figures of models that stay at the sites are
    means over sites, and get no interval; nor does a model that answers NaN.
    """
    logits = {} if test is None else _answers(results, study, run_dir, test, runtime)
    if test is None or not logits:
        return dict(results)
    _keep(run_dir, logits, test)
    paired = PairedUtility(logits, test.labels, test.groups, results["seed"])
    more = {name: _confusion(each, test) | _limits(paired, name) for name, each in logits.items()}
    strategies = [row | more.get(row["name"], {}) for row in results["strategies"]]
    unit = IMAGE if test.groups is None else PATIENT
    differences = [
        {
            "strategy": OURS,
            "other": other,
            "figure": figure,
            **with_limits("difference", dataclasses.astuple(found)),
            "unit": unit,
        }
        for other in logits
        for figure in PAIRED_FIGURES
        if OURS in logits and other != OURS and (found := paired.difference(OURS, other, figure)) is not None
    ]
    return {**results, "strategies": strategies, "differences": differences}


def _answers(results: Mapping[str, Any], study: Study, run_dir: Path, test: ImageSet, runtime: Runtime) -> Logits:
    """Return the logits of each contestant's shared model, the first of its targets that is one model."""
    found: Logits = {}
    for strategy in results["strategies"]:
        rows = [row for row in results["targets"] if row["contestant"] == strategy["name"] and "model" in row]
        if rows and strategy.get("accuracy") is not None:
            model = Target.read(run_dir, rows[0]).model
            assert model is not None
            logits = predict(study, model, test, runtime)
            found |= {strategy["name"]: logits} if np.isfinite(logits).all() else {}
    return found


def _keep(run_dir: Path, logits: Logits, test: ImageSet) -> None:
    """Write what each model answered, and take away what earlier comparisons in this folder left."""
    about: dict[str, NDArray[Any]] = {"labels": test.labels} | ({} if test.groups is None else {"groups": test.groups})
    paths = {RunFiles(run_dir).predictions(name): each for name, each in logits.items()}
    for path, each in paths.items():
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **about, logits=each)
        write_atomic(path, content.getvalue())
    for path in next(iter(paths)).parent.glob("*.npz"):
        if path not in paths:
            path.unlink()


def _confusion(logits: NDArray[np.float32], test: ImageSet) -> Row:
    return {"confusion": measure_utility(logits, test.labels, len(test.classes)).confusion}


def _limits(paired: PairedUtility, name: str) -> Row:
    limits: Row = {}
    for figure in PAIRED_FIGURES:
        found = paired.figure(name, figure)
        limits |= {f"{figure}_low": found and found.low, f"{figure}_high": found and found.high}
    return limits
