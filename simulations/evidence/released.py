"""How well attacks find who had a part in a release: each of a site's reference pipelines plays the audited one.

Run as ``python -m simulations.evidence.released run=DIR out=FILE`` on the folder of a finished simulation whose audit
had pipeline references; ``sites=site-0,site-2`` names some sites only. A pipeline's release is attacked by all others
as references: of each, the half that it trained on is known, so that there are as many targets as references. ``out``
is JSON with the AUC of every attack on every target.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkr.audit.attacks.calibrated import calibrated
from fedkr.audit.attacks.lira import logit_scaled_confidence
from fedkr.audit.attacks.neighbours import neighbour_signals
from fedkr.audit.attacks.observed import Bools, Floats, Observed
from fedkr.audit.attacks.on_releases import release_scores
from fedkr.audit.statistics.membership import auc
from fedkr.audit.targets import RELEASED
from fedkr.config import CALIBRATED_ATTACKS, parse_study
from fedkr.data.distances import common_spaces
from fedkr.disk import write_json
from fedkr.release import ReleasedSets
from fedkr.seeds import numpy_rng
from simulations.evidence.leave_one_out import CLASSIFIER, release_attacks
from sites.audit import SiteAudit
from sites.workspace import open_site

Row = dict[str, Any]


def attacked(signals: Floats, membership: Bools, labels: NDArray[np.int64], others: Floats | None) -> list[Row]:
    """Return a row of AUCs for each of M pipelines.

    Args:
        signals: ``[M, N, 4]``: those of the nearest released images, and what a student says.
        membership: ``[M, N]``, who trained on which image.
        labels: ``[N]``.
        others: ``[N, 3]``, the first signals from the other sites' releases; None where there are none.
    """
    rows = []
    for target in range(len(signals)):
        scores = release_attacks(signals, membership, labels, target)
        # Images that lack references of one side have none.
        sides = membership[target], ~membership[target]
        row: Row = {"pipeline": target}
        for name, found in scores.items():
            row[f"{name}@pipeline"] = auc(*(found[side & np.isfinite(found)] for side in sides))
        if others is not None:
            nobody = np.zeros((1, len(labels)), bool)
            by_others = calibrated(Observed(signals[target][:, :CLASSIFIER], others[None], nobody), labels)
            inside = membership[target]
            row |= {
                f"{name}@{RELEASED}": auc(by_others[inside, index], by_others[~inside, index])
                for index, name in enumerate(CALIBRATED_ATTACKS)
            }
        rows.append(row)
    return rows


def of_site(work: SiteAudit) -> Row:
    """Attack the releases of a site's pipelines; what they lack is trained first."""
    pool, population = work.candidates, work.population.images
    shadows = work.shadows(work.config.pipeline_references)
    sets = [shadows.release(m).arrays()[0] for m in range(len(shadows.membership))]
    logits = shadows.students(None).logits(pool.images)
    # What is trained above is no part of an attack's time.
    began = time.perf_counter()
    own = ReleasedSets.of_releases(work.releases()).arrays()[0]
    rows_of = common_spaces(own.images, population, numpy_rng(work.seed, work.site.name, "components"))
    rows = rows_of(pool.images)
    nearest = [neighbour_signals(rows, pool.labels, rows_of(part.images), part.soft_labels) for part in sets]
    signals = np.concatenate([np.stack(nearest), logit_scaled_confidence(logits, pool.labels)[..., None]], axis=2)
    others = None
    if work.others is not None:
        part = work.others.arrays()[0]
        others = neighbour_signals(rows, pool.labels, rows_of(part.images), part.soft_labels)
    found = attacked(signals, shadows.membership, pool.labels, others)
    around = rows_of(population)
    for row, part, inside in zip(found, sets, shadows.membership, strict=True):
        raw = release_scores(rows, rows_of(part.images), around)
        row |= {name: auc(scores[inside], scores[~inside]) for name, scores in raw.items()}
    return {"site": work.site.name, "seconds": time.perf_counter() - began, "candidates": len(pool), "rows": found}


def summary(sites: list[Row]) -> Row:
    """Return the mean AUC of each attack over all targets, and its standard error over them."""
    rows = [row for site in sites for row in site["rows"]]
    names = list(dict.fromkeys(name for row in rows for name in row if name != "pipeline"))
    found = {name: np.array([row[name] for row in rows if name in row]) for name in names}
    return {name: {"auc": float(aucs.mean()), "standard_error": _standard_error(aucs)} for name, aucs in found.items()}


def _standard_error(values: NDArray[np.float64]) -> float | None:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def main(words: list[str]) -> None:
    """Attack the pipelines of each site of a run, and write JSON."""
    own = dict(word.split("=", 1) for word in words)
    folder = Path(own["run"]).absolute()
    study = parse_study((folder / "study.json").read_text())
    study.run_dir = str(folder)
    count, wanted = study.federation.sites, own.get("sites", "").split(",")
    sites = []
    for number in range(count):
        site = open_site({"partition-id": number, "num-partitions": count}, study)
        if wanted == [""] or site.name in wanted:
            sites.append(of_site(SiteAudit(site)))
            print(sites[-1]["site"], summary(sites[-1:]), flush=True)
    write_json(Path(own["out"]), {"sites": sites, "mean": summary(sites)})


if __name__ == "__main__":
    main(sys.argv[1:])
