"""The comparison: runs the study's strategies over one federation and brings their figures into one shape."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord

from fedkr import wire
from fedkr.config import Study
from fedkr.data import ImageSet, load_source
from fedkr.data.images import Shape
from fedkr.learning.evaluation import measure_utility
from fedkr.learning.models import load_classifier
from fedkr.learning.prediction import predict_logits
from fedkr.learning.runtime import Runtime
from fedkr.progress import Progress
from fedkr.stages import Artifact, read_artifact, write_artifact
from server.audit import Auditable, held_models, run_audit
from server.coordinator import Coordinator, Pending
from server.strategies.fedkr import FedKR
from server.strategies.weights import WeightSharing

logger = logging.getLogger("fedkr.server")

Row = dict[str, Any]
FIGURES = ("accuracy", "balanced_accuracy", "auc")
# What of a release's manifest the results keep.
OF_MANIFEST = ("left_out", "recalls", "teacher", "checkpoint", "knobs")


class Comparison:
    """Runs each strategy that ``strategy.compare`` names, except the simulation's oracle.

    Args:
        coordinator: the gathered members.
        runtime: where the server computes.
        progress: is told of the server's own work.
        run_dir: gets ``models/``.
    """

    def __init__(self, coordinator: Coordinator, runtime: Runtime, progress: Progress, run_dir: Path) -> None:
        self.coordinator, self.runtime, self.progress, self.run_dir = coordinator, runtime, progress, run_dir
        self.study = coordinator.study
        self.global_test = global_test_set(self.study)
        self.models: dict[str, Artifact] = {}
        self.releases: list[dict[str, Path]] = []
        self.updates: dict[str, Artifact] = {}
        self.rows: dict[str, Row] = {}
        self.extras: dict[str, Any] = {"weights_search": [], "recycling": {}, "releases": {}}

    def run(self) -> dict[str, Any]:
        """Run everything and return the server's part of the results."""
        compare, kind = self.study.strategy.compare, self.study.strategy.kind
        local = self._compose_local() if "local" in compare else None
        if "fedkr" in compare:
            self._run_fedkr(local)
        elif local is not None:
            self.coordinator.send(local)
        if local is not None:
            self._read_local(local)
        if kind in compare and self.coordinator.allowing("weights"):
            self._run_weights(kind)
        elif kind in compare:
            logger.warning("├── %s is left out: no site's policy lets weights leave", kind)
        self._evaluate_at_sites()
        rows = [self.rows[name] for name in compare if name in self.rows]
        audit, extras = self._audit()
        return {"strategies": rows, "audit": audit, "audit_extras": extras, **self.extras}

    def _compose_local(self) -> Pending:
        sites, study = self.coordinator.allowing("metrics"), self.coordinator.study_json
        return self.coordinator.compose("local", wire.LOCAL, {s: wire.request_content(study) for s in sites})

    def _run_fedkr(self, local: Pending | None) -> None:
        # Sites that finish early train their own models while others still recycle.
        def meanwhile() -> None:
            if local is not None:
                self.coordinator.send(local)

        strategy = FedKR(self.coordinator, self.runtime, self.progress, meanwhile)
        strategy.start(self.coordinator.grid, ArrayRecord(), num_rounds=strategy.exchanges)
        student = strategy.train()
        self.models["student"] = self._keep_model("student", student)
        self.releases = strategy.files
        costs: dict[str, Row] = {}
        for files in strategy.files:
            for site, path in files.items():
                self._note_release(site, path, costs)
        for site in costs:
            costs[site]["bytes_down"] += sum(t.numel() * t.element_size() for t in student.tensors.values())
        self.rows["fedkr"] = self._row("fedkr", student, costs, extra_seconds=student.info["seconds"])

    def _note_release(self, site: str, path: Path, costs: dict[str, Row]) -> None:
        info = read_artifact(path).info
        cost = costs.setdefault(site, {"seconds": 0.0, "bytes_up": 0, "bytes_down": 0})
        for name in cost:
            cost[name] += info.get(name, 0)
        known = self.extras["recycling"].setdefault(site, dict(info.get("scores", {}), images=0))
        known["images"] += info["count"]
        known |= {name: info[name] for name in OF_MANIFEST if name in info}
        self.extras["releases"].setdefault(site, []).append(str(path.relative_to(self.run_dir)))

    def _read_local(self, pending: Pending) -> None:
        def check(site: str, metrics: Row) -> object:
            return [wire.read_utility(metrics, split) for split in ("test", "global")], wire.read_seconds(metrics)

        per_site, overall = [], []
        for site, info in self.coordinator.collect_metrics(pending, check).items():
            own, test = wire.read_utility(info["metrics"], "test"), wire.read_utility(info["metrics"], "global")
            cost = {"seconds": wire.read_seconds(info["metrics"]), "bytes_up": 0, "bytes_down": 0}
            per_site.append({"site": site, **_figures(own), **cost})
            overall.append(_figures(test))
        # Without a common test set, each site's "global" figures are on images of its own.
        known = overall if self.global_test is not None else []
        means = {name: _mean([figures[name] for figures in known]) for name in FIGURES}
        self.rows["local"] = {"name": "local", **means, **_total(per_site), "per_site": per_site}

    def _run_weights(self, kind: str) -> None:
        result = WeightSharing(self.coordinator, self.progress).run()
        self.models["weights"] = self._keep_model("weights", result.weights)
        self.updates = {site: self._keep_model(f"updates/{site}", update) for site, update in result.updates.items()}
        self.extras["weights_search"] = result.search
        self.rows[kind] = self._row(kind, self.models["weights"], result.costs)

    def _keep_model(self, name: str, artifact: Artifact) -> Artifact:
        """Keep a model in ``models/``, with all that is needed to build it again; return what was kept."""
        tensors = {
            k.removeprefix("model."): v for k, v in artifact.tensors.items() if k.split(".")[0] not in ("m_t", "v_t")
        }
        info = artifact.info | describe_model(self.study, self.coordinator.card)
        kept = Artifact(tensors, info)
        write_artifact(self.run_dir / "models" / f"{name}.safetensors", kept)
        return kept

    def _row(self, name: str, model: Artifact, costs: dict[str, Row], extra_seconds: float = 0.0) -> Row:
        per_site = [{"site": site, **cost} for site, cost in costs.items()]
        row = {"name": name, **measure_model(self.study, model, self.global_test, self.runtime), **_total(per_site)}
        row["seconds"] += extra_seconds
        return {**row, "per_site": per_site}

    def _evaluate_at_sites(self) -> None:
        """Measure each shared model on each site's own test split."""
        names = {"student": "fedkr", "weights": self.study.strategy.kind}
        pending = {model: self._send_model(model) for model in self.models}
        for model, sent in pending.items():
            row = self.rows[names[model]]
            known = {entry["site"]: entry for entry in row["per_site"]}
            answers = self.coordinator.collect_metrics(sent, lambda _, metrics: wire.read_utility(metrics, "test"))
            for site, info in answers.items():
                known.setdefault(site, {"site": site}).update(_figures(wire.read_utility(info["metrics"], "test")))
            row["per_site"] = list(known.values())

    def _audit(self) -> tuple[list[Row], dict[str, Any]]:
        found = Auditable(self.models, self.releases, self.updates, held_models(self.rows))
        return run_audit(self.coordinator, found, self.runtime, self.progress)

    def _send_model(self, model: str) -> Pending:
        weights = self.models[model].tensors
        content = wire.request_content(self.coordinator.study_json, weights)
        contents = dict.fromkeys(self.coordinator.allowing("metrics"), content)
        about = wire.weights_digest(weights)
        return self.coordinator.send(self.coordinator.compose(f"evaluate-{model}", wire.EVALUATE, contents, about))


def global_test_set(study: Study) -> ImageSet | None:
    """Return the test set that the server itself has; None in a deployment whose server has no images."""
    return None if study.data.name == "none" else load_source(study.data).test


def describe_model(study: Study, card: dict[str, Any]) -> dict[str, Any]:
    """Return what is needed to build a model of the study again from its weights."""
    return {
        "classifier": dataclasses.asdict(study.student),
        "channels": card["channels"],
        "size": card["size"],
        "classes": card["classes"],
    }


def measure_model(study: Study, model: Artifact, test: ImageSet | None, runtime: Runtime) -> dict[str, float | None]:
    """Return the headline figures of a model on the global test set, None each where there is none."""
    if test is None:
        return dict.fromkeys(FIGURES)
    network = load_classifier(study.student, Shape.of(test), model.tensors, runtime)
    logits = predict_logits(network, test.images, runtime)
    return _figures(dataclasses.asdict(measure_utility(logits, test.labels, len(test.classes))))


def _figures(utility: dict[str, Any]) -> dict[str, float | None]:
    return {name: utility[name] for name in FIGURES}


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _total(per_site: list[Row]) -> Row:
    return {name: sum(entry[name] for entry in per_site) for name in ("bytes_up", "bytes_down", "seconds")}
