"""Weight sharing with Flower's own strategies, resumable round by round and tuned on the sites' val splits.

A new weight-sharing strategy is one module with ``make(options, sites) -> flwr Strategy`` and one YAML file; a kind
with a dot is imported from anywhere. It is made anew for each round: what it carries over must be in ``MOMENTS``.
"""

from __future__ import annotations

import importlib
import itertools
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedkr import wire
from fedkr.config import nearest
from fedkr.errors import UserError
from fedkr.learning.models import build_classifier
from fedkr.learning.training import cosine
from fedkr.progress import Progress
from fedkr.stages import Artifact, read_artifact, write_artifact
from server.coordinator import Coordinator, card_shape, content_bytes
from server.failure import StudyFailedError

logger = logging.getLogger("fedkr.server")

BUILT_IN = ("fedavg", "fedprox", "fedadam")
# What Flower's adaptive strategies carry from round to round, by their attribute names.
MOMENTS = ("m_t", "v_t")
DIVERGED = (float("-inf"), float("-inf"))


@dataclass(frozen=True)
class Candidate:
    """One setting of the search."""

    lr: float
    local_epochs: int

    @property
    def name(self) -> str:
        """Return the setting as it names files and seeds."""
        return f"lr{self.lr:g}-e{self.local_epochs}"


@dataclass(frozen=True)
class WeightSharingResult:
    """The model of the round that was best on val, and what every round of the run cost.

    ``updates`` holds, where the audit asks for them, each site's weights that this model was averaged from.
    """

    weights: Artifact
    search: list[dict[str, Any]]
    costs: dict[str, dict[str, float]]
    updates: dict[str, Artifact]


def make_strategy(kind: str, options: dict[str, Any], sites: int) -> Strategy:
    """Return Flower's strategy of a kind; raise :class:`UserError` for an unknown kind or option."""
    if "." not in kind and kind not in BUILT_IN:
        raise UserError(f"strategy.kind={kind!r}: unknown strategy{nearest(kind, BUILT_IN)}")
    try:
        module = importlib.import_module(kind if "." in kind else f"server.strategies.{kind}")
    except ModuleNotFoundError as error:
        raise UserError(f"strategy.kind={kind!r}: {error}; install it or put it on PYTHONPATH") from None
    try:
        return cast(Strategy, module.make(options, sites))
    except TypeError as error:
        raise UserError(f"strategy.options={options}: {error}") from None


class PartakersGrid:
    """Flower's grid as a strategy sees it: the sites whose policy lets weights leave, without those lost on the way.

    Flower's own sampling would also ask sites that must refuse, and waits without end for a node that is gone.

    Raises:
        StudyFailedError: no such site.
    """

    def __init__(self, coordinator: Coordinator) -> None:
        self.nodes = [coordinator.members[site].node for site in coordinator.allowing("weights")]
        if not self.nodes:
            raise StudyFailedError("no site is left whose policy.allow names 'weights'")

    def get_node_ids(self) -> list[int]:
        """Return the nodes to sample from."""
        return self.nodes


