"""The worst case with runs as each other's references: how surely planted images are told, over all runs together.

``python -m simulations.evidence.pooled_canaries OUT.json RUN RUN ...`` takes finished runs of ``fedkr simulate`` with
canaries that differ in ``audit.canary_toss`` alone, so that each planted others of the same images. Each run is
attacked in turn, and all others are its references (shadows pooled over targets, Zhao & Zhang 2025): every model by
RMIA, every release by the nearest images in pixels, less what they are in the other runs. Runs of several studies are
told apart. Other than their canaries and coins, trainings begin alike, as for an attacker who knows every seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkr.audit.attacks.observed import Bools, Floats
from fedkr.audit.targets import RELEASE
from fedkr.config import Study
from fedkr.config.schema import CANARY_CHANNELS
from fedkr.data import ImageSet, joined
from fedkr.data.distances import log_nearness, nearest_few, small_pixels
from fedkr.data.images import CanarySet
from fedkr.disk import write_json
from fedkr.environment import provenance
from fedkr.errors import UserError
from fedkr.learning.runtime import Runtime
from fedkr.release import ReleasedSets, slice_count
from fedkr.report.results import load_results
from fedkr.report.wording import percent
from fedkr.resampling import LIMITS
from fedkr.roc import RocCounts
from fedkr.seeds import numpy_rng
from fedkr.stages import Artifact
from server.targets import Target, predict
from simulations.evidence.leave_one_out import distance_scores, rmia_scores
from simulations.run_folder import RunFolder
from simulations.study.command import portable

FPRS = (0.1, 0.01)
RESAMPLES = 1000
# With three, half of the canaries have no reference on one of both sides.
LEAST_RUNS = 4
# What the contestant of releases leaves: its central model.
STUDENT = "student"
Row = dict[str, Any]


class Toss:
    """One finished run: its canaries, with the coins that it tossed for them, and what it left."""

    def __init__(self, path: Path) -> None:
        self.run, self.results = RunFolder.of_run(path), load_results(path)
        study = self.run.study
        if not study.audit.canaries:
            raise UserError(f"{path}: this run planted no canaries; set audit.canaries")
        self.name, self.toss = path.name, study.audit.canary_toss
        self.runtime = Runtime.choose(study.device, study.precision, study.threads)

    @cached_property
    def study(self) -> Study:
        """The run's study but for its toss."""
        study = self.run.study
        return dataclasses.replace(study, audit=dataclasses.replace(study.audit, canary_toss=0))

    @cached_property
    def canaries(self) -> dict[str, CanarySet]:
        """Each site's canaries."""
        found = {site: data.canaries for site, data in self.run.sites.items()}
        return {site: canaries for site, canaries in found.items() if canaries is not None}

    def taught(self, site: str) -> bool:
        """Whether a site's release was there to teach: not where it was lost, or in quarantine."""
        return site in self.results["releases"]

    @cached_property
    def models(self) -> dict[str, Callable[[str], Artifact]]:
        """What gives the model that a site's canaries are sought in, by the name of the target."""
        found = dict[str, Callable[[str], Artifact]]()
        for row in self.results["targets"]:
            target = Target.read(self.run.files.folder, row)
            if target.model is not None:
                found[target.name] = lambda _, model=target.model: model  # type: ignore[misc]
            elif target.by_site:
                found[target.name] = target.by_site.__getitem__
        return found

    def answers(self, model: Artifact, images: ImageSet) -> NDArray[np.float32]:
        """Return a model's logits ``[N, K]``."""
        return predict(self.run.study, model, images, self.runtime)

    def nearness(self, site: str) -> Floats:
        """Return float64 ``[m]``: how near a site's release lies to each of its canaries."""
        files = [self.run.files.folder / path for path in self.results["releases"][site]]
        sets = ReleasedSets.of_files([[file] for file in files])
        released = np.concatenate([sets(index).images for index in range(len(files) * slice_count(files[0]))])
        return log_nearness(nearest_few(small_pixels(self.canaries[site].images), small_pixels(released))[1])


