"""What a study would do at a site and send from it, in plain words; its approval by the site's engineer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedkr import wire
from fedkr.audit.targets import row_names
from fedkr.config import DP_SGD, GUARANTEED_GENERATORS, REFERENCE_ATTACKS, Study, parse_study
from fedkr.config.reading import brief
from fedkr.errors import UserError
from sites.accounting import beyond_budget
from sites.check import may_leave
from sites.contestants import words_of
from sites.ledger import ROUNDING, Ledger, delta_spent, epsilon_spent, images_released
from sites.policy import check_request
from sites.private_files import private_files
from sites.records import check_owner, read_records
from sites.studies import APPROVED_FILE, approve, named_modules, revoke, study_digest
from sites.terms import cost_of
from sites.workspace import SiteFile, read_site_file


def approve_study(study_file: Path, site_file: Path, digest: str = "") -> list[str]:
    """Return what the study in a JSON file would do and send, in plain words; approve it where ``digest`` is its own.

    The file may be the coordinator's, and change between reading and approving: only a digest says what was read.

    Raises:
        UserError: no study or site file, another study's digest, or records that cannot be written.
    """
    try:
        study = parse_study(study_file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{study_file}: cannot be read ({error})") from None
    site = read_site_file(site_file)
    records, own = Path(site.records), study_digest(study)
    if digest and digest != own:
        raise UserError(f"{study_file}: this is study {own}, not {brief(digest)}; read it again before you approve it")
    told = [
        f"study {own}",
        "read the numbers, not budget and facts: these say of what numbers were made, and the digest leaves them out",
        *_work(study),
        *_spent(study, site),
        *_audit(study),
        *(f"may leave: {line}" for line in may_leave(site)),
        *_warnings(study, site),
    ]
    if not digest:
        return [*told, f"not approved yet; to approve what stands above, add --yes {own}"]
    with _writing(site):
        approve(records, study)
    return [*told, f"approved: from now on {site.name} answers this study and others in {records}, and no other"]


def revoke_study(digest: str, site_file: Path) -> str:
    """Take back the approval of a study by its digest; return in plain words what the site answers from now on.

    Raises:
        UserError: no site file, a study that was not approved by command, or records that cannot be written.
    """
    site = read_site_file(site_file)
    records, in_file = Path(site.records), digest in site.studies.approved
    with _writing(site):
        if not in_file or digest in read_records(records / APPROVED_FILE):
            revoke(records, digest)
    if in_file:
        raise UserError(f"{site_file}: studies.approved has study {brief(digest)}, too; take it out there")
    left = len(site.studies.all_approved(records))
    return f"revoked; {site.name} answers {left or 'no'} other approved {'study' if left == 1 else 'studies'}"


@contextmanager
def _writing(site: SiteFile) -> Iterator[None]:
    """Keep other processes from a site's records, which must be this account's."""
    records = Path(site.records)
    check_owner(*(Path(path) for path in (site.records, site.workspace, site.connection.key) if path))
    with private_files(records), Ledger(records).locked():
        yield


def _work(study: Study) -> Iterator[str]:
    generator, recycle = study.generator, study.recycle
    teacher, student = (f"{model.arch}, {model.steps}" for model in (study.teacher, study.student))
    for name in study.strategy.compare:
        yield f"contestant {name}: {words_of(study, name)}"
    if study.privacy.guaranteed:
        yield (
            f"releases only what is differentially private, epsilon {study.privacy.epsilon:g} at delta "
            f"{study.privacy.delta:g} for one patient (without groups: image) of the training split: no teacher, no "
            "choice by real images"
        )
        yield f"lets the server train a student ({student} steps for each site)"
        if GUARANTEED_GENERATORS[generator.kind] == DP_SGD:
            yield f"trains a generator ({generator.kind}, {generator.steps} steps of {generator.batch}) by DP-SGD"
        else:
            yield f"measures a generator ({generator.kind}) once"
    else:
        yield f"trains a teacher ({teacher} steps), and lets the server train a student ({student} steps for each site)"
        yield f"trains a generator ({generator.kind}, {generator.steps} steps, {generator.checkpoints} checkpoints)"
    yield (
        f"releases in {recycle.exchanges} messages {recycle.rounds} x {recycle.ratio:g} times as many images as the "
        f"training split has, class shares {recycle.balance}, from classes of {recycle.min_class_count} images or more"
    )
    if not recycle.refuse_collapsed:
        yield "releases images of a generator that taught a student nothing, too (recycle.refuse_collapsed=false)"


def _spent(study: Study, site: SiteFile) -> Iterator[str]:
    """Yield what of the budgets is spent; whether this study's answers left before takes the images to know."""
    budget, before = site.policy.privacy, Ledger(Path(site.records)).entries()
    yield f"policy.max_images={site.policy.max_images} of all studies: {images_released(before)} left before"
    if not study.privacy.guaranteed:
        return
    cost = dataclasses.replace(cost_of(study), mechanism="to come")
    spent, after = (epsilon_spent(entries, budget.delta) for entries in (before, [*before, cost]))
    limit = f"policy.privacy.epsilon={budget.epsilon:g}"
    yield f"{limit} of all studies: spent {spent:.3g}, with this study {after:.3g} at most (delta {budget.delta:g})"
    if math.isinf(after):
        yield f"warning: {delta_spent(budget.delta)}: no release, unless an earlier study was given the same"
    elif after > budget.epsilon + ROUNDING:
        yield f"warning: {after:.3g} is more than {limit}: no release, unless an earlier study was given the same"


def _audit(study: Study) -> Iterator[str]:
    audit = study.audit
    if not audit.enabled:
        yield "no audit"
        return
    attacks = dict.fromkeys(name for kind in audit.targets for name, _ in row_names(kind, audit.attacks))
    yield (
        f"audits {', '.join(audit.targets)} by {', '.join(attacks)}; rates, intervals and counts of images leave, and "
        "where the data name patients the same of patients"
    )
    if any(attack in REFERENCE_ATTACKS for attack in audit.attacks):
        yield f"trains {audit.direct_references} reference models and {audit.pipeline_references} whole pipelines"
    if audit.canaries:
        yield f"plants {audit.canaries} canaries ({', '.join(audit.canary_kinds)}) in the training split"


def _warnings(study: Study, site: SiteFile) -> Iterator[str]:
    for line in site.studies.outside(study):
        yield f"warning: {line}"
    for line in beyond_budget(study, site.policy):
        yield f"warning: {line}"
    for option, name in named_modules(study):
        known = name in site.studies.modules
        yield f"imports {name} ({option})" + ("" if known else "; refused until studies.modules names it")
    try:
        check_request(site.policy, wire.DESCRIBE, study)
        site.split.allow(study)
    except UserError as error:
        yield f"refused until changed: {error}"
