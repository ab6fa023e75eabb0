"""Weight sharing by any of Flower's own strategies, resumable round by round and tuned on the sites' val splits."""

from __future__ import annotations

import itertools
import logging
import math
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedkr import wire
from fedkr.config import SEARCH_OPTIONS, Study, own_search
from fedkr.errors import StudyFailedError, UserError
from fedkr.learning.models import build_classifier
from fedkr.learning.training import cosine
from fedkr.stages import Artifact, read_artifact, write_artifact
from server.contestant import COSTS, Contestant, Federation, Outcome
from server.coordinator import card_shape, content_bytes
from server.targets import Target

logger = logging.getLogger("fedkr.server")

MODEL = "model"
# An answer that is so many times the median of all is no honest one.
MOST_TIMES = 1000
# An answer counts for so many times the median at most. Of 10 simulated sites, the largest had up to 5.4 times the
# median by Dirichlet(0.05) and Dirichlet(0.1) over classes, and 9.5 times where their sizes differ by Dirichlet(1).
CAP_TIMES = 20
CUT = f"cut to {CAP_TIMES} times the sites' median"

# Val accuracy and negative val loss.
Score = tuple[float, float]
# A site's answer to a round, and what it says, with what it cost and how far its weights went.
Reply = tuple[Message, wire.Figures]
DIVERGED = (-math.inf, -math.inf)


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
class Round:
    """One finished round.

    Attributes:
        candidate: whose round.
        number: from 1.
        path: of the model that it ended with.
        info: what the sites said, pooled, and by site what it cost.
    """

    candidate: Candidate
    number: int
    path: Path
    info: dict[str, Any]

    @property
    def score(self) -> Score:
        """Val accuracy and negative val loss, over all sites' val images, of the model that the round began with."""
        return self.info["val_accuracy"], -self.info["val_loss"]


