"""The Flower ServerApp: the same in simulation and in a real network."""

from __future__ import annotations

import json
import logging
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

import fedkr
from fedkr.config import Study, parse_study
from fedkr.data import load_source
from fedkr.disk import write_atomic
from fedkr.environment import hardware, package_versions
from fedkr.learning.job import Job
from fedkr.learning.runtime import Runtime
from fedkr.progress import FileProgress
from fedkr.stages import StageStore, code_version
from server.comparison import Comparison, global_test_set
from server.contestant import Federation
from server.coordinator import Coordinator
from server.failure import failures_noted
from server.predictions import with_intervals

logger = logging.getLogger("fedkr.server")

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study that the run config names; leave results, or why there are none, in the run folder."""
    log_to_stream()
    study, driven = read_study(context)
    run_dir = Path(study.run_dir)
    with failures_noted(run_dir):
        if not driven:
            # A driver has named the data that it deals out; here the server's own are named, if it has any.
            if study.data.name != "none":
                study = replace(study, data_digest=load_source(study.data).identity)
            # What a site's engineer is sent to approve.
            write_atomic(run_dir / "server" / "study.json", study.to_json().encode())
        results = run_on_server(grid, study, run_dir, driven, read_registered(context))
        write_atomic(run_dir / "server" / "results.json", json.dumps(results).encode())
        if not driven:
            # Imported here: every process that starts an app would load matplotlib for it.
            from fedkr.report.write import write_report

            runtime = Runtime.choose(study.device, study.precision, study.threads)
            results = with_intervals(results, study, run_dir, global_test_set(study), runtime)
            logger.info("└── %s", write_report(run_dir, results, None))


def log_to_stream() -> None:
    """Log the server's own lines beside Flower's, once a process."""
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


def read_study(context: Context) -> tuple[Study, bool]:
    """Return the study of a run config, and whether a driver composed it.

    A driver hands over the study as JSON; plain ``flwr run .`` names overrides as ``fedkr simulate`` takes them.
    """
    run_dir = str(context.run_config.get("run-dir", ""))
    text = str(context.run_config.get("study", ""))
    if text:
        return replace(parse_study(text), run_dir=run_dir), True
    from server.composition import compose_for_hospitals, compose_study

    overrides = shlex.split(str(context.run_config.get("overrides", "")))
    study = compose_for_hospitals(overrides) if read_registered(context) else compose_study(overrides)
    study = replace(study, data=study.data.located(), run_dir=run_dir or study.run_dir)
    return replace(study, run_dir=str(study.run_folder())), False


def read_registered(context: Context) -> dict[int, str] | None:
    """Return the names of the sites' nodes that the operator registered; None where a run config names none."""
    text = str(context.run_config.get("sites", ""))
    return {int(node): name for node, name in json.loads(text).items()} if text else None


def run_on_server(
    grid: Grid, study: Study, run_dir: Path, driven: bool, registered: dict[int, str] | None = None
) -> dict[str, Any]:
    """Gather the sites, run the comparison, and return the results without the simulation's oracle.

    Args:
        grid: Flower's grid.
        study: all settings.
        run_dir: gets ``server/`` and ``models/``.
        driven: whether a driver started the run, and starts it again after a failure that asks for it.
        registered: the operator's names of the sites, by node.
    """
    started = time.time()
    folder = run_dir / "server"
    runtime = Runtime.choose(study.device, study.precision, study.threads)
    restartable = driven and study.backend.kind == "ray"
    coordinator = Coordinator(grid, study, StageStore(folder / "stages"), restartable, registered)
    coordinator.gather_members()
    logger.info("├── sites: %s", ", ".join(coordinator.members))
    cards = {name: member.card for name, member in coordinator.members.items()}
    test = global_test_set(study)
    job = Job(runtime, FileProgress(folder), study.data.flip, (study.seed, "server"))
    federation = Federation(coordinator, job, test)
    found = Comparison(federation, run_dir).run()
    return {
        "fedkr": fedkr.__version__,
        "study": json.loads(study.to_json()),
        "identity": study.identity(),
        "backend": study.backend.kind if driven else "flwr run",
        "seed": study.seed,
        "classes": next(iter(cards.values()))["classes"],
        "versions": package_versions() | {"code": code_version()},
        "hardware": hardware(),
        "sites": [{"name": name, "counts": card.get("counts")} for name, card in cards.items()],
        **found,
        "missing_sites": [f"{site}: {why}" for site, why in coordinator.missing.items()],
        "notes": deployment_notes(study) + found["notes"] + found["audit_extras"].get("notes", []),
        "seconds": time.time() - started,
        **({} if test is None else {"test_images": len(test)}),
    }


def deployment_notes(study: Study) -> list[str]:
    """Return what the server alone cannot show."""
    oracles = study.strategy.names(driver=True)
    return [
        f"{name} is an oracle of simulations, trained by `fedkr simulate` itself; it is not part of this run."
        for name in oracles
    ]
