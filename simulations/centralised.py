"""``centralised``: the oracle that pools all private images, which only a simulation can have."""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fedkr.artifacts import Artifact, StageStore, model_tensors, write_artifact
from fedkr.audit import audit_model, build_challenge
from fedkr.config import Study
from fedkr.data import ImageSet, SiteData
from fedkr.models import build_classifier
from fedkr.progress import FileProgress
from fedkr.recycle.classifier import train_on_real
from fedkr.training import Runtime, predict_logits
from fedkr.wire import load_weights
from server.comparison import describe_model, measure_model

NAME = "centralised"


@dataclasses.dataclass(frozen=True)
class Oracle:
    """The centralised model's row of the comparison and its rows of the audit."""

    row: dict[str, Any]
    audit: list[dict[str, Any]]


def run_centralised(study: Study, sites: dict[str, SiteData], test: ImageSet, run_dir: Path) -> Oracle:
    """Train on the union of the sites' training splits with the comparison's recipe; measure and audit the model.

    Its bytes are those of the raw training images, which is what pooling them would send.
    """
    runtime = Runtime.choose(study.device, study.precision, study.threads)
    folder = run_dir / NAME
    model = StageStore(folder / "stages").run(
        "model", {"study": study.identity()}, lambda: _train(study, pooled(sites), runtime, folder)
    )
    card = {"channels": test.channels, "size": test.size, "classes": list(test.classes)}
    write_artifact(
        run_dir / "models" / f"{NAME}.safetensors",
        Artifact(model.tensors, model.info | describe_model(study, card)),
    )
    per_site: list[dict[str, Any]] = [
        {"site": name, **measure_model(study, model, data.test, runtime), **_raw_cost(data)}
        for name, data in sites.items()
    ]
    row = {
        "name": NAME,
        **measure_model(study, model, test, runtime),
        "bytes_up": sum(entry["bytes_up"] for entry in per_site),
        "bytes_down": 0,
        "seconds": model.info["seconds"],
        "per_site": per_site,
    }
    return Oracle(row, _audit(study, model, sites, runtime))


def pooled(sites: dict[str, SiteData]) -> ImageSet:
    """Return the union of the sites' training splits."""
    parts = [data.train for data in sites.values()]
    images, labels = np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts])
    return ImageSet(images, labels, parts[0].classes)


def _train(study: Study, data: ImageSet, runtime: Runtime, folder: Path) -> Artifact:
    started = time.perf_counter()
    model = train_on_real(
        study.student,
        data,
        flip=study.data.flip,
        runtime=runtime,
        seed=(study.seed, "server", NAME),
        progress=FileProgress(folder),
        stage=NAME,
    )
    return Artifact(model_tensors(model), {"seconds": time.perf_counter() - started})


def _raw_cost(data: SiteData) -> dict[str, int]:
    return {"bytes_up": int(data.train.images.nbytes), "bytes_down": 0}


def _audit(study: Study, model: Artifact, sites: dict[str, SiteData], runtime: Runtime) -> list[dict[str, Any]]:
    if not study.audit.enabled or NAME not in study.audit.targets:
        return []
    any_site = next(iter(sites.values())).train
    network = build_classifier(study.student, any_site.channels, any_site.size, len(any_site.classes), "any")
    predict = partial(predict_logits, runtime.place(load_weights(network, model.tensors)), runtime=runtime)
    rows = []
    for name, data in sites.items():
        challenge = build_challenge(data.train, data.holdout)
        report = audit_model(predict, challenge, target=NAME, site=name, config=study.audit, seed=study.seed)
        rows += [row.as_row() for row in report.rows]
    return rows