class WeightSharing(Contestant):
    """One of Flower's strategies: a search over learning rate and local epochs, then the chosen to the end.

    The search runs each candidate for the first rounds of its full schedule, so that the chosen one just goes on; the
    model of the round with the best val accuracy is the result. Options are the keywords of Flower's class, and those
    of the search where it is to have one of its own.

    Attributes:
        flower: Flower's class; it is made anew for each round, so that a round depends on what is on disk alone.
        carried: the attributes, dicts of arrays, that it carries from round to round, such as an optimiser's moments.
    """

    needs = frozenset({"metrics", "weights"})
    flower: ClassVar[Callable[..., Strategy]]
    carried: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def check(cls, name: str, options: Mapping[str, Any], study: Study) -> None:
        """See :meth:`server.contestant.Contestant.check`."""
        own_search(name, options, study.strategy)
        cls.make(name, options, study.federation.sites)

    def __init__(self, name: str, options: Mapping[str, Any], federation: Federation) -> None:
        super().__init__(name, {}, federation)
        self.keywords, self.search = options, own_search(name, options, self.study.strategy)

    @classmethod
    def make(cls, name: str, options: Mapping[str, Any], sites: int) -> Strategy:
        """Return Flower's strategy over ``sites``; raise :class:`UserError` for an option that it does not take."""
        own = {option: value for option, value in options.items() if option not in SEARCH_OPTIONS}
        try:
            return cls.flower(min_train_nodes=sites, min_available_nodes=sites, min_evaluate_nodes=sites, **own)
        except TypeError as error:
            raise UserError(f"strategy.options.{name}={own}: {error}") from None

    def start(self) -> Callable[[], Outcome]:
        """Nothing can be asked before the sites are free; the rest is all rounds."""
        return self._outcome

    def _outcome(self) -> Outcome:
        rounds, best = self._search()
        rounds += self._advance(best, self.search.rounds, rounds)
        run = [r for r in rounds if r.candidate == best]
        # after[i] is the score of the model that run[i] ended with; of the untrained model there is none.
        after = [later.score for later in run[1:]]
        tried = [(r.candidate, r.number - 1, r.score) for r in rounds]
        notes = _clip_notes(self.name, rounds)
        if len(run) == self.search.rounds:
            score, lowered = self._final_score(run[-1])
            notes += [f"{self.name}: {site}'s {what}" for site, what in lowered.items()]
            after.append(score)
            tried.append((best, self.search.rounds, after[-1]))
        if not after:
            raise StudyFailedError(f"{self.name} diverged in its first round: lower strategy.lrs={self.search.lrs}")
        chosen = run[max(range(len(after)), key=lambda i: after[i])]
        logger.info("├── %s: %s, round %d of %d", self.name, best.name, chosen.number, self.search.rounds)
        self.federation.job.progress.finish(self.name)
        kept, updates = read_artifact(chosen.path), self._kept_updates(chosen, rounds)
        return Outcome(
            costs=_total_costs(rounds),
            model=Target(self.name, "weights", self.name, model=Artifact(_part(kept, MODEL), kept.info)),
            leaves=[Target(f"{self.name}-update", "update", self.name, by_site=updates)] if updates else [],
            notes=list(dict.fromkeys(notes)),
            search=[
                {"strategy": self.name, **asdict(candidate), "round": number, "val_accuracy": score[0]}
                for candidate, number, score in tried
            ],
        )

    @cached_property
    def _candidates(self) -> list[Candidate]:
        pairs = itertools.product(self.search.lrs, self.search.local_epochs)
        return [Candidate(lr, epochs) for lr, epochs in pairs]

    @property
    def _searched(self) -> int:
        """How many rounds each candidate runs in the search."""
        return min(self.search.search_rounds, self.search.rounds) if len(self._candidates) > 1 else 0

    def _search(self) -> tuple[list[Round], Candidate]:
        """Run each candidate's first rounds; return them, and the candidate whose last one begins best on val."""
        rounds: list[Round] = []
        scores = {}
        for candidate in self._candidates:
            own = self._advance(candidate, self._searched, rounds)
            scores[candidate] = own[-1].score if own and len(own) == self._searched else DIVERGED
            rounds += own
        return rounds, max(scores, key=lambda c: scores[c])

    def _advance(self, candidate: Candidate, upto: int, before: Sequence[Round]) -> list[Round]:
        """Run or read a candidate's rounds from those ``before`` up to ``upto``; they end early where it diverged."""
        own = [r for r in before if r.candidate == candidate]
        artifact = read_artifact(own[-1].path) if own else self._untrained()
        total = len(self._candidates) * self._searched + self.search.rounds - self._searched
        rounds: list[Round] = []
        for number in range(len(own) + 1, upto + 1):
            path = self._path(candidate, number)
            if not path.exists():
                write_artifact(path, self._round(candidate, number, artifact, path))
            # From the file in any case: a run that goes on must see the tensors in the same order.
            artifact = read_artifact(path)
            if artifact.info["diverged"]:
                logger.warning("├── %s: %s diverged in round %d", self.name, candidate.name, number)
                break
            rounds.append(Round(candidate, number, path, artifact.info))
            done, val = len(before) + len(rounds), artifact.info["val_accuracy"]
            self.federation.job.progress.update(self.name, done, total, unit="round", val=val)
        return rounds

    def _path(self, candidate: Candidate, number: int) -> Path:
        """Return a round's file: with other sites it is another round."""
        sites = self.coordinator.allowing("weights")
        key = {"study": self.study.identity(), "sites": sites, "data": self.coordinator.data_of(sites)}
        return self.coordinator.stages.path(f"{self.name}-{candidate.name}-r{number}", key)

    def _round(self, candidate: Candidate, number: int, before: Artifact, path: Path) -> Artifact:
        """Run one round from what the round before left, and from nothing else."""
        nodes, sent = self._nodes(), _part(before, MODEL)
        strategy, config = self._resumed(before, len(nodes)), self._round_config(candidate, number)
        # Flower's own sampling would also ask sites that must refuse, and waits without end for a node that is gone.
        grid = cast(Grid, SimpleNamespace(get_node_ids=lambda: nodes))
        messages = list(strategy.configure_train(number, wire.weights_record(sent), config, grid))
        shutil.rmtree(_updates_folder(path), ignore_errors=True)
        down = content_bytes(messages[0].content) if messages else 0

        def accept(site: str, message: Message) -> tuple[Message, wire.Figures]:
            """Return an answer as Flower is to average it, with its figures, what it cost and how far it went."""
            weights, figures = wire.read_round(message.content, sent)
            cost = {"bytes_up": content_bytes(message.content), "bytes_down": down}
            if self._keeps_updates:
                # Before the round's own file: a round that is on disk has its updates there too.
                write_artifact(_updates_folder(path) / f"{site}.safetensors", Artifact(weights))
            # Flower averages every metric that it finds, and fails on one that not all sites sent.
            message.content = wire.round_content(weights, figures)
            return message, figures | cost | {"update": _distance(weights, sent, self._learned)}

        replies = self.coordinator.exchange(messages, accept)
        for site, why in outsized({site: figures for site, (_, figures) in replies.items()}).items():
            self.coordinator.lose(site, why)
            del replies[site]
        replies, clipped = _within_caps(replies, sent, self._learned)
        arrays, _ = strategy.aggregate_train(number, [message for message, _ in replies.values()])
        if arrays is None:
            raise StudyFailedError(f"{self.name} round {number}: no site answered with weights")
        tensors = _named(MODEL, wire.read_weights(arrays)) | self._carried(strategy)
        pooled = _pooled({site: figures for site, (_, figures) in replies.items()})
        return Artifact(tensors, pooled | {"clipped": clipped})

    def _nodes(self) -> list[int]:
        """Return the nodes of the sites whose policy lets weights leave, without those lost on the way."""
        sites = self.coordinator.allowing("weights")
        if not sites:
            raise StudyFailedError("no site is left whose policy.allow names 'weights'")
        return [self.coordinator.members[site].node for site in sites]

    def _resumed(self, before: Artifact, sites: int) -> Strategy:
        """Return Flower's strategy as it was after the round before."""
        strategy = self.make(self.name, self.keywords, sites)
        for attribute in self.carried:
            if held := _part(before, attribute):
                setattr(strategy, attribute, {name: tensor.numpy() for name, tensor in held.items()})
        return strategy

    def _carried(self, strategy: Strategy) -> dict[str, Tensor]:
        """Return what the strategy carries to the next round, by names that :meth:`_resumed` finds."""
        held = {attribute: getattr(strategy, attribute) or {} for attribute in self.carried}
        parts = [_named(name, {k: torch.as_tensor(v) for k, v in arrays.items()}) for name, arrays in held.items()]
        return {name: tensor for part in parts for name, tensor in part.items()}

    def _round_config(self, candidate: Candidate, number: int) -> ConfigRecord:
        return ConfigRecord(
            {
                "study": self.coordinator.study_json,
                "lr": candidate.lr * cosine(number - 1, self.search.rounds),
                "local-epochs": candidate.local_epochs,
                "candidate": candidate.name,
            }
        )

    def _untrained(self) -> Artifact:
        shape = card_shape(self.coordinator.card)
        model = build_classifier(self.study.student, shape, self.study.seed, "server", self.name)
        return Artifact(_named(MODEL, model.state_dict()))

    @cached_property
    def _learned(self) -> list[str]:
        """The tensors that training moves: counters, such as a normalisation's of its batches, are no distance.

        By the model as it is built: a strategy averages counters to fractions.
        """
        model = _part(self._untrained(), MODEL)
        return [name for name, tensor in model.items() if tensor.is_floating_point()]

    def _final_score(self, last: Round) -> tuple[Score, dict[str, str]]:
        """Ask for the val score of the last round's model, which no later round reports.

        Return it, and by site what was lowered as in a round.
        """
        weights = _part(read_artifact(last.path), MODEL)
        content = wire.request_content(self.coordinator.study_json, weights, split="val")
        contents = dict.fromkeys(self.coordinator.allowing("metrics"), content)
        about = wire.weights_digest(weights)
        pending = self.coordinator.send(self.coordinator.compose(f"{self.name}-val", wire.EVALUATE, contents, about))
        answers = self.coordinator.collect_metrics(pending, lambda _, metrics: wire.read_utility(metrics, "val"))
        read = {site: wire.read_utility(answer["metrics"], "val") for site, answer in answers.items()}
        figures = {site: utility for site, utility in read.items() if utility["count"] is not None}
        said = {site: f["count"] for site, f in figures.items()}
        most = CAP_TIMES * statistics.median(said.values()) if len(said) > 2 else math.inf
        counts = {site: min(count, most) for site, count in said.items()}
        total = sum(counts.values())
        if not total:
            raise StudyFailedError(
                f"{self.name}: no site is left that lets metrics leave on its val images, which choosing a round needs"
            )
        accuracy, loss = (
            sum(f[name] * counts[site] for site, f in figures.items()) / total for name in ("accuracy", "loss")
        )
        lowered = [site for site, count in said.items() if count > most]
        return (accuracy, -loss), dict.fromkeys(lowered, f"val-count of the last model, {CUT}")

    @property
    def _keeps_updates(self) -> bool:
        return self.study.audit.enabled and "update" in self.study.audit.targets

    def _kept_updates(self, chosen: Round, rounds: Sequence[Round]) -> dict[str, Artifact]:
        """Return the sites' weights of a round; those of all other rounds are removed."""
        for other in rounds:
            if other != chosen:
                shutil.rmtree(_updates_folder(other.path), ignore_errors=True)
        files = sorted(_updates_folder(chosen.path).glob("*.safetensors")) if self._keeps_updates else []
        return {path.stem: read_artifact(path) for path in files}


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _part(artifact: Artifact, prefix: str) -> dict[str, Tensor]:
    """Return the tensors of a round's artifact under a prefix: the model, or what its strategy carries over."""
    start = f"{prefix}."
    return {name.removeprefix(start): t for name, t in artifact.tensors.items() if name.startswith(start)}