@dataclass(frozen=True)
class Pool:
    """Runs of one study, and the canaries of all its sites.

    Attributes:
        tosses: M runs.
        canaries: those of every site, the same for all runs.
        membership: by site bool ``[M, m]``, what each run planted.
        population: images that no run trains or chooses by.
    """

    tosses: Sequence[Toss]
    canaries: dict[str, ImageSet]
    membership: dict[str, Bools]
    population: ImageSet

    @staticmethod
    def of(tosses: Sequence[Toss]) -> Pool:
        """Bring runs of one study together.

        Raises:
            UserError: too few runs, or two of the same toss.
        """
        numbers = [toss.toss for toss in tosses]
        if len(set(numbers)) < len(numbers) or len(numbers) < LEAST_RUNS:
            raise UserError(
                f"{', '.join(toss.name for toss in tosses)}: runs of audit.canary_toss={numbers}; give {LEAST_RUNS} or "
                "more runs of a study, each with a toss of its own"
            )
        sites = tosses[0].run.sites
        found, coins = dict[str, ImageSet](), dict[str, Bools]()
        for site, first in tosses[0].canaries.items():
            found[site] = ImageSet(first.images, first.labels, sites[site].train.classes)
            coins[site] = np.stack([toss.canaries[site].included for toss in tosses])
        return Pool(tosses, found, coins, joined([data.holdout for data in sites.values()]))

    def channel(self, name: str) -> Bools:
        """Return bool ``[N]``: which of all sites' canaries, one site after the other, are of a channel."""
        return np.concatenate([own.of_channel(name) for own in self.tosses[0].canaries.values()])

    @property
    def planted(self) -> Bools:
        """Bool ``[M, N]``: what each run planted, one site after the other."""
        return np.concatenate(list(self.membership.values()), axis=1)

    def scores(self) -> Iterator[tuple[str, Floats]]:
        """Yield each target's name and its scores ``[M, N]``.

        NaN where all other runs tossed a canary alike, and, of what is made of releases, where a site's taught nothing.
        """
        for name in self.tosses[0].models:
            yield name, np.concatenate([self._of_model(name, site) for site in self.canaries], axis=1)
        if all(toss.results["releases"] for toss in self.tosses):
            yield RELEASE, np.concatenate([self._of_release(site) for site in self.canaries], axis=1)

    def _taught(self, site: str) -> Bools:
        """Return bool ``[M]``: in which runs a site's release taught."""
        return np.array([toss.taught(site) for toss in self.tosses])

    def _of_model(self, name: str, site: str) -> Floats:
        models = [toss.models[name](site) for toss in self.tosses]
        candidates = self.canaries[site]
        logits, population = (
            np.stack([toss.answers(model, images) for toss, model in zip(self.tosses, models, strict=True)])
            for images in (candidates, self.population)
        )
        taught = self._taught(site) if name == STUDENT else np.ones(len(self.tosses), bool)
        # Whoever taught nothing put nothing in: such a run is a reference without, and no target.
        of = logits, candidates.labels, population, self.population.labels, self.membership[site] & taught[:, None]
        scores = np.stack([rmia_scores(*of, target) for target in range(len(self.tosses))])
        scores[~taught] = np.nan
        return scores

    def _of_release(self, site: str) -> Floats:
        taught = self._taught(site)
        scores = np.full(self.membership[site].shape, np.nan)
        nearness = np.stack([toss.nearness(site) for toss in self.tosses if toss.taught(site)])
        membership = self.membership[site][taught]
        scores[taught] = [distance_scores(nearness, membership, target) for target in range(len(membership))]
        return scores


def figures(scores: Floats, planted: Bools, weights: tuple[Floats, Floats]) -> Row:
    """Return AUC and TPRs of scores ``[M, N]`` of all runs as one, with 95 % intervals.

    ``weights`` say how often each run ``[B, M]`` and each canary ``[B, N]`` is drawn again; what a run is attacked by
    stays as it is.
    """
    known, (of_runs, of_canaries) = np.isfinite(scores), weights
    members, others = known & planted, known & ~planted
    counts = RocCounts(scores[members], scores[others])

    # Both are drawn anew: a resample counts a score as often as its run times as often as its canary.
    def drawn(side: Bools) -> Floats:
        run, canary = side.nonzero()
        again = of_runs[:, run] * of_canaries[:, canary]
        return np.concatenate([np.ones((1, len(run))), again])

    sides = drawn(members), drawn(others)
    row: Row = {"included": int(members.sum()), "excluded": int(others.sum())}
    row |= _with_limits("auc", counts.auc(*sides))
    for fpr, rates in zip(FPRS, counts.tpr(*sides, FPRS).T, strict=True):
        row |= _with_limits(f"tpr_at_fpr_{fpr:g}", rates)
    return row


