"""Which studies may run at a site: those that its engineer approved, or any within the bounds of the site file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedkr.config import LEAST_TO_CHOOSE, NO_PART_OF_RESULTS, Positive, Study, flat, nearest, pipeline_steps
from fedkr.config.reading import brief
from fedkr.disk import sync_folder, write_atomic, write_json
from fedkr.errors import UserError
from fedkr.generators import known_options
from sites.contestants import searches
from sites.records import has_record, read_records

logger = logging.getLogger(__name__)

APPROVED_FILE = "approved.json"
# Studies that were refused, by their digests: so many at most, so that no coordinator fills the disk or makes another's
# go. A study of the largest lists that fedkr takes has fewer bytes.
ASKED_FOLDER, MOST_ASKED, LARGEST_ASKED = "asked", 32, 1_000_000
# Generators that are mixed have theirs below it.
GENERATOR = "generator.options"
# 0 stands for as many as the study's own options come to.
STEPS = "strategy.steps"
DIGEST = re.compile("[0-9a-f]{64}")
# Contestants run at the server alone; these come with fedkr itself.
OWN_CONTESTANTS = ("server.strategies.", "simulations.")
BOUNDS: dict[str, list[Any]] = {
    "generator.steps": [1, 20_000],
    "generator.batch": [1, 1024],
    "generator.checkpoints": [1, 20],
    # Far from these a generator draws its images behind noise or next to a mean, where fewer copies are found.
    # With one step, or trained on great noise alone, it draws mixes of images, from which many give the images back.
    "generator.options.steps_sample": [5, 100],
    "generator.options.p_mean": [-2.0, 0.0],
    "generator.options.p_std": [0.8, 2.0],
    "generator.options.drop_class": [0.0, 0.3],
    "generator.options.sigma_min": [0.0, 0.05],
    "generator.options.sigma_max": [10.0, 200.0],
    "generator.options.sigma_data": [0.1, 1.0],
    "generator.options.guidance": [0.5, 5.0],
    # Below it, the few images of a rare class are met as often as all of a common one.
    "generator.options.class_power": [0.5, 1.0],
    "generator.options.churn": [0.0, 100.0],
    "generator.options.private_draws": [1, 16],
    "teacher.steps": [1, 20_000],
    "teacher.width": [1, 256],
    "student.steps": [1, 20_000],
    "student.width": [1, 256],
    "recycle.rounds": [1, 20],
    "recycle.ratio": [0.0, 10.0],
    "recycle.views": [1, 16],
    "recycle.search_steps": [1, 5000],
    "recycle.search_images": [1, 20_000],
    "recycle.tuning_budget": [0, 10],
    "recycle.temperature": [0.5, 10.0],
    "recycle.refuse_collapsed": [True, True],
    STEPS: [0, 100_000],
    "strategy.rounds": [1, 200],
    "strategy.search_rounds": [0, 20],
    "strategy.lrs": [0.0, 10.0],
    "strategy.local_epochs": [1, 20],
    "audit.bootstrap": [1, 10_000],
    "audit.permutations": [0, 10_000],
    "audit.direct_references": [0, 128],
    "audit.pipeline_references": [0, 32],
    "audit.queries": [1, 16],
    "audit.canaries": [0, 1000],
    "teacher.logit_adjustment": [0.0, 1.0],
    "student.logit_adjustment": [0.0, 1.0],
}


@dataclass
class StudyRules:
    """What a study may ask this site for.

    Attributes:
        approved: digests of the studies that may run, beside those of ``fedkr site approve``.
        only_approved: whether none but these may run. So it is, too, from the first approval on, also where each was
            revoked since; before, any study within the bounds may.
        bounds: by option, the least and the most of a number (of true and false), or the texts that it may be; options
            that are not named keep their place in :data:`BOUNDS`.
        modules: dotted names of modules that a study may name.
        hours: after so long the work for a message ends.
        gigabytes: most that workspace and records may hold.
    """

    approved: list[str] = field(default_factory=list)
    only_approved: bool = False
    bounds: dict[str, Any] = field(default_factory=dict)
    modules: list[str] = field(default_factory=list)
    hours: Positive = 24.0
    gigabytes: Positive = 50.0

    def check(self, where: str) -> None:
        """Raise :class:`UserError` for rules that no study could be held to."""
        for digest in self.approved:
            if not DIGEST.fullmatch(digest):
                raise UserError(f"{where}: studies.approved={digest!r}: a digest has 64 hex digits, all lower case")
        if not self.hours > 0 or not self.gigabytes > 0:
            raise UserError(f"{where}: studies.hours and studies.gigabytes must be above 0")
        for name, bound in self.bounds.items():
            _check_bound(where, str(name), bound, self.modules)

    def refuse(self, study: Study, records: Path) -> None:
        """Raise :class:`UserError`, which names the option, for a study that may not run here."""
        for option, name in named_modules(study):
            if name not in self.modules:
                raise UserError(f"{option}={name!r}: a module that is not in this site file's studies.modules")
        list(searches(study))
        if self.closed(records):
            approved, digest = self.all_approved(records), study_digest(study)
            if digest not in approved:
                raise UserError(f"study {digest}: not among the {len(approved)} approved; see `fedkr site approve`")
            return
        for line in self.outside(study):
            raise UserError(line)

    def closed(self, records: Path) -> bool:
        """Whether only approved studies may run."""
        return self.only_approved or bool(self.approved) or has_record(records / APPROVED_FILE)

    def all_approved(self, records: Path) -> set[str]:
        """Return the digests of all approved studies, those of ``fedkr site approve`` among them."""
        return {*self.approved, *read_records(records / APPROVED_FILE)}

    def outside(self, study: Study) -> list[str]:
        """Return a line for each option of a study that is not within this site's bounds."""
        options, lines = dict(flat(study.options())), []
        for name, bound in (BOUNDS | self.bounds).items():
            for option, value in _set_by(options, name):
                if not all(_within(item, bound) for item in (value if isinstance(value, list) else [value])):
                    lines.append(f"{option}={brief(value)}: outside this site's bounds, {bound} (studies.bounds)")
                elif (
                    name == STEPS and value == 0 and not _within(taken := pipeline_steps(study, LEAST_TO_CHOOSE), bound)
                ):
                    as_many = f"as many steps as fedkr's own {taken}"
                    lines.append(f"{option}=0: {as_many}, outside this site's bounds, {bound} (studies.bounds)")
        return lines


