"""Measure all ways on all cuts.

``python -m simulations.evidence.skew OUT.json data.root=DIR seeds=0,1,2 [cuts=CUT,...] [ways=WAY,...] [generator=edm]
[budget=quick]`` deals each cut of a development set to five sites, once a seed. Their images come from ``neighbours``,
a stand-in that trains nothing, so that many ways fit into an hour, or from a generator that each site trains. Each way
trains one student of all sites' images, scored on the set's test images. ``simulations.evidence.skew.opponents`` adds
rows of contestants that share no images, and ``simulations.evidence.skew.summary`` reads them all.

Teachers are trained to the end of their schedule, as everywhere where val has fewer than 100 images: no cut has more at
a site.
"""

from __future__ import annotations

import sys

from simulations.evidence.skew.federation import STAND_IN, Federation, study_of
from simulations.evidence.skew.labels import LABELS
from simulations.evidence.skew.rows import Request, Row
from simulations.evidence.skew.ways import WAYS
from simulations.exits import guarded


def main(words: list[str]) -> int:
    """Measure what the words ask for, and write the rows as each cut ends."""
    asked = Request.read(words, ways=",".join(WAYS), generator=STAND_IN, budget="quick")
    ways, generator, budget = asked.ways, asked.options["generator"], asked.options["budget"]

    def measured(cut: str, seed: int) -> list[Row]:
        study = study_of(cut, seed, asked.root, budget, generator)
        federation = Federation(cut, study, generator != STAND_IN, asked.folder(cut, seed))
        found = []
        for way in ways:
            labels = LABELS[WAYS[way].labels](federation, WAYS[way])
            found.append({"way": way, "generator": generator, "budget": budget} | federation.figures(WAYS[way], labels))
        return found

    asked.write(measured)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
