"""Schedules by rule: how long a study trains, from what is known of its images and from a budget.

A composed study holds numbers only: an option of :data:`LAWS` that is 0 in a configuration is left to the rule, which
writes its number out where the study is composed. What travels, what names stages, and what a site holds to its
bounds is that number; no site asks the rule again, and a study with a 0 in it is refused. So all sites train alike,
whatever their sizes, and none has to tell its count for that: the images of all sites are divided by the sites.

Each law multiplies powers of facts. They were fitted by hand to the schedules that four sets had been given one by one
(digits, BreastMNIST, PneumoniaMNIST and BloodMNIST at three sites), and looked at on the eleven other sets that had
some: ``simulations/results/schedule.md`` has them all beside the rule. The cube root of the images says that a site
with eight times as many sees each image a quarter as often; classes, colours and pixels add what there is to tell
apart. The student's steps are for one site's images: where several sites' releases teach it, it takes as many for each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fedkr.config.architecture import left_to_side, with_classifiers
from fedkr.config.checks import check_study
from fedkr.config.schema import DataConfig, FactsConfig, Study
from fedkr.errors import UserError

Count = Callable[[DataConfig], FactsConfig]
# Of images of which nobody said more than how many there are.
USUAL_SIDE, USUAL_CHANNELS, USUAL_CLASSES = 28, 1, 10


@dataclass(frozen=True)
class SiteFacts:
    """What the rule knows of a site's images: how many a site has in the mean, their side in pixels, and so on."""

    images: float
    side: int
    channels: int
    classes: int

    def __str__(self) -> str:
        colour = "grey" if self.channels == 1 else "colour"
        return f"{self.images:.0f} {colour} images a site of {self.side}x{self.side} in {self.classes} classes"


# What the rule is anchored at: digits at three sites.
ANCHOR = SiteFacts(479, 8, 1, 10)


@dataclass(frozen=True)
class Budget:
    """What a budget makes of a law's number: a factor, and its least and most."""

    factor: float
    least: int
    most: int


@dataclass(frozen=True)
class Law:
    """A number that grows with powers of a site's facts.

    Attributes:
        anchor: the number of the standard budget at :data:`ANCHOR`.
        powers: of images, side, channels and classes, by their names, each in proportion to the anchor's.
        budgets: by name.
        unit: what numbers are rounded to; least and most of each budget are multiples of it.
    """

    anchor: int
    powers: Mapping[str, float]
    budgets: Mapping[str, Budget]
    unit: int = 10

    def number(self, facts: SiteFacts, budget: str) -> int:
        """Return the number for a site of these facts."""
        scale, value = self.budgets[budget], float(self.anchor)
        for name, power in self.powers.items():
            value *= (getattr(facts, name) / getattr(ANCHOR, name)) ** power
        return min(max(self.unit * round(scale.factor * value / self.unit), scale.least), scale.most)


_CLASSIFIER = Law(
    500,
    {"images": 1 / 3, "channels": 0.4, "classes": 0.4},
    {"quick": Budget(0.4, 80, 1500), "standard": Budget(1, 150, 4000), "thorough": Budget(1.5, 1000, 8000)},
)
LAWS: Mapping[str, Law] = MappingProxyType(
    {
        # A diffusion model takes some thousands of steps to draw well at all: the least of a thorough one.
        "generator.steps": Law(
            700,
            {"images": 1 / 3, "side": 0.4, "channels": 0.25, "classes": 0.4},
            {"quick": Budget(0.4, 100, 3000), "standard": Budget(1, 300, 8000), "thorough": Budget(3, 5000, 20_000)},
        ),
        "teacher.steps": _CLASSIFIER,
        "student.steps": _CLASSIFIER,
        # To rank candidates takes less than to train a student, however long that trains.
        "recycle.search_steps": Law(
            100,
            _CLASSIFIER.powers,
            {"quick": Budget(0.5, 40, 100), "standard": Budget(1, 80, 200), "thorough": Budget(1, 80, 250)},
        ),
        # As many of each class, nearly, whatever a site has of real ones: drawing them is what costs.
        "recycle.search_images": Law(
            512,
            {"classes": 0.4},
            {"quick": Budget(0.5, 128, 1024), "standard": Budget(1, 192, 2048), "thorough": Budget(2, 384, 4096)},
            unit=64,
        ),
    }
)


def left_to_rule(study: Study) -> list[str]:
    """Return the options of a composed study that are 0, and have a law."""
    return [option for option, number in numbers(study).items() if number == 0]


def scheduled(study: Study, count: Count | None = None) -> Study:
    """Return a composed study, checked, with a number for each option that it leaves to the rule, and its classifiers.

    Args:
        study: as composed, unchecked.
        count: counts the images of all sites where the study does not say how many there are; None where they cannot
            be counted from here, as those of hospitals.

    Raises:
        UserError: a study that no run could use, or nothing known of its images where something is left to the rule.
    """
    left = left_to_rule(study)
    # Before any data are read, all else is held against its conditions.
    check_study(with_classifiers(_with_numbers(study, dict.fromkeys(left, 1)), USUAL_SIDE))
    if not left and not left_to_side(study):
        return study
    if not study.facts.images and count is not None:
        study = dataclasses.replace(study, facts=count(study.data))
    study = with_classifiers(study, site_facts(study).side)
    if left and not study.facts.images:
        raise UserError(
            "facts.images=0: say about how many images all sites have together, as in facts.images=3000, which the "
            f"rule makes a schedule of; or set {', '.join(left)} yourself"
        )
    rule = by_rule(study)
    return _with_numbers(study, {option: rule[option] for option in left})


def by_rule(study: Study) -> dict[str, int]:
    """Return the rule's number for each option of :data:`LAWS`, for a study that knows how many images there are."""
    facts = site_facts(study)
    return {option: law.number(facts, study.budget) for option, law in LAWS.items()}


def site_facts(study: Study) -> SiteFacts:
    """Return what a study knows of a site's images; what it does not say is taken as usual."""
    facts, data = study.facts, study.data
    images = min(facts.images, data.limit or facts.images)
    return SiteFacts(
        images=max(1.0, images / study.federation.sites),
        side=data.size or facts.side or USUAL_SIDE,
        channels=data.channels or facts.channels or USUAL_CHANNELS,
        classes=len(data.classes) or facts.classes or USUAL_CLASSES,
    )


def numbers(study: Study) -> dict[str, int]:
    """Return a study's own number for each option of :data:`LAWS`."""
    groups = dataclasses.asdict(study)
    return {option: groups[option.partition(".")[0]][option.partition(".")[2]] for option in LAWS}


def explained(study: Study) -> str:
    """Return in one line which numbers of a study are the rule's, of what they were made, and which are set by hand."""
    rule = by_rule(study) if study.facts.images else {}
    own = numbers(study).items()
    made = ", ".join(f"{option}={number}" for option, number in own if rule.get(option) == number)
    by_hand = ", ".join(f"{option}={number}" for option, number in own if rule.get(option) != number)
    parts = [f"by rule from {site_facts(study)}, budget {study.budget}: {made}"] if made else []
    return "; ".join([*parts, *([f"set: {by_hand}"] if by_hand else [])])


def _with_numbers(study: Study, given: Mapping[str, int]) -> Study:
    for option, value in given.items():
        group, _, name = option.partition(".")
        study = dataclasses.replace(study, **{group: dataclasses.replace(getattr(study, group), **{name: value})})
    return study
