"""Schedules by rule beside those that datasets had been given by hand: ``python -m simulations.evidence.schedule``.

Prints the tables of ``simulations/results/schedule.md``: the four sets that the rule was fitted to, those that it was
only looked at on, whose numbers nobody had measured, and the budgets of ``fedkr kr``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from fedkr.config import LAWS, Study, by_rule, site_facts
from server.composition import compose_study

# In the order of LAWS. Search steps and images that a set's file did not name were everyone's.
Numbers = tuple[int, int, int, int, int]
FITTED: Mapping[str, Numbers] = {
    "digits": (700, 500, 500, 100, 512),
    "breastmnist": (500, 200, 200, 80, 256),
    "pneumoniamnist": (900, 400, 400, 80, 256),
    "bloodmnist": (3000, 1500, 1500, 100, 512),
}
LOOKED_AT: Mapping[str, Numbers] = {
    "retinamnist": (1500, 800, 800, 100, 512),
    "dermamnist": (3000, 1500, 1500, 100, 512),
    "organcmnist": (3000, 1500, 1500, 100, 512),
    "organsmnist": (3000, 1500, 1500, 100, 512),
    "organamnist": (5000, 2500, 2500, 100, 512),
    "fashionmnist": (5000, 2500, 2500, 100, 512),
    "octmnist": (6000, 3000, 3000, 100, 512),
    "pathmnist": (6000, 3000, 3000, 100, 512),
    "tissuemnist": (6000, 3000, 3000, 100, 512),
    "cifar10": (8000, 4000, 4000, 100, 512),
    "cifar100": (8000, 4000, 4000, 100, 512),
}
# Of `fedkr kr`, with its options on one site and the images that it takes of each set.
ONE_SITE: Mapping[str, Numbers] = {
    "digits": (2500, 1000, 1000, 96, 1024),
    "breastmnist": (6000, 1000, 1000, 64, 384),
    "pneumoniamnist": (7000, 1000, 1000, 96, 512),
    "bloodmnist": (8000, 1500, 1500, 240, 1024),
}
TITLES = ("images a site", *LAWS)


def study_of(dataset: str, *overrides: str) -> Study:
    """Return a dataset's study with every number by rule."""
    return compose_study([f"dataset={dataset}", *overrides])


def row(name: str, study: Study, by_hand: Iterable[int]) -> str:
    """Return a row of a table: by hand, then by rule, then how many times as much that is."""
    pairs = zip(by_hand, by_rule(study).values(), strict=True)
    cells = [f"{hand:,} → {rule:,} ({rule / hand:.2f})" for hand, rule in pairs]
    return f"| {' | '.join([name, f'{site_facts(study).images:,.0f}', *cells])} |"


def table(studies: Mapping[str, Study], by_hand: Mapping[str, Numbers]) -> str:
    """Return a table of datasets."""
    head = [f"| dataset | {' | '.join(f'`{title}`' if '.' in title else title for title in TITLES)} |"]
    rows = [row(name, study, by_hand[name]) for name, study in studies.items()]
    return "\n".join([*head, "|" + "---|" * (len(TITLES) + 1), *rows])


def one_site(dataset: str) -> Study:
    """Return what the rule is asked of by ``fedkr kr``."""
    limit = {"bloodmnist": 3000}.get(dataset, 0)
    return study_of(dataset, "budget=thorough", "federation.sites=1", f"data.limit={limit}")


def budgets() -> str:
    """Return a table of the rule's numbers by budget, for digits and for 64 pixels in colour of 60 and 5,000 images."""
    base = study_of("digits")
    large = dataclasses.replace(base, data=dataclasses.replace(base.data, size=64, channels=3))
    lines = [f"| images | budget | {' | '.join(f'`{option}`' for option in LAWS)} |", "|" + "---|" * (len(LAWS) + 2)]
    for study, images in ((base, 1438), (large, 180), (large, 15_000)):
        facts = dataclasses.replace(base.facts, images=images)
        for budget in ("quick", "standard", "thorough"):
            asked = dataclasses.replace(study, facts=facts, budget=budget)
            numbers = " | ".join(f"{number:,}" for number in by_rule(asked).values())
            lines.append(f"| {site_facts(asked)} | {budget} | {numbers} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    for by_hand, make in ((FITTED, study_of), (LOOKED_AT, study_of), (ONE_SITE, one_site)):
        print(table({name: make(name) for name in by_hand}, by_hand), end="\n\n")
    print(budgets())


if __name__ == "__main__":
    main()