def _with_limits(name: str, values: Floats) -> Row:
    """Return a figure, the first of ``values``, and its limits by all others."""
    low, high = np.quantile(values[1:], LIMITS)
    return {name: float(values[0]), f"{name}_low": float(low), f"{name}_high": float(high)}


def measured(pool: Pool) -> Row:
    """Return what is published of a study: options, accuracies, and each target's figures, scores and coins."""
    planted = pool.planted
    rng = numpy_rng("pooled canaries", *planted.shape)
    runs, canaries = (rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64) for n in planted.shape)
    targets, scored = list[Row](), dict[str, Any]()
    for name, scores in pool.scores():
        scored[name] = [[None if np.isnan(value) else float(value) for value in row] for row in scores]
        for channel in CANARY_CHANNELS:
            if (own := pool.channel(channel)).any():
                row = figures(scores[:, own], planted[:, own], (runs, canaries[:, own]))
                targets.append({"target": name, "channel": channel} | row)
    first = pool.tosses[0]
    return {
        "study": portable(dataclasses.asdict(first.study)),
        "tosses": [toss.toss for toss in pool.tosses],
        "accuracy": _accuracies(pool.tosses),
        "targets": targets,
        "channels": {channel: pool.channel(channel).tolist() for channel in CANARY_CHANNELS},
        "sites": {site: len(images) for site, images in pool.canaries.items()},
        "planted": planted.astype(int).tolist(),
        "scores": scored,
        "versions": first.results["versions"],
        "hardware": first.results["hardware"],
    }


def _accuracies(tosses: Sequence[Toss]) -> dict[str, list[float]]:
    found = defaultdict[str, list[float]](list)
    for toss in tosses:
        for row in toss.results["strategies"]:
            if (accuracy := row["accuracy"]) is not None:
                found[row["name"]].append(accuracy)
    return dict(found)


def table(studies: Sequence[Row], labels: Sequence[str]) -> str:
    """Return a line for each study's target and channel, in Markdown, and one for each accuracy."""
    rates = [f"TPR at {percent(fpr, 0)} FPR" for fpr in FPRS]
    lines = [["study", "target", "channel", "AUC", *rates, "in, out"], ["---"] * (5 + len(FPRS))]
    accuracies = list[str]()
    for study, label in zip(studies, labels, strict=True):
        for row in study["targets"]:
            auc = f"{row['auc']:.2f} [{row['auc_low']:.2f}, {row['auc_high']:.2f}]"
            counts = f"{row['included']}, {row['excluded']}"
            lines.append([label, row["target"], row["channel"], auc, *_rates(row), counts])
        accuracies += [f"{label}, accuracy of {name}: {_mean(values)}" for name, values in study["accuracy"].items()]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", *accuracies])


def _rates(row: Row) -> Iterator[str]:
    for fpr in FPRS:
        name = f"tpr_at_fpr_{fpr:g}"
        yield f"{percent(row[name])} [{100 * row[f'{name}_low']:.1f}, {100 * row[f'{name}_high']:.1f}]"


def _mean(values: Sequence[float]) -> str:
    return f"{100 * statistics.fmean(values):.1f} ± {100 * statistics.stdev(values):.1f} %"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    given = parser.parse_args(arguments)
    try:
        by_study = defaultdict[str, list[Toss]](list)
        for run in given.runs:
            toss = Toss(run)
            by_study[toss.study.identity()].append(toss)
        pools = [Pool.of(tosses) for tosses in by_study.values()]
        studies = [measured(pool) for pool in pools]
        write_json(given.out, {"studies": studies} | provenance())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(studies, [pool.tosses[0].name for pool in pools]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
