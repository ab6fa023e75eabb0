"""How often what a site draws of a class is of that class, by how many images of it the site has.

``python -m simulations.evidence.skew.recognised OUT.json data.root=DIR seeds=0,1,2 [cuts=CUT,...] [generator=edm]
[budget=standard]``. The judge is a classifier of all sites' real images, trained behind their class shares and as long
as a student of all sites: nobody has such a one, so nothing is chosen by it. Each row is a class at a site that has
images enough of it to release it.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

import numpy as np
from torch import nn

from fedkr.data.images import joined
from fedkr.learning.classifier import train_on_real
from fedkr.learning.evaluation import measure_utility
from fedkr.learning.prediction import predict_logits
from fedkr.recycle.distill import for_union
from simulations.evidence.skew.federation import STAND_IN, Federation, Site, study_of
from simulations.evidence.skew.rows import Request, Row
from simulations.exits import guarded

DRAWN = 48
# Numbers of a class's images at a site, as tables group them.
GROUPS = {"1 to 4": (1, 4), "5 to 19": (5, 19), "20 and more": (20, 10**9)}


def judge_of(federation: Federation) -> nn.Module:
    """Return a classifier of all sites' real images, to which no class is the likelier for being common."""
    real = joined([site.data.train for site in federation.sites])
    config = dataclasses.replace(for_union(federation.study.student, len(federation.sites)), logit_adjustment=1.0)
    return train_on_real(config, real, federation.job.seeded("judge"), "judge")


def recognised(site: Site, judge: nn.Module) -> list[Row]:
    """Return for each class that a site draws its number of images, and of what it draws the share that is of it.

    ``teacher`` is the share that the site's own teacher takes for it, which is what the site can know.
    """
    classes = np.flatnonzero(site.counts >= site.study.recycle.min_class_count)
    if not len(classes):
        return []
    asked = np.repeat(classes, DRAWN)
    images = site.sample(asked, "recognised")
    of_judge, of_teacher = (
        predict_logits(model, images, site.job.runtime).argmax(axis=1) == asked for model in (judge, site.plain)
    )
    return [
        {
            "site": site.name,
            "class": site.data.train.classes[k],
            "images": int(site.counts[k]),
            "recognised": float(of_judge[asked == k].mean()),
            "teacher": float(of_teacher[asked == k].mean()),
        }
        for k in classes
    ]


def by_number(rows: Sequence[Row]) -> list[str]:
    """Return a line for each group of numbers of images: of how many classes of sites, and the mean shares."""
    lines = []
    for name, (least, most) in GROUPS.items():
        own = [row for row in rows if least <= row["images"] <= most]
        if own:
            known, taken = (100 * np.mean([row[share] for row in own]) for share in ("recognised", "teacher"))
            shares = f"recognised {known:.0f} %, by teachers {taken:.0f} %"
            lines.append(f"{name} images: {len(own)} classes of sites, {shares}")
    return lines


def main(words: list[str]) -> int:
    """Measure what the words ask for, and write the rows as each cut ends."""
    asked = Request.read(words, generator="edm", budget="standard")
    generator, budget = asked.options["generator"], asked.options["budget"]

    def measured(cut: str, seed: int) -> list[Row]:
        """Return the rows of a cut and a seed, and print them by numbers of images."""
        study = study_of(cut, seed, asked.root, budget, generator)
        federation = Federation(cut, study, generator != STAND_IN, asked.folder(cut, seed))
        judge = judge_of(federation)
        found = [row for site in federation.sites for row in recognised(site, judge)]
        print(*by_number(found), sep="\n", flush=True)
        test = federation.test
        logits = predict_logits(judge, test.images, federation.job.runtime)
        sure = measure_utility(logits, test.labels, len(test.classes)).balanced_accuracy
        return [{"generator": generator, "budget": budget, "judge": sure} | row for row in found]

    asked.write(measured)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
