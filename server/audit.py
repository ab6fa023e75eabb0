"""The audit as the server runs it: it sends what is to be attacked, the sites attack it and answer with aggregates."""

from __future__ import annotations

import itertools
import logging
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from flwr.app import RecordDict
from torch import Tensor

from fedkr import wire
from fedkr.audit.document import AuditQuestion, Document, Pair, audit_extras, check_comparison, keyed
from fedkr.audit.statistics.blind import voided
from fedkr.audit.statistics.membership import guessing_rates
from fedkr.audit.statistics.pooling import outweighing, pooled_patients, pooled_rows, worst_site
from fedkr.audit.targets import CONTROL, PLANTED_CONTROL, RELEASE, ROUNDS, headline_key
from fedkr.audit.verdict import RELEASE_STUDENT, Blind, site_verdicts
from fedkr.disk import path_within
from fedkr.fingerprint import fingerprint
from fedkr.learning.job import Job
from fedkr.learning.runtime import Runtime
from fedkr.progress import Progress
from fedkr.release import ReleasedSets
from fedkr.site_name import ALL_SITES
from server.coordinator import Coordinator, Pending
from server.student import train_student
from server.targets import Target

logger = logging.getLogger("fedkr.server")

Row = dict[str, Any]
Weights = Mapping[str, Tensor]
Extras = dict[str, Any]

# Kinds of targets under the same adversary, whose difference is measured: first less second.
COMPARED = (("student", "weights"), ("student", "oracle"), (RELEASE_STUDENT, "update"), (RELEASE_STUDENT, ROUNDS))


@dataclass(frozen=True)
class Auditable:
    """What a run left behind that can be attacked.

    Attributes:
        releases: for each exchange, the sites' release files.
    """

    targets: list[Target]
    releases: list[Mapping[str, Path]] = field(default_factory=list)

    def wanted(self, names: Iterable[str]) -> list[Target]:
        """Return what ``audit.targets`` names, in its order: what contestants left, releases give, or sites make."""
        kinds = (CONTROL, *((RELEASE, RELEASE_STUDENT, PLANTED_CONTROL) if self.releases else ()))
        known = [*self.targets, *(Target(kind, kind, "") for kind in kinds)]
        return list({target.name: target for name in names for target in known if target.is_called(name)}.values())


def read_auditable(run_dir: Path, results: Mapping[str, Any]) -> Auditable:
    """Return what the folder of a finished run with these ``results`` holds."""
    releases = dict[int, dict[str, Path]]()
    for site, paths in results.get("releases", {}).items():
        for path in paths:
            number = re.search(r"release-r(\d+)-", Path(path).name)
            releases.setdefault(int(number[1]) if number else 1, {})[site] = path_within(run_dir, path)
    targets = [Target.read(run_dir, row) for row in results.get("targets", [])]
    return Auditable(targets, [releases[number] for number in sorted(releases)])


def with_summaries(rows: Iterable[Row], extras: Extras) -> tuple[list[Row], Extras]:
    """Return rows and extras with what follows from all sites' rows: pooled rows, verdicts, worst sites."""
    own = [row | guessing_rates(row, row["nonmembers"]) for row in rows if row["site"] != ALL_SITES]
    blind = {row["site"]: row["rejected"] for row in extras.get("blind", [])}
    void = [site for site, rejected in blind.items() if rejected]
    untested = {row["site"] for row in own} - set(blind)
    worst = worst_site(row for row in own if row.get("headline"))
    notes = [
        f"in the audit's pooled figures {site} would outweigh all other sites together; it counts as they do"
        for site in outweighing(own)
    ]
    patients = [row for row in extras.get("patients", []) if row["site"] != ALL_SITES]
    return [*own, *pooled_rows(own)], extras | {
        "notes": list(dict.fromkeys([*extras.get("notes", []), *notes])),
        "verdicts": [
            verdict.as_row()
            for verdict in site_verdicts(
                own, Blind(void, untested), extras.get("canaries", []), extras.get("two_sample", []), patients
            )
        ],
        "patients": [*patients, *pooled_patients(patients)],
        "worst_site": [{name: value for name, value in row.items() if name != "roc"} for row in worst],
    }


