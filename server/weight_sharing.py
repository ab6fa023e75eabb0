"""Weight sharing by any of Flower's own strategies, resumable round by round and tuned on the sites' val splits.

How much it may search and train is what ``fedkr`` does at a site (:mod:`fedkr.config.protocol`).
"""

from __future__ import annotations

import logging
import math
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedkr import wire
from fedkr.audit.rounds import SeenRound, packed, spaced
from fedkr.audit.targets import ROUNDS
from fedkr.config import SEARCH_OPTIONS, Study, TeacherConfig, allot, may_choose, own_search
from fedkr.errors import StudyFailedError, UserError
from fedkr.learning.models import build_classifier
from fedkr.learning.training import cosine
from fedkr.recycle.search import DIVERGED
from fedkr.recycle.teacher import rank
from fedkr.recycle.tuned import keeping
from fedkr.stages import Artifact, read_artifact, write_artifact
from server.contestant import COSTS, Contestant, Federation, Outcome, Row
from server.coordinator import card_shape, content_bytes
from server.targets import Target
from server.weights_search import Candidate, Plan, Score, first_setting, settings, try_settings

logger = logging.getLogger("fedkr.server")

MODEL = "model"
# An answer that is so many times the median of all is no honest one.
MOST_TIMES = 1000
# An answer counts for so many times the median at most. Of 10 simulated sites, the largest had up to 5.4 times the
# median by Dirichlet(0.05) and Dirichlet(0.1) over classes, and 9.5 times where their sizes differ by Dirichlet(1).
CAP_TIMES = 20
CUT = f"cut to {CAP_TIMES} times the sites' median"

# A site's answer to a round, and what it says, with what it cost and how far its weights went.
Reply = tuple[Message, wire.Figures]


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

    def model(self) -> dict[str, Tensor]:
        """Return the weights that it ended with."""
        return _part(read_artifact(self.path), MODEL)