class WeightSharing:
    """Runs one weight-sharing strategy: a search over learning rate and local epochs, then the chosen to the end.

    The search runs each candidate for the first rounds of its full schedule, so that the chosen one just goes on; the
    returned model is that of the round with the best val accuracy, over all sites' val images.
    """

    def __init__(self, coordinator: Coordinator, progress: Progress) -> None:
        self.coordinator, self.progress, self.study = coordinator, progress, coordinator.study
        self.config = self.study.strategy
        self.costs: dict[str, dict[str, float]] = {}
        self.search: list[dict[str, Any]] = []
        self.rounds_done = 0
        self.files: dict[tuple[Candidate, int], Path] = {}
        self.keeps_updates = self.study.audit.enabled and "update" in self.study.audit.targets

    def run(self) -> WeightSharingResult:
        """Run search and final rounds; return the best round's model."""
        pairs = itertools.product(self.config.lrs, self.config.local_epochs)
        candidates = [Candidate(lr, epochs) for lr, epochs in pairs]
        searched = min(self.config.search_rounds, self.config.rounds) if len(candidates) > 1 else 0
        self.total = len(candidates) * searched + self.config.rounds - searched
        best = candidates[0]
        if searched:
            curves = {c: self._run_rounds(c, searched) for c in candidates}
            scores = {c: curve[-1] if len(curve) == searched else DIVERGED for c, curve in curves.items()}
            best = max(scores, key=lambda c: scores[c])
        curve = self._run_rounds(best, self.config.rounds)
        if len(curve) == self.config.rounds:
            curve.append(self._final_score(best))
        if len(curve) < 2:
            raise StudyFailedError(
                f"{self.config.kind} diverged in its first round: lower strategy.lrs={self.config.lrs}"
            )
        # curve[r] is the val score of the model after r rounds; round 0 is the untrained model.
        chosen = max(range(1, len(curve)), key=lambda r: curve[r])
        logger.info("├── %s: %s, round %d of %d", self.config.kind, best.name, chosen, self.config.rounds)
        self.progress.finish(self.config.kind)
        updates = self._kept_updates(best, chosen)
        return WeightSharingResult(read_artifact(self.files[best, chosen]), self.search, self.costs, updates)

    def _run_rounds(self, candidate: Candidate, rounds: int) -> list[tuple[float, float]]:
        """Run or read rounds 1 to ``rounds``; return the val score (accuracy, negative loss) entering each.

        The scores end early where a site's training diverged.
        """
        artifact, curve = Artifact({f"model.{k}": v for k, v in self._initial_weights().items()}), []
        for number in range(1, rounds + 1):
            path = self._path(candidate, number)
            if not path.exists():
                write_artifact(path, self._round(candidate, number, artifact))
            artifact = read_artifact(path)
            if artifact.info["diverged"]:
                logger.warning("├── %s: %s diverged in round %d", self.config.kind, candidate.name, number)
                break
            self.files[candidate, number] = path
            curve.append((artifact.info["val_accuracy"], -artifact.info["val_loss"]))
            self._account(candidate, number, artifact.info)
        return curve

    def _round(self, candidate: Candidate, number: int, before: Artifact) -> Artifact:
        """Run one round from what the round before left, and from nothing else."""
        grid = PartakersGrid(self.coordinator)
        strategy = make_strategy(self.config.kind, self.config.options, len(grid.nodes))
        self._restore(strategy, before)
        config = ConfigRecord(
            {
                "study": self.coordinator.study_json,
                "lr": candidate.lr * cosine(number - 1, self.config.rounds),
                "local-epochs": candidate.local_epochs,
                "candidate": candidate.name,
            }
        )
        record = wire.weights_record(model_weights(before))
        messages = list(strategy.configure_train(number, record, config, cast(Grid, grid)))
        down = content_bytes(messages[0].content) if messages else 0
        replies = self.coordinator.exchange(messages)
        arrays, _ = strategy.aggregate_train(number, list(replies.values()))
        if arrays is None:
            raise UserError(f"{self.config.kind} round {number}: no site answered with weights")
        if self.keeps_updates:
            # Before the round's own file: a round that is on disk has its updates there too.
            self._write_updates(candidate, number, replies)
        info = _val_score(replies) | {"sites": {s: _cost(m, down) for s, m in replies.items()}}
        tensors = {f"model.{k}": v for k, v in wire.read_weights(arrays).items()}
        for moment in MOMENTS:
            held = getattr(strategy, moment, None) or {}
            tensors |= {f"{moment}.{k}": torch.as_tensor(v) for k, v in held.items()}
        return Artifact(tensors, info)

    def _write_updates(self, candidate: Candidate, number: int, replies: dict[str, Message]) -> None:
        folder = self._updates_folder(candidate, number)
        for site, message in replies.items():
            arrays = next(iter(message.content.array_records.values()))
            write_artifact(folder / f"{site}.safetensors", Artifact(wire.read_weights(arrays)))

    def _kept_updates(self, candidate: Candidate, number: int) -> dict[str, Artifact]:
        """Return the sites' weights of a round; those of all other rounds are removed."""
        if not self.keeps_updates:
            return {}
        kept = self._updates_folder(candidate, number)
        for other, done in self.files:
            if self._updates_folder(other, done) != kept:
                shutil.rmtree(self._updates_folder(other, done), ignore_errors=True)
        return {path.stem: read_artifact(path) for path in sorted(kept.glob("*.safetensors"))}

    def _updates_folder(self, candidate: Candidate, number: int) -> Path:
        return self._path(candidate, number).with_suffix(".sites")

    def _restore(self, strategy: Strategy, artifact: Artifact) -> None:
        """Give an adaptive strategy its moments back, as after the round."""
        for moment in MOMENTS:
            prefix = f"{moment}."
            held = {k.removeprefix(prefix): v.numpy() for k, v in artifact.tensors.items() if k.startswith(prefix)}
            if held:
                setattr(strategy, moment, held)

    def _final_score(self, candidate: Candidate) -> tuple[float, float]:
        """Ask for the val score of the last round's model, which no later round reports."""
        weights = model_weights(read_artifact(self.files[candidate, self.config.rounds]))
        content = wire.request_content(self.coordinator.study_json, weights, split="val")
        contents = dict.fromkeys(self.coordinator.allowing("metrics"), content)
        if not contents:
            raise StudyFailedError("no site's policy lets metrics leave, which choosing a round on val needs")
        about = wire.weights_digest(weights)
        pending = self.coordinator.send(
            self.coordinator.compose(f"{self.config.kind}-val", wire.EVALUATE, contents, about)
        )
        answers = self.coordinator.collect_metrics(pending, lambda _, metrics: wire.read_utility(metrics, "val"))
        figures = [wire.read_utility(a["metrics"], "val") for a in answers.values()]
        total = sum(f["count"] for f in figures)
        accuracy = sum(f["accuracy"] * f["count"] for f in figures) / total
        loss = sum(f["loss"] * f["count"] for f in figures) / total
        self._add_search_row(candidate, self.config.rounds, accuracy)
        return accuracy, -loss

    def _account(self, candidate: Candidate, number: int, info: dict[str, Any]) -> None:
        row = {"lr": candidate.lr, "local_epochs": candidate.local_epochs, "round": number - 1}
        if any(all(r[k] == v for k, v in row.items()) for r in self.search):
            return
        self.rounds_done += 1
        self.progress.update(self.config.kind, self.rounds_done, self.total, unit="round", val=info["val_accuracy"])
        self._add_search_row(candidate, number - 1, info["val_accuracy"])
        for site, cost in info["sites"].items():
            total = self.costs.setdefault(site, dict.fromkeys(cost, 0.0))
            for name, value in cost.items():
                total[name] += value

    def _add_search_row(self, candidate: Candidate, number: int, accuracy: float) -> None:
        row = {"lr": candidate.lr, "local_epochs": candidate.local_epochs, "round": number, "val_accuracy": accuracy}
        self.search.append(row)

    def _initial_weights(self) -> dict[str, torch.Tensor]:
        shape = card_shape(self.coordinator.card)
        return dict(
            build_classifier(self.study.student, shape, self.study.seed, "server", self.config.kind).state_dict()
        )

    def _path(self, candidate: Candidate, number: int) -> Path:
        """Return a round's file: with other sites it is another round."""
        stage = f"{self.config.kind}-{candidate.name}-r{number}"
        sites = self.coordinator.allowing("weights")
        key = {"study": self.study.identity(), "sites": sites, "data": self.coordinator.data_of(sites)}
        return self.coordinator.stages.path(stage, key)


def model_weights(artifact: Artifact) -> dict[str, torch.Tensor]:
    """Return the model in a round's artifact, without the strategy's moments."""
    return {k.removeprefix("model."): v for k, v in artifact.tensors.items() if k.startswith("model.")}


def _val_score(replies: dict[str, Message]) -> dict[str, float]:
    """Pool the sites' val figures of the model that entered the round."""
    metrics = [wire.read_metrics(m.content) for m in replies.values()]
    count = sum(m["val-count"] for m in metrics)
    return {
        "diverged": max(m.get("diverged", 0) for m in metrics),
        "val_accuracy": sum(m["val-correct"] for m in metrics) / count,
        "val_loss": sum(m["val-loss"] for m in metrics) / count,
    }


def _cost(message: Message, down: int) -> dict[str, float]:
    seconds = float(wire.read_metrics(message.content).get("seconds", 0.0))
    return {"seconds": seconds, "bytes_up": content_bytes(message.content), "bytes_down": down}
