"""Ways from the sites' images to a student."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Draw:
    """What a site draws for its release.

    Attributes:
        balance: class shares of a release.
        least: classes of fewer images at the site are not drawn; 0 leaves it to ``recycle.min_class_count``.
        doubt: ``recycle.doubt``, of the plain teacher.
    """

    balance: str = "histogram"
    least: int = 0
    doubt: float = 0.0


@dataclass(frozen=True)
class Way:
    """One way from the sites' images to a student.

    Attributes:
        teacher: ``plain``, ``adjusted`` (``teacher.logit_adjustment=1``) or ``ensemble`` (the mean of three).
        draw: what each site draws.
        labels: what is made of the teacher's labels, by :data:`simulations.evidence.skew.labels.LABELS`.
        alike: whether the student meets each class of each site equally often.
        adjustment: the power of the class shares behind which the student is trained (``student.logit_adjustment``).
        longer: so many times ``student.steps``; of five sites the product's student takes them five times.
        students: how many are trained, from other seeds; what they say is averaged.
    """

    teacher: str = "plain"
    draw: Draw = Draw()
    labels: str = "released"
    alike: bool = False
    adjustment: float = 0.0
    longer: int = 1
    students: int = 1


# ``default``, with which all others are compared, was the default until students took their steps for each site.
WAYS = {
    "default": Way(),
    "adjusted": Way(teacher="adjusted"),
    "adjusted+union": Way(teacher="adjusted", labels="union"),
    "adjusted+known": Way(teacher="adjusted", labels="known"),
    "adjusted+alike": Way(teacher="adjusted", alike=True),
    "student": Way(adjustment=1),
    "student+known": Way(adjustment=1, labels="known"),
    "half+five": Way(adjustment=0.5, longer=5),
    "twice": Way(longer=2),
    "five": Way(longer=5),
    "three+five": Way(students=3, longer=5),
    "student+twice": Way(adjustment=1, longer=2),
    "student+five": Way(adjustment=1, longer=5),
    "asked+five": Way(labels="asked", longer=5),
    "known+five": Way(labels="known", longer=5),
    "half+known+five": Way(labels="known", adjustment=0.5, longer=5),
    "adjusted+known+five": Way(teacher="adjusted", labels="known", longer=5),
    "ensemble": Way(teacher="ensemble"),
    "balanced": Way(draw=Draw("balanced")),
    "few+five": Way(draw=Draw(least=10), longer=5),
    "half+few+five": Way(draw=Draw(least=10), adjustment=0.5, longer=5),
    "doubt+five": Way(draw=Draw(doubt=0.5), longer=5),
    "half+doubt+five": Way(draw=Draw(doubt=0.5), adjustment=0.5, longer=5),
    "balanced+five": Way(draw=Draw("balanced"), longer=5),
    "tempered+five": Way(draw=Draw("tempered"), longer=5),
    "asked": Way(labels="asked"),
    "known": Way(labels="known"),
    "consensus": Way(labels="consensus"),
    "alike": Way(alike=True),
    "ensemble+asked": Way(teacher="ensemble", labels="asked"),
    "ensemble+known": Way(teacher="ensemble", labels="known"),
    "all": Way(teacher="ensemble", draw=Draw("tempered"), labels="known", alike=True),
}
