"""``fedkr audit --model FILE --data NPZ``: the audit of a classifier that came from elsewhere."""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import fedkr
from fedkr.audit.outside.model import OutsideAudit, OutsideAuditor, read_outside
from fedkr.config import LEAST_REFERENCES, AuditConfig, ClassifierConfig
from fedkr.data.images import Shape
from fedkr.disk import write_atomic, write_json
from fedkr.environment import provenance
from fedkr.errors import UserError
from fedkr.learning.job import Job
from fedkr.learning.models import build_classifier
from fedkr.learning.runtime import Runtime
from fedkr.progress import FileProgress
from fedkr.report.pages.outside import render_outside
from fedkr.report.results import plain
from fedkr.report.wording import attack_with_references, auc_interval, tpr_interval
from fedkr.stages import StageStore
from server.composition import compose_study
from simulations.audit_run.options import Request
from simulations.audit_run.outside_model import STUDENT, OutsideModel, check_answers, load_model, recipe_of
from simulations.live import live_view
from simulations.run_folder import only_one_in

PRESETS = ("light", "full")
RESULT_FILE, PAGE_FILE = "audit.json", "audit.html"
DIRECT_ONLY = (
    "an exported student was trained on releases: direct references never saw a generator, so that the best verdict "
    "here is 'cannot tell'; `fedkr audit RUN` repeats the whole pipeline"
)
RECIPE = (
    "the reference models follow the recipe in Setup; the nearer it is to the model's own (--arch, --width, --steps), "
    "the stronger the attacks"
)
PROBABILITIES = "the model gives probabilities: their logarithm is taken for logits"


def audit_outside(request: Request, bootstrap: int | None = None) -> Path:
    """Audit an outside model; write ``audit.json`` and ``audit.html``, print the verdict; return the folder.

    Reference models and control are stages in the folder: the same command continues after a stop. ``bootstrap``
    resamples take the place of the preset's.

    Raises:
        UserError: a model or data that cannot be audited.
    """
    started, config = time.time(), audit_config(request, bootstrap)
    runtime = Runtime.choose(request.device, threads=request.threads)
    data = read_outside(request.data, request.classes, request.seed)
    members = data.challenge.members
    given = {"arch": request.arch, "width": request.width, "steps": request.steps}
    model = load_model(request.model, recipe_of(None, given), members)
    model.normalise(request.mean, request.std, members.channels)
    runtime.place(model).eval()
    check_answers(model, members, request.model, runtime)
    recipe = recipe_of(model.recipe, given)
    build_classifier(recipe, Shape.of(members), "check")
    out = (request.out or Path(f"audit-{request.model.stem}")).absolute()
    with only_one_in(out), live_view({"audit": out}):
        job = Job(runtime, FileProgress(out), request.flip)
        auditor = OutsideAuditor(data, config, recipe, StageStore(out / "stages"), job, request.seed)
        found = auditor.audit(partial(model.predict, runtime=runtime), model.target)
    document = describe(request, model, found, config, recipe) | {"seconds": time.time() - started}
    document["notes"] = [*data.notes, *notes(model, config, found)]
    document = plain(document)
    write_json(out / RESULT_FILE, document)
    write_atomic(out / PAGE_FILE, render_outside(document).encode())
    print_outside(document, out)
    return out


def audit_config(request: Request, bootstrap: int | None = None) -> AuditConfig:
    """Return the preset's audit with direct references only; raise :class:`UserError` for one that cannot be."""
    if request.preset not in PRESETS:
        raise UserError(f"--preset {request.preset}: one of: {', '.join(PRESETS)}")
    if request.references < LEAST_REFERENCES or request.references % 2:
        raise UserError(f"--references {request.references}: an even number, at least {LEAST_REFERENCES}")
    audit = dataclasses.replace(compose_study([f"audit={request.preset}"]).audit, pipeline_references=0)
    if request.preset == "full":
        audit.direct_references = request.references
    if bootstrap is not None:
        audit.bootstrap = bootstrap
    return audit


def describe(
    request: Request, model: OutsideModel, found: OutsideAudit, audit: AuditConfig, recipe: ClassifierConfig
) -> dict[str, Any]:
    """Return the document of ``audit.json`` without notes and seconds; it names no folder and no single image."""
    return {
        "fedkr": fedkr.__version__,
        "model": request.model.name,
        "kind": model.kind,
        "data": request.data.name,
        "seed": request.seed,
        "study": {"audit": dataclasses.asdict(audit)},
        "recipe": dataclasses.asdict(recipe),
        **provenance(),
        **found.as_results(),
    }


def notes(model: OutsideModel, audit: AuditConfig, found: OutsideAudit) -> list[str]:
    """Return what a reader has to know beside the verdict, a line each."""
    lines = [PROBABILITIES] if model.gives_probabilities else []
    if audit.direct_references:
        lines.append(RECIPE)
        lines += [DIRECT_ONLY] if model.target == STUDENT else []
    if found.void:
        lines.append(
            f"members and non-members differ without any model (blind AUC {found.blind.auc:.3f}, "
            f"p = {found.blind.p_value:.4f}; class shares p = {found.classes_p_value:.4f}): no figure here is about "
            "membership; take a holdout of the same origin"
        )
    return lines


def print_outside(document: dict[str, Any], out: Path) -> None:
    """Print every attack, then the verdict and what has to be known with it."""
    console = Console()
    table = Table(title=f"Membership audit of {document['model']}", title_justify="left", box=SIMPLE_HEAD)
    for title in ("target", "attack", "AUC [95 %]", "TPR at 1 % FPR [95 %]"):
        table.add_column(title)
    for row in document["audit"]:
        style = "bold" if row["headline"] else ""
        table.add_row(row["target"], attack_with_references(row), auc_interval(row), tpr_interval(row), style=style)
    console.print(table)
    for line in document["notes"]:
        console.print(f"note: {line}", highlight=False, soft_wrap=True)
    verdict = document["audit_extras"]["verdicts"][0]
    console.print(f"verdict: {verdict['verdict']}: {verdict['reason']}", style="bold", highlight=False, soft_wrap=True)
    console.print(f"report: {out / PAGE_FILE}", highlight=False, soft_wrap=True)
