"""The comparison's protocol: how often each contestant may look at val, and how many steps it may train.

What ``fedkr`` does at a site bounds what its opponents may do: as many settings are tried as its search tries, and no
more optimisation steps are taken than its generator, teacher, scoring students and the site's part of the student take,
a step counting as one whatever its batch. Val chooses among settings and evaluations only where it is large enough to;
else the first setting is trained to the end of its schedule.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedkr.config.schema import SearchConfig, Study

# Of fewer images, one standard error of an accuracy of 90 % is more than 3 points, as much as settings differ by, and
# a single image is more than one point: the best of several looks is then a lucky one.
LEAST_TO_CHOOSE = 100
# The tried settings share a third of the steps; the chosen one goes on from its own part to the end of its schedule.
SEARCH_PART = 3


def may_choose(images: int) -> bool:
    """Whether a val split of so many images may choose anything: else the end of the schedule and the first setting."""
    return images >= LEAST_TO_CHOOSE


def search_looks(study: Study) -> int:
    """Return how many checkpoints and sampler settings ``fedkr``'s search scores at a site, where val may choose."""
    recycle = study.recycle
    return study.generator.checkpoints + recycle.tuning_budget + len(recycle.tune_balances) + len(recycle.tune_filters)


def pipeline_steps(study: Study, val: int) -> int:
    """Return the optimisation steps of ``fedkr`` for a site: generator, teacher, search, and its part of the student.

    With too few ``val`` images to choose by, its search scores one candidate, to tell a collapse. The student is
    trained once at the server, for as many steps as are counted here for all sites together.
    """
    search = (search_looks(study) if may_choose(val) else 1) * study.recycle.search_steps
    return study.generator.steps + study.teacher.steps + search + study.student.steps


@dataclass(frozen=True)
class Allotment:
    """What an opponent may do at a site.

    Attributes:
        steps: optimisation steps in all.
        looks: how many settings are tried, 0 where nothing is searched.
    """

    steps: int
    looks: int

    @property
    def per_look(self) -> int:
        """The steps of each tried setting, at most: the first of its own full schedule."""
        return self.steps // SEARCH_PART // self.looks if self.looks else 0

    @property
    def schedule(self) -> int:
        """The steps of the chosen setting's full schedule, those of its look among them."""
        return self.steps - max(0, self.looks - 1) * self.per_look


def allot(study: Study, search: SearchConfig, settings: int, val: int) -> Allotment:
    """Return what an opponent may do that has so many ``settings`` to try and ``val`` images to choose by."""
    looks = min(search_looks(study), settings) if settings > 1 and may_choose(val) else 0
    return Allotment(search.steps or pipeline_steps(study, val), looks if looks > 1 else 0)


def most_tried(study: Study, search: SearchConfig) -> int:
    """Return how many settings of weight sharing a study can try at most, whatever its sites' val splits."""
    return max(1, min(search_looks(study), len(search.lrs) * len(search.local_epochs) * len(search.norms)))