def _clip_notes(name: str, rounds: Sequence[Round]) -> list[str]:
    return [f"{name}: {site}'s {what}" for r in rounds for site, what in r.info.get("clipped", {}).items()]


def _updates_folder(path: Path) -> Path:
    return path.with_suffix(".sites")


def outsized(figures: Mapping[str, wire.Figures]) -> dict[str, str]:
    """Return why a site's answer to a round would decide it alone, by site: it is far above the others' median.

    Only of three and more sites one can be told from the others.
    """
    reasons: dict[str, str] = {}
    for name, what in (
        ("num-examples", "number of images"),
        ("val-count", "number of val images"),
        ("update", "change of the weights"),
    ):
        median = statistics.median(each[name] for each in figures.values()) if len(figures) > 2 else 0.0
        for site, each in figures.items():
            if median and each[name] > MOST_TIMES * median:
                reasons[site] = f"its {what}, {each[name]:.3g}, is over {MOST_TIMES} times the sites' median"
    return reasons


def _within_caps(
    replies: Mapping[str, Reply], sent: Mapping[str, Tensor], learned: Sequence[str]
) -> tuple[dict[str, Reply], dict[str, str]]:
    """Return answers to a round, each at most ``CAP_TIMES`` the median of three or more, and what was lowered, by site.

    Images and val images count for less, and a change of the ``learned`` weights keeps its direction.
    """
    caps = {
        name: CAP_TIMES * statistics.median(figures[name] for _, figures in replies.values())
        for name in ("num-examples", "val-count", "update")
        if len(replies) > 2
    }
    kept, lowered = dict(replies), dict[str, str]()
    for site, (message, figures) in replies.items():
        above = {name: cap / figures[name] for name, cap in caps.items() if cap and figures[name] > cap}
        if not above:
            continue
        fewer = above.get("val-count", 1.0)
        own = figures | {name: figures[name] * fewer for name in ("val-count", "val-correct", "val-loss")}
        own["num-examples"] = max(1, int(figures["num-examples"] * above.get("num-examples", 1.0)))
        weights = wire.read_weights(cast(ArrayRecord, message.content[wire.ARRAYS]))
        for name in learned if "update" in above else ():
            step = (weights[name].double() - sent[name].double()) * above["update"]
            weights[name] = (sent[name].double() + step).to(weights[name].dtype)
        message.content = wire.round_content(weights, {name: own[name] for name in wire.ROUND_FIGURES})
        kept[site] = message, own
        lowered[site] = f"{', '.join(above)}, {CUT}"
    return kept, lowered


