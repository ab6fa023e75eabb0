"""What personalised sites gain over their own models, from the releases of a run of ``fedkr simulate``.

``python -m simulations.evidence.personal RUN OUT.json [student.steps=200 ...]``: options may give all another student;
the releases stay those of the run. Each site's row is written as it is done.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fedkr.config import Study, with_options
from fedkr.data import ImageSet, SiteData
from fedkr.disk import write_json
from fedkr.environment import provenance
from fedkr.errors import UserError
from fedkr.learning.job import Job
from fedkr.learning.runtime import Runtime
from fedkr.progress import SilentProgress
from fedkr.recycle import SitePipeline
from fedkr.recycle.distill import for_union
from fedkr.recycle.personal import Personal
from fedkr.recycle.pipeline import site_job
from fedkr.release import ReleasedSets, SoftSet
from fedkr.stages import Artifact, StageStore
from server.student import train_student
from server.targets import FIGURES, measure_model
from simulations.run_folder import RunFolder

Row = dict[str, Any]
CONTESTANTS = ("local", "fedkr", "fedkr-dda", "fedkr+ft")


def released_sets(run: RunFolder) -> dict[str, ReleasedSets]:
    """Return what the sites of a run released, by site; raise :class:`UserError` where one released nothing."""
    found = {}
    for site in run.sites:
        files = sorted((run.files.folder / "server" / "stages").glob(f"release-r*-{site}-*.safetensors"))
        if not files:
            raise UserError(f"{run.files.folder}: no release of {site} is there")
        found[site] = ReleasedSets.of_files([[path] for path in files])
    return found


class Bench:
    """Measures each contestant's models on the images of a run."""

    def __init__(self, run: RunFolder, study: Study, folder: Path) -> None:
        self.run, self.study, self.folder = run, study, folder
        self.runtime = Runtime.choose(study.device, study.precision, study.threads)
        self.released = released_sets(run)
        sets = list(self.released.values())
        union = ReleasedSets(lambda i: SoftSet.union([each(i) for each in sets]), max(map(len, sets)))
        job = Job(self.runtime, SilentProgress(), study.data.flip, (study.seed, "server", "student"))
        self.student = train_student(for_union(study.student, len(sets)), union, job)

    def row(self, site: str, data: SiteData) -> Row:
        """Return a site's figures of each contestant, its choice, and processor seconds of each training."""
        job = site_job(self.study, site, self.runtime, SilentProgress())
        pipeline = SitePipeline(site, data, self.study, StageStore(self.folder / site), job)
        others = {name: sets for name, sets in self.released.items() if name != site}
        seconds, started = {}, time.process_time()
        local = pipeline.own_model()
        seconds["local"], started = time.process_time() - started, time.process_time()
        dda, choice = Personal(pipeline, "fedkr-dda").aggregated(others)
        seconds["fedkr-dda"], started = time.process_time() - started, time.process_time()
        tuned = Personal(pipeline, "fedkr+ft").fine_tuned(self.student.tensors)
        seconds["fedkr+ft"] = time.process_time() - started
        models = dict(zip(CONTESTANTS, (local, self.student, dda, tuned), strict=True))
        return {
            "train": data.train.class_counts().tolist(),
            "own": {name: self._figures(model, data.test) for name, model in models.items()},
            "global": {name: self._figures(model, self.run.source.test) for name, model in models.items()},
            "choice": dataclasses.asdict(choice),
            "processor_seconds": seconds,
        }

    def _figures(self, model: Artifact, test: ImageSet) -> dict[str, float | None]:
        return measure_model(self.study, model, test, self.runtime)


def means(rows: Iterable[Row]) -> Row:
    """Return the mean over the sites of each contestant's figures."""
    rows, found = list(rows), dict[str, Any]()
    for split in ("own", "global"):
        for name in CONTESTANTS:
            figures = {figure: [row[split][name][figure] for row in rows] for figure in FIGURES}
            known = {figure: [value for value in values if value is not None] for figure, values in figures.items()}
            found.setdefault(split, {})[name] = {f: float(np.mean(v)) if v else None for f, v in known.items()}
    return found


def main(arguments: list[str]) -> int:
    """Measure a run; return the exit status."""
    folder, out, *overrides = arguments
    run = RunFolder.of_run(Path(folder))
    study, rows = with_options(run.study, overrides), dict[str, Row]()
    with tempfile.TemporaryDirectory() as stages:
        bench = Bench(run, study, Path(stages))
        for site, data in run.sites.items():
            rows[site] = bench.row(site, data)
            options = study.options("backend", "out", "run_dir", "data")
            found = {"command": overrides, "study": options, "sites": rows, "mean": means(rows.values())}
            write_json(Path(out), found | {"provenance": provenance()})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