@dataclass
class Work:
    """What was done for a contestant so far.

    Attributes:
        rounds: of all settings, as they were run.
        looks: figures on val of the models that were looked at, by setting and round.
        costs: of the looks, by site.
        notes: on answers to the looks.
        latest: what the sites said in the latest round, one that diverged included.
    """

    rounds: list[Round] = field(default_factory=list)
    looks: dict[tuple[Candidate, int], dict[str, Any]] = field(default_factory=dict)
    costs: list[dict[str, dict[str, float]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    latest: dict[str, Any] = field(default_factory=dict)

    def of(self, candidate: Candidate) -> list[Round]:
        """Return a setting's rounds."""
        return [each for each in self.rounds if each.candidate == candidate]


class WeightSharing(Contestant):
    """One of Flower's strategies: a search over its settings, then the chosen one to the end.

    Each setting is tried for the first rounds of its full schedule, so that the chosen one just goes on. Which round is
    kept follows ``teacher.keep_by``, as for a model of real images (:mod:`fedkr.recycle.tuned`). Where the sites' val
    splits together are too small to choose, the first setting is run and its last round kept. Options are the keywords
    of Flower's class, and those of the search where it is to have one of its own.

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
        except (TypeError, ValueError) as error:
            raise UserError(f"strategy.options.{name}={own}: {error}") from None

    @property
    def batch(self) -> int:
        """Images a step at the sites."""
        return self.study.student.batch

    def start(self) -> Callable[[], Outcome]:
        """Nothing can be asked before the sites are free; the rest is all rounds."""
        return self._outcome

    def _outcome(self) -> Outcome:
        work = Work()
        first = first_setting(self.search, self.study.student)
        plan = self._plan(first, work)
        scores = try_settings(self.search, self.study.student, plan, partial(self._tried, plan, work))
        best = max(scores, key=lambda c: scores[c], default=first)
        if plan.capped(best):
            logger.warning(
                "├── %s: rounds=%d end its schedule before the steps that it is allotted", self.name, self.search.rounds
            )
        kept = self._kept(best, plan, work)
        logger.info("├── %s: %s, round %d of %d", self.name, best.name, kept.number, plan.rounds(best))
        self.federation.job.progress.finish(self.name)
        artifact, leaves = read_artifact(kept.path), self._of_sites(kept, work)
        return Outcome(
            costs=_total_costs([*(each.info["sites"] for each in work.rounds), *work.costs]),
            model=Target(self.name, "weights", self.name, model=Artifact(_part(artifact, MODEL), artifact.info)),
            leaves=leaves,
            notes=list(dict.fromkeys([*_clip_notes(self.name, work.rounds), *work.notes])),
            search=self._curves(work),
            tuning=self._tuning(kept, plan, len(scores), work),
        )

    def _plan(self, first: Candidate, work: Work) -> Plan:
        """Return how many rounds each setting gets.

        The first round, which is the same in a schedule of any length, tells how many images the sites have.
        """
        self._advance(first, 1, work)
        val, images = int(work.latest["val_count"]), list(work.latest["images"].values())
        given = allot(self.study, self.search, settings(self.search), val)
        return Plan(self.search, given, images, self.batch, val)

    def _tried(self, plan: Plan, work: Work, candidate: Candidate) -> Score:
        """Run the first rounds of a setting, and return its score on val."""
        if not self._advance(candidate, plan.looked(candidate), work, plan):
            return DIVERGED
        figures = self._look(work.of(candidate)[-1], work)
        value, tie = rank(figures, self.study.recycle.metric)
        return value, tie

    def _kept(self, candidate: Candidate, plan: Plan, work: Work) -> Round:
        """Run a setting to its end; return the round to keep: the best of some looks by ``teacher.keep_by``.

        As a teacher's training, it ends after ``teacher.patience`` looks without a better one; where val does not
        choose, the last round is kept. One that diverges on the way ends before it does.
        """
        rule, total = keeping(self.study), plan.rounds(candidate)
        if not self._keeps_by_val(plan):
            self._advance(candidate, total, work, plan)
            return self._last(candidate, work)
        for end in sorted({total * (part + 1) // rule.evaluations for part in range(rule.evaluations)} - {0}):
            if not self._advance(candidate, end, work, plan):
                break
            self._look(self._last(candidate, work), work)
            if self._best(candidate, rule, work)[1] >= rule.patience:
                break
        return self._best(candidate, rule, work)[0]

    def _best(self, candidate: Candidate, rule: TeacherConfig, work: Work) -> tuple[Round, int]:
        """Return the round that was best on val, the later of equal ones, and how many looks have followed it."""
        seen = [each for each in work.of(candidate) if (candidate, each.number) in work.looks]
        if not seen:
            return self._last(candidate, work), 0
        ranks = [rank(work.looks[candidate, each.number], rule.keep_by) for each in seen]
        best = max(range(len(seen)), key=lambda i: (ranks[i], i))
        return seen[best], len(seen) - 1 - best

    def _keeps_by_val(self, plan: Plan) -> bool:
        """Whether val chooses the round to keep."""
        return may_choose(plan.val) and keeping(self.study).keep_by != "last"

    def _last(self, candidate: Candidate, work: Work) -> Round:
        if not (run := work.of(candidate)):
            raise StudyFailedError(f"{self.name} diverged in its first round: lower strategy.lrs={self.search.lrs}")
        return run[-1]

    def _advance(self, candidate: Candidate, upto: int, work: Work, plan: Plan | None = None) -> bool:
        """Run or read a setting's rounds up to ``upto``; return whether it came there, and did not diverge before."""
        own = work.of(candidate)
        artifact = read_artifact(own[-1].path) if own else self._untrained(candidate)
        length = upto if plan is None else plan.rounds(candidate)
        for number in range(len(own) + 1, upto + 1):
            path = self._path(candidate, number, length)
            if not path.exists():
                write_artifact(path, self._round(candidate, number, length, artifact, path))
            # From the file in any case: a run that goes on must see the tensors in the same order.
            artifact = read_artifact(path)
            work.latest = artifact.info
            if artifact.info["diverged"]:
                logger.warning("├── %s: %s diverged in round %d", self.name, candidate.name, number)
                return False
            work.rounds.append(Round(candidate, number, path, artifact.info))
            done, val = len(work.rounds), artifact.info["val_accuracy"]
            shown = {} if val is None else {"val": val}
            self.federation.job.progress.update(self.name, done, done - number + length, unit="round", **shown)
        return bool(work.of(candidate))

    def _look(self, at: Round, work: Work) -> dict[str, Any]:
        """Return the sites' figures on val of the model that a round ended with, the mean over their images."""
        if (at.candidate, at.number) not in work.looks:
            work.looks[at.candidate, at.number] = self._val_figures(at.model(), work) | {"step": at.number}
        return work.looks[at.candidate, at.number]

    def _curves(self, work: Work) -> list[Row]:
        """Return val accuracy by setting and round: a round reports that of the model that it began with."""
        found = {(r.candidate, r.number - 1): r.info["val_accuracy"] for r in work.rounds}
        found |= {place: figures["accuracy"] for place, figures in work.looks.items()}
        return [
            {"strategy": self.name, **asdict(candidate), "round": number, "val_accuracy": accuracy}
            for (candidate, number), accuracy in sorted(found.items(), key=lambda i: (i[0][0].name, i[0][1]))
        ]

    def _tuning(self, kept: Round, plan: Plan, looks: int, work: Work) -> Row:
        """Return what was chosen, by how much, and what the chosen rounds alone cost all sites."""
        until = [each.info["sites"] for each in work.of(kept.candidate) if each.number <= kept.number]
        alone = _total_costs(until).values()
        return {
            **asdict(kept.candidate),
            "round": kept.number,
            "rounds": plan.rounds(kept.candidate),
            "capped": plan.capped(kept.candidate),
            "looks": looks,
            "by_val": looks > 1 or self._keeps_by_val(plan),
            "val_images": plan.val,
            "steps": round(sum(plan.steps_of_round(each.candidate) for each in work.rounds)),
            "allotted": plan.given.steps,
            **{f"{name}_without_search": sum(cost[name] for cost in alone) for name in ("bytes_up", "bytes_down")},
        }

    def _path(self, candidate: Candidate, number: int, length: int) -> Path:
        """Return a round's file: with other sites, or in a schedule of another length, it is another round."""
        sites = self.coordinator.allowing("weights")
        key: dict[str, Any] = {
            "study": self.study.identity(),
            "sites": sites,
            "data": self.coordinator.data_of(sites),
        }
        # At the start no schedule is known yet, nor does it matter.
        if number > 1:
            key["length"] = length
        return self.coordinator.stages.path(f"{self.name}-{candidate.name}-r{number}", key)

    def _round(self, candidate: Candidate, number: int, length: int, before: Artifact, path: Path) -> Artifact:
        """Run one round, of a schedule of some length, from what the round before left, and from nothing else."""
        nodes, sent, learned = self._nodes(), _part(before, MODEL), self._learned(candidate)
        strategy, config = self._resumed(before, len(nodes)), self._round_config(candidate, number, length)
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
            return message, figures | cost | {"update": _distance(weights, sent, learned)}

        replies = self.coordinator.exchange(messages, accept)
        for site, why in outsized({site: figures for site, (_, figures) in replies.items()}).items():
            self.coordinator.lose(site, why)
            del replies[site]
        replies, clipped = _within_caps(replies, sent, learned)
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

    def _round_config(self, candidate: Candidate, number: int, length: int) -> ConfigRecord:
        return ConfigRecord(
            {
                "study": self.coordinator.study_json,
                "lr": candidate.lr * cosine(number - 1, length),
                "local-epochs": candidate.local_epochs,
                "candidate": candidate.name,
            }
        )

    def _untrained(self, candidate: Candidate) -> Artifact:
        shape, recipe = card_shape(self.coordinator.card), replace(self.study.student, norm=candidate.norm)
        model = build_classifier(recipe, shape, self.study.seed, "server", self.name)
        return Artifact(_named(MODEL, model.state_dict()))

    def _learned(self, candidate: Candidate) -> list[str]:
        """The tensors that training moves: counters, such as a normalisation's of its batches, are no distance.

        By the model as it is built: a strategy averages counters to fractions.
        """
        model = _part(self._untrained(candidate), MODEL)
        return [name for name, tensor in model.items() if tensor.is_floating_point()]

    def _val_figures(self, weights: Mapping[str, Tensor], work: Work) -> dict[str, Any]:
        """Ask the sites for a model's figures on val; return their mean over images.

        What asking cost each, and whose count was lowered, are added to ``work``.

        Raises:
            StudyFailedError: no site is left that answers.
        """
        content = wire.request_content(self.coordinator.study_json, weights, split="val")
        contents = dict.fromkeys(self.coordinator.allowing("metrics"), content)
        about = wire.weights_digest(weights)
        pending = self.coordinator.send(self.coordinator.compose(f"{self.name}-val", wire.EVALUATE, contents, about))
        answers = self.coordinator.collect_metrics(
            pending, lambda _, metrics: (wire.read_utility(metrics, "val"), wire.read_seconds(metrics))
        )
        read = {site: wire.read_utility(answer["metrics"], "val") for site, answer in answers.items()}
        known = {site: utility for site, utility in read.items() if utility["count"] is not None}
        if not known:
            raise StudyFailedError(
                f"{self.name}: no site is left that lets metrics leave on its val images, which choosing a round needs"
            )
        work.costs.append({site: _costs_of(answer) for site, answer in answers.items()})
        most = CAP_TIMES * statistics.median(f["count"] for f in known.values()) if len(known) > 2 else math.inf
        lowered = [site for site, figures in known.items() if figures["count"] > most]
        work.notes += [f"{self.name}: {site}'s val-count of a scored model, {CUT}" for site in lowered]
        return _mean_figures(list(known.values()), most)

    @property
    def _keeps_updates(self) -> bool:
        return self.study.audit.enabled and bool({"update", ROUNDS} & {*self.study.audit.targets})

    def _of_sites(self, chosen: Round, work: Work) -> list[Target]:
        """Return what the server saw of each site: its weights of the chosen round, and some rounds with that setting.

        The sites' weights of all other rounds are removed: what is kept does not grow with the rounds.
        """
        if not self._keeps_updates:
            return []
        run = {each.number: each for each in work.of(chosen.candidate)}
        targets = self.study.audit.targets
        some = [run[number] for number in spaced([*run])] if ROUNDS in targets else []
        for other in work.rounds:
            if other not in (chosen, *some):
                shutil.rmtree(_updates_folder(other.path), ignore_errors=True)
        updates = _updates(chosen) if "update" in targets else {}
        by_kind = {"update": updates, ROUNDS: self._seen_rounds(some, run)}
        return [
            Target(f"{self.name}-{kind}", kind, self.name, by_site=by_site)
            for kind, by_site in by_kind.items()
            if by_site
        ]

    def _seen_rounds(self, some: Sequence[Round], run: Mapping[int, Round]) -> dict[str, Artifact]:
        """Return by site what it was sent and what it sent back in rounds of a run, of those that it took part in."""
        seen: dict[str, dict[int, SeenRound]] = {}
        for each in some:
            earlier = run.get(each.number - 1)
            before = _part(self._untrained(each.candidate), MODEL) if earlier is None else earlier.model()
            for site, after in _updates(each).items():
                seen.setdefault(site, {})[each.number] = SeenRound(before, after.tensors)
        return {site: Artifact(packed(rounds)) for site, rounds in sorted(seen.items())}


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


def _updates(of: Round) -> dict[str, Artifact]:
    """Return the sites' weights of a round, those of them that were kept."""
    return {path.stem: read_artifact(path) for path in sorted(_updates_folder(of.path).glob("*.safetensors"))}


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
    """Return the val figures of the model that entered a round over all sites, and what the round cost each.

    None is a figure that no site lets leave: on too few val images, or under a guarantee.
    """
    total = {name: sum(f[name] for f in figures.values()) for name in wire.ROUND_FIGURES}
    images = total["val-count"]
    return {
        # No single site can end a candidate for all: a site that diverged answers with the weights that it was sent.
        "diverged": total["diverged"] > len(figures) / 2,
        "val_accuracy": total["val-correct"] / images if images else None,
        "val_loss": total["val-loss"] / images if images else None,
        "val_count": images,
        "images": {site: f["num-examples"] for site, f in figures.items()},
        "sites": {site: {name: f[name] for name in COSTS} for site, f in figures.items()},
    }


def _costs_of(answer: Mapping[str, Any]) -> dict[str, float]:
    bytes_of = {name: answer[name] for name in ("bytes_up", "bytes_down")}
    return bytes_of | {"seconds": wire.read_seconds(answer["metrics"])}


def _mean_figures(answers: Sequence[Mapping[str, Any]], most: float) -> dict[str, Any]:
    """Return accuracy, AUC and loss over all sites' images; AUC over those of the sites that have one, else None.

    Of a site so many images count at ``most``, as in a round. The AUC is the mean of the sites' own, not that of their
    pooled images, whose scores no site sends.
    """
    counts = [answer["count"] for answer in answers]
    found: dict[str, Any] = {}
    for name in ("accuracy", "auc", "loss"):
        known = [(each[name], min(c, most)) for each, c in zip(answers, counts, strict=True) if each[name] is not None]
        found[name] = sum(value * count for value, count in known) / sum(c for _, c in known) if known else None
    return found


def _total_costs(costs: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    sites = dict.fromkeys(site for cost in costs for site in cost)
    return {site: {name: sum(c[site][name] for c in costs if site in c) for name in COSTS} for site in sites}
