"""The comparison: runs the study's contestants over one federation and brings their figures into one shape."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedkr import wire
from fedkr.config import Study
from fedkr.data import ImageSet, study_source
from fedkr.errors import StudyFailedError
from server.audit import Auditable, ServerAudit
from server.contestant import COSTS, Contestant, Federation, Outcome, Row, make_contestants
from server.coordinator import Pending
from server.targets import Target, figures_of, measure_model

logger = logging.getLogger("fedkr.server")


class Comparison:
    """Runs each contestant that ``strategy.compare`` names, but for those of a simulation's driver.

    Args:
        federation: the sites and the server's means.
        run_dir: gets ``models/``.
    """

    def __init__(self, federation: Federation, run_dir: Path) -> None:
        self.federation, self.run_dir = federation, run_dir
        self.coordinator, self.study, self.job = federation.coordinator, federation.study, federation.job

    def run(self) -> dict[str, Any]:
        """Run everything and return the server's part of the results.

        Raises:
            StudyFailedError: the sites' policies leave no contestant, or a contestant cannot go on.
        """
        contestants = make_contestants(self.federation)
        impossible = {c.name: why for c in contestants if (why := self._forbidden(c))}
        for name, why in impossible.items():
            logger.warning("├── %s is left out: %s", name, why)
        if contestants and len(impossible) == len(contestants):
            raise StudyFailedError("; ".join(f"{name}: {why}" for name, why in impossible.items()))
        finished, failed = self._run_in_turn([c for c in contestants if c.name not in impossible])
        outcomes = {name: finished[name] for name in self.study.strategy.compare if name in finished}
        rows = {name: self._row(name, outcome) for name, outcome in outcomes.items()}
        targets = [target for outcome in outcomes.values() for target in outcome.targets()]
        kept = [target.keep(self.run_dir, self.study, self.coordinator.card) for target in targets]
        self._evaluate_at_sites(rows, outcomes)
        # Several contestants learn from the same exchanges, each of which is audited once.
        releases: list[Mapping[str, Path]] = []
        for exchange in (exchange for outcome in outcomes.values() for exchange in outcome.releases):
            releases += [exchange] if exchange not in releases else []
        found = Auditable(targets, releases)
        audit, extras = ServerAudit(self.coordinator, found, self.job.runtime, self.job.progress).run()
        return {
            "strategies": list(rows.values()),
            "targets": kept,
            "audit": audit,
            "audit_extras": extras,
            "weights_search": [row for outcome in outcomes.values() for row in outcome.search],
            "recycling": {site: row for outcome in outcomes.values() for site, row in outcome.recycling.items()},
            "choices": {name: dict(outcome.choices) for name, outcome in outcomes.items() if outcome.choices},
            "releases": self._paths(releases),
            "notes": [
                *(f"{name} is left out: {why}" for name, why in (impossible | failed).items()),
                *dict.fromkeys(note for outcome in outcomes.values() for note in outcome.notes),
            ],
        }

    def _run_in_turn(self, contestants: Iterable[Contestant]) -> tuple[dict[str, Outcome], dict[str, str]]:
        """Start all contestants in their turns, so that no site waits while another works; finish them in the same.

        Returns:
            What each ended with, and why others could not go on: one bad site can make a model diverge, which must not
            take the other contestants' results away.

        Raises:
            StudyFailedError: no contestant is left, or it is the study itself that cannot go on.
        """
        started = [(c.name, c.start()) for c in sorted(contestants, key=lambda c: c.turn)]
        finished: dict[str, Outcome] = {}
        failed: dict[str, str] = {}
        for name, finish in started:
            try:
                finished[name] = finish()
            except StudyFailedError as error:
                failed[name] = str(error)
                enough = len(self.coordinator.members) >= self.coordinator.least
                if error.restart or not enough or len(failed) == len(started):
                    raise
                logger.warning("├── %s is left out: %s", name, error)
        return finished, failed

    def _forbidden(self, contestant: Contestant) -> str:
        """Return why the sites' policies make a contestant impossible, an empty string where they do not."""
        kinds = [kind for kind in sorted(contestant.needs) if not self.coordinator.allowing(kind)]
        return f"no site's policy lets {' and '.join(kinds)} leave" if kinds else ""

    def _row(self, name: str, outcome: Outcome) -> Row:
        figures, costs = figures_of(outcome.figures), outcome.costs
        if outcome.model is not None and outcome.model.model is not None:
            figures = measure_model(self.study, outcome.model.model, self.federation.test, self.job.runtime)
        per_site: list[Row] = [{"site": site, **outcome.per_site.get(site, {}), **cost} for site, cost in costs.items()]
        for row in per_site:
            row |= {"tuning": outcome.tuned_sites[row["site"]]} if row["site"] in outcome.tuned_sites else {}
        total: Row = {cost: sum(row[cost] for row in per_site) for cost in COSTS}
        total["seconds"] += outcome.seconds
        tuning = {"tuning": outcome.tuning} if outcome.tuning else {}
        return {"name": name, **figures, **total, **tuning, "per_site": per_site}

    def _evaluate_at_sites(self, rows: Mapping[str, Row], outcomes: Mapping[str, Outcome]) -> None:
        """Measure each shared model on each site's own test split."""
        shared = {name: outcome.model for name, outcome in outcomes.items() if outcome.model is not None}
        pending = {name: self._send_model(target) for name, target in shared.items()}
        for name, sent in pending.items():
            known = {entry["site"]: entry for entry in rows[name]["per_site"]}
            answers = self.coordinator.collect_metrics(sent, lambda _, metrics: wire.read_utility(metrics, "test"))
            for site, info in answers.items():
                known.setdefault(site, {"site": site}).update(figures_of(wire.read_utility(info["metrics"], "test")))
            rows[name]["per_site"] = list(known.values())

    def _send_model(self, target: Target) -> Pending:
        assert target.model is not None
        weights = target.model.tensors
        content = wire.request_content(self.coordinator.study_json, weights)
        contents = dict.fromkeys(self.coordinator.allowing("metrics"), content)
        about = wire.weights_digest(weights)
        return self.coordinator.send(
            self.coordinator.compose(f"evaluate-{target.name}", wire.EVALUATE, contents, about)
        )

    def _paths(self, releases: Iterable[Mapping[str, Path]]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for exchange in releases:
            for site, path in exchange.items():
                if (name := str(path.relative_to(self.run_dir))) not in found.setdefault(site, []):
                    found[site].append(name)
        return found


def global_test_set(study: Study) -> ImageSet | None:
    """Return the test set that the server itself has; None in a deployment whose server has no images."""
    return None if study.data.name == "none" else study_source(study).test