def _set_by(options: dict[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    """Yield an option of a study with its value, and each contestant's or mixed generator's own in place of it."""
    group, _, last = name.rpartition(".")
    for option, value in options.items():
        own = option.endswith(f".{last}")
        of_contestant = group == "strategy" and option.startswith("strategy.options.") and option.count(".") == 3
        of_generator = group == GENERATOR and option.startswith(f"{GENERATOR}.")
        if option == name or (own and (of_contestant or of_generator)):
            yield option, value
        if of_generator and option.endswith(".members") and isinstance(value, list):
            for member in (each for each in value if isinstance(each, dict)):
                yield from _set_by(dict(flat({GENERATOR: member.get("options") or {}})), name)


def _check_bound(where: str, name: str, bound: Any, modules: Sequence[str]) -> None:
    known = {option: [usual] for option, usual in flat(Study().options())}
    if name.startswith(f"{GENERATOR}."):
        # Modules of the site's own may have others.
        own = {f"{GENERATOR}.{option}": defaults for option, defaults in known_options().items()}
        known = known | ({name: []} if modules else {}) | own
    elif name.startswith("strategy.options."):
        known |= {name: []}
    if name not in known:
        raise UserError(f"{where}: studies.bounds.{brief(name)}: no such option{nearest(name, known)}")
    texts = isinstance(bound, list) and bool(bound) and all(isinstance(item, str) for item in bound)
    if not texts and not (_is_range(bound) and bound[0] <= bound[1]):
        raise UserError(
            f"{where}: studies.bounds.{name}={brief(repr(bound))}: expected [least, most], or a list of texts"
        )
    usual = [value[0] if isinstance(value, list) and value else value for value in known[name]]
    of_texts = [isinstance(value, str) for value in usual if isinstance(value, (str, int, float))]
    if usual and len(of_texts) == len(usual) and texts not in of_texts:
        kind = "numbers (or true and false)" if texts else "texts"
        raise UserError(f"{where}: studies.bounds.{name}={brief(repr(bound))}: the option takes {kind}")


def _is_range(bound: Any) -> bool:
    return isinstance(bound, list) and len(bound) == 2 and all(isinstance(item, (int, float)) for item in bound)


def _within(value: Any, bound: list[Any]) -> bool:
    if isinstance(bound[0], str):
        return value in bound
    return isinstance(value, (int, float)) and bool(bound[0] <= value <= bound[1])


def named_modules(study: Study) -> Iterator[tuple[str, str]]:
    """Yield each module that a study names by its dotted name, and the option; none of them is imported."""
    yield from _dotted("data.name", study.data.name)
    for attack in study.audit.attacks:
        yield from _dotted("audit.attacks", attack)
    yield from _kinds("generator", dataclasses.asdict(study.generator))
    for option, name in _kinds("strategy.options", study.strategy.options):
        if not name.startswith(OWN_CONTESTANTS):
            yield option, name


def _kinds(where: str, value: Any) -> Iterator[tuple[str, str]]:
    """Find what is called ``kind`` at any depth: a mixture's members have generators of their own."""
    if isinstance(value, list):
        for item in value:
            yield from _kinds(where, item)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _dotted(f"{where}.kind", item) if name == "kind" else _kinds(f"{where}.{name}", item)


def _dotted(option: str, name: Any) -> Iterator[tuple[str, str]]:
    if "." in str(name):
        yield option, str(name)


def study_digest(study: Study) -> str:
    """Return 64 hex digits of all options of a study but backend, folders, deadlines, budget and facts."""
    options = study.options(*NO_PART_OF_RESULTS, "data.path")
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()


def asked_file(records: Path, study: Study) -> Path:
    """Return where a study that was refused lies, for the engineer to read and to approve."""
    return records / ASKED_FOLDER / f"{study_digest(study)}.json"


def keep_asked(records: Path, study: Study) -> None:
    """Keep a study that was refused, for the engineer to read and to approve.

    Where :data:`MOST_ASKED` are kept the others stay, and this one is not kept until some are approved or removed.
    """
    path, content = asked_file(records, study), study.to_json().encode()
    if path.exists() or len(content) > LARGEST_ASKED:
        return
    if len(list(path.parent.glob("*.json"))) >= MOST_ASKED:
        logger.warning("%s: holds %d refused studies; remove some to see others", path.parent, MOST_ASKED)
        return
    write_atomic(path, content)


def approve(records: Path, study: Study) -> str:
    """Write a study's digest to the approved ones; return it."""
    digest, path = study_digest(study), records / APPROVED_FILE
    _write_approved(path, read_records(path) | {digest: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
    asked_file(records, study).unlink(missing_ok=True)
    return digest


def revoke(records: Path, digest: str) -> None:
    """Take a study out of the approved ones; the file stays, so that a site without any answers none.

    Raises:
        UserError: no such study was approved here.
    """
    path = records / APPROVED_FILE
    approved = read_records(path)
    if digest not in approved:
        raise UserError(f"study {brief(digest)}: not among the {len(approved)} that {path} has approved")
    del approved[digest]
    _write_approved(path, approved)


def _write_approved(path: Path, approved: dict[str, object]) -> None:
    """Write what is approved, so that no power cut brings back what was before."""
    write_json(path, approved)
    sync_folder(path.parent)