class ServerAudit:
    """The audit of what a run left behind: references, then all targets, then what compares them.

    Nothing else is trained again. A site that refuses or fails is left out of what it could not answer, and a note
    says so.

    The coordinator has gathered the sites, and its study says how to audit. ``runtime`` and ``progress`` are for what
    only the server can build: a student of each site's releases.
    """

    def __init__(self, coordinator: Coordinator, found: Auditable, runtime: Runtime, progress: Progress) -> None:
        self.coordinator, self.found, self.runtime, self.progress = coordinator, found, runtime, progress
        self.study = coordinator.study
        self.config = self.study.audit
        self.sites = coordinator.allowing("metrics")
        self.notes: list[str] = []
        self.documents: dict[str, dict[str, Document]] = {}
        self.digests: dict[tuple[str, str], str] = {}

    def run(self) -> tuple[list[Row], Extras]:
        """Return the rows of ``results["audit"]``, those of all sites last, and ``results["audit_extras"]``."""
        if not self.config.enabled:
            return [], {}
        wanted = {target: self._models(target) for target in self.found.wanted(self.config.targets)}
        asked = {target: models for target, models in wanted.items() if models}
        if self.config.uses_references:
            self._train_references({target.kind for target in asked})
        self._attack(asked)
        extras, rows = self._compare(list(asked)), list[Row]()
        for target in asked:
            for document in self.documents[target.name].values():
                rows += document["audit"]
                for name, values in audit_extras(document, self.config).items():
                    extras.setdefault(name, []).extend(values)
        return with_summaries(rows, extras | {"notes": self.notes})

    def _models(self, target: Target) -> dict[str, Weights | None]:
        """Return what each site is sent to attack; None is for what it has itself, and no site where there is none."""
        if target.model is not None:
            return dict.fromkeys(self.sites, target.model.tensors)
        if target.by_site:
            return {site: model.tensors for site, model in target.by_site.items() if site in self.sites}
        if target.kind not in (RELEASE, RELEASE_STUDENT, PLANTED_CONTROL):
            return dict.fromkeys(self.sites)
        released = dict.fromkeys(site for files in self.found.releases for site in files if site in self.sites)
        return {site: self._site_student(site) if target.kind == RELEASE_STUDENT else None for site in released}

    def _site_student(self, site: str) -> Weights:
        """Train a student on one site's releases alone: what the server could do with what it was sent."""
        files = [exchange[site] for exchange in self.found.releases if site in exchange]
        sets, study = ReleasedSets.of_files([[path] for path in files]), self.study
        job = Job(self.runtime, self.progress, study.data.flip, (study.seed, "server", "site-student", site))
        key = {"student": asdict(study.student), "seed": study.seed, "threads": study.threads, **job.describe()}
        key["releases"] = sets.digest()
        train = partial(train_student, study.student, sets, job, f"student of {site}")
        return self.coordinator.stages.run(f"site-student-{site}", key, train).tensors

    def _train_references(self, asked: Collection[str]) -> None:
        """Have the sites train reference models for kinds of targets; a site that fails is left out of the audit."""
        # The driver of a simulation attacks its own later, with the references that the sites have by then.
        oracles = self.study.strategy.names(driver=True)
        kinds = sorted({*asked, *(["oracle"] if oracles and {"oracle", *oracles} & {*self.config.targets} else [])})
        pending, lost = [], dict[str, str]()
        for site in self.sites:
            others = self._others(site)
            content = wire.request_content(self.coordinator.study_json, kinds=kinds)
            if others is not None:
                shared, sizes = others.arrays()
                study, sites = self.coordinator.study_json, others.sites
                content = wire.request_content(study, shared=shared, sizes=sizes, sites=sites, kinds=kinds)
            about = fingerprint([kinds, others and others.digest()])
            composed = self.coordinator.compose("references", wire.REFERENCES, {site: content}, about, lost)
            pending.append(self.coordinator.send(composed))
        for sent in pending:
            self.coordinator.collect_metrics(sent, lambda _, metrics: wire.read_seconds(metrics))
        self._note("reference models", lost)
        self.sites = [site for site in self.sites if site not in lost]

    def _others(self, site: str) -> ReleasedSets | None:
        """Return the union of what the other sites released, where their policies let it reach other sites."""
        open_to_all = self.coordinator.passing_on()
        files = [
            [path for other, path in exchange.items() if other != site and other in open_to_all]
            for exchange in self.found.releases
        ]
        files = [paths for paths in files if paths]
        return ReleasedSets.of_files(files) if files else None

    def _attack(self, targets: Mapping[Target, Mapping[str, Weights | None]]) -> None:
        """Send all targets and collect the sites' documents."""
        pending: dict[str, tuple[Pending, dict[str, str]]] = {}
        for target, models in targets.items():
            lost: dict[str, str] = {}
            asked = {site: weights for site, weights in models.items() if site in self.sites}
            pending[target.name] = self.coordinator.send(self._compose_attack(target, asked, lost)), lost
        for target in targets:
            (sent, lost), name = pending[target.name], target.name
            question = AuditQuestion(name, target.kind, len(self.coordinator.card["classes"]), self.config)
            check = partial(self._check_findings, question)
            self.documents[name] = self.coordinator.collect_documents(sent, wire.FINDINGS, check)
            self._note(f"audit of {name}", lost)

    def _check_findings(self, question: AuditQuestion, site: str, document: Document) -> None:
        # A site that withholds exact counts has none on its card either.
        question.check(site, document, exact="counts" in self.coordinator.members[site].card)

    def _compose_attack(self, target: Target, models: Mapping[str, Weights | None], lost: dict[str, str]) -> Pending:
        contents: dict[str, RecordDict] = {}
        for site, weights in models.items():
            self.digests[target.name, site] = wire.weights_digest(weights)
            contents[site] = wire.request_content(
                self.coordinator.study_json, weights, target=target.name, kind=target.kind
            )
        digests = sorted({self.digests[target.name, site] for site in models})
        about = digests[0] if len(digests) == 1 else fingerprint(digests)
        return self.coordinator.compose(f"audit-{target.name}", wire.AUDIT, contents, about, lost)

    def _compare(self, targets: Sequence[Target]) -> Extras:
        """Ask for the blind baseline and the paired differences."""
        pending, lost = {}, dict[str, str]()
        for site in self.sites:
            pairs = self._pairs(site, targets)
            content = wire.request_content(self.coordinator.study_json, pairs=wire.pairs_setting(pairs))
            about = fingerprint([asdict(pair) for pair in pairs])
            composed = self.coordinator.compose("compare", wire.COMPARE, {site: content}, about, lost)
            pending[site] = self.coordinator.send(composed), pairs
        blind, paired = list[Row](), list[Row]()
        for sent, pairs in pending.values():
            check = partial(check_comparison, pairs)
            for document in self.coordinator.collect_documents(sent, wire.COMPARISON, check).values():
                blind += document["blind"]
                paired += document["paired"]
        self._note("comparison", lost)
        found = voided([(row["p_value"], row["classes_p_value"]) for row in blind])
        for row, rejected in zip(blind, found, strict=True):
            row["rejected"] = rejected
        return {"blind": blind, "paired": paired}

    def _pairs(self, site: str, targets: Sequence[Target]) -> list[Pair]:
        named: dict[str, list[str]] = defaultdict(list)
        for target in targets:
            named[target.kind].append(target.name)
        pairs = []
        for first, second in (pair for a, b in COMPARED for pair in itertools.product(named[a], named[b])):
            rows = [self.documents[target].get(site, {}).get("audit", []) for target in (first, second)]
            if (by := common_row(self.config.headline, *rows)) is not None:
                about = self.digests[first, site], self.digests[second, site]
                pairs.append(Pair(by["attack"], by["references"], first, about[0], second, about[1]))
        return pairs

    def _note(self, what: str, lost: Mapping[str, str]) -> None:
        for site, why in lost.items():
            logger.warning("├── %s gave no answer (%s): %s", site, what, why)
            self.notes.append(f"{site} is left out ({what}): {why}")


def common_row(headline: str, first: Iterable[Row], second: Iterable[Row]) -> Row | None:
    """Return the headline attack's row, with the strongest references that two targets were both attacked with."""
    ours, theirs = keyed(first), keyed(second)
    key = headline_key("", headline, ours.keys() & theirs.keys())
    return None if key is None else ours[key]
