"""What contestants leave behind: models measured, kept with all that builds them again, and named for the audit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkr.config import Study
from fedkr.data import ImageSet
from fedkr.data.images import Shape
from fedkr.disk import path_within
from fedkr.learning.evaluation import measure_utility
from fedkr.learning.models import load_classifier, norm_of
from fedkr.learning.prediction import predict_logits
from fedkr.learning.runtime import Runtime
from fedkr.run_files import RunFiles
from fedkr.stages import Artifact, read_artifact, write_artifact

FIGURES = ("accuracy", "balanced_accuracy", "auc")


@dataclass(frozen=True, eq=False)
class Target:
    """Something that a contestant leaves behind and an audit can attack.

    Attributes:
        name: as results and report call it, unique in a study.
        kind: one of ``fedkr.config.AUDIT_TARGETS``, which ``audit.targets`` may also call it by. It says who sees the
            target, and what it learnt from: ``student`` is for whatever is trained on releases.
        contestant: whose it is.
        model: the model that all share.
        by_site: each site's model, as the server saw it. Without either, the sites hold the target themselves.
    """

    name: str
    kind: str
    contestant: str
    model: Artifact | None = None
    by_site: Mapping[str, Artifact] = field(default_factory=dict)

    def is_called(self, wanted: str) -> bool:
        """Whether an entry of ``audit.targets`` means it: its name, its kind, or the contestant whose model it is."""
        return wanted in (self.name, self.kind) or (self.model is not None and wanted == self.contestant)

    def keep(self, run_dir: Path, study: Study, card: Mapping[str, Any]) -> dict[str, Any]:
        """Write its models to the run's folder and return what :meth:`read` finds it by, a row of ``results.json``.

        Args:
            run_dir: gets ``models/``.
            study: whose classifiers they are.
            card: with the ``channels``, ``size`` and ``classes`` of their images.
        """
        row = {name: getattr(self, name) for name in ("name", "kind", "contestant")}
        about = {name: card[name] for name in ("channels", "size", "classes")}

        def write(name: str, model: Artifact) -> str:
            path, usual = RunFiles(run_dir).model(name), study.student
            # A student of several sites' releases takes its steps for each.
            own = {"norm": norm_of(model.tensors), "steps": model.info.get("steps", usual.steps)}
            classifier = {"classifier": dataclasses.asdict(dataclasses.replace(usual, **own))}
            write_artifact(path, Artifact(model.tensors, model.info | about | classifier))
            return str(path.relative_to(run_dir))

        if self.model is not None:
            row["model"] = write(self.name, self.model)
        by_site = {site: write(f"{self.name}/{site}", model) for site, model in self.by_site.items()}
        return row | ({"by_site": by_site} if by_site else {})

    @classmethod
    def read(cls, run_dir: Path, row: Mapping[str, Any]) -> Target:
        """Read from a run's folder what :meth:`keep` left there."""
        model = read_artifact(path_within(run_dir, row["model"])) if "model" in row else None
        by_site = {site: read_artifact(path_within(run_dir, path)) for site, path in row.get("by_site", {}).items()}
        return cls(row["name"], row["kind"], row["contestant"], model, by_site)


def figures_of(utility: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the headline figures among those of a utility, None for one that is not there."""
    return {name: utility.get(name) for name in FIGURES}


def measure_model(study: Study, model: Artifact, test: ImageSet | None, runtime: Runtime) -> dict[str, float | None]:
    """Return the headline figures of a model on a test set, None each where there is none."""
    if test is None:
        return figures_of({})
    logits = predict(study, model, test, runtime)
    return figures_of(dataclasses.asdict(measure_utility(logits, test.labels, len(test.classes))))


def predict(study: Study, model: Artifact, test: ImageSet, runtime: Runtime) -> NDArray[np.float32]:
    """Return a model's logits ``[N, K]`` on a test set."""
    network = load_classifier(study.student, Shape.of(test), model.tensors, runtime)
    return predict_logits(network, test.images, runtime)