def _distance(weights: Mapping[str, Tensor], sent: Mapping[str, Tensor], learned: Sequence[str]) -> float:
    return math.sqrt(sum(float((weights[name].double() - sent[name].double()).square().sum()) for name in learned))


def _pooled(figures: Mapping[str, wire.Figures]) -> dict[str, Any]:
    """Return the val figures of the model that entered a round over all sites, and what the round cost each."""
    total = {name: sum(f[name] for f in figures.values()) for name in wire.ROUND_FIGURES}
    if not total["val-count"]:
        raise StudyFailedError("no site has as many val images as its policy lets figures leave on (min_evaluated)")
    return {
        # No single site can end a candidate for all: a site that diverged answers with the weights that it was sent.
        "diverged": total["diverged"] > len(figures) / 2,
        "val_accuracy": total["val-correct"] / total["val-count"],
        "val_loss": total["val-loss"] / total["val-count"],
        "sites": {site: {name: f[name] for name in COSTS} for site, f in figures.items()},
    }


def _total_costs(rounds: Sequence[Round]) -> dict[str, dict[str, float]]:
    costs = [r.info["sites"] for r in rounds]
    sites = dict.fromkeys(site for cost in costs for site in cost)
    return {site: {name: sum(c[site][name] for c in costs if site in c) for name in COSTS} for site in sites}
