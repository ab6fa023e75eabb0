"""What a study's release would give away of a site's images, before anything leaves: a rehearsal for its engineer.

The site's whole pipeline runs on its own images, and so do pipelines on random halves of them, by which the audit's
attacks are calibrated: the strongest that the audit has. Each change of an option that might help is rehearsed in the
same way, on the same images, so that its differences are paired. Nothing is sent; all figures are the site's own.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import scipy

from fedkr.audit.findings import AuditReport, Row
from fedkr.audit.statistics.paired import PairedDifference
from fedkr.audit.targets import row_key
from fedkr.config import LEAST_REFERENCES, Study, with_options
from fedkr.data.images import content_digest
from fedkr.errors import UserError
from fedkr.learning.prediction import predict_logits
from fedkr.learning.public_features import check_installed
from fedkr.stages import StageStore
from sites.audit import SiteAudit
from sites.terms import rehearsed_terms
from sites.workspace import Site

ATTACK, FPR = "rmia", 0.01
SITE_STUDENT = "site-student"
AS_IS = "as it is"
# A generator that trains for this part of its steps knows single images less well.
SHORTER = 4


@dataclass(frozen=True)
class Rehearsed:
    """One way to release, as it was rehearsed.

    Attributes:
        change: of the study, ``as it is`` for none.
        images: how many it releases.
        accuracy: of a student of the release on the site's own test images, with its 95 % interval.
        student: the row of the attack on that student.
        audit: what attacked the release.
        report: of the attacks on the release; it has scores of single images.
        seconds: that it took.
    """

    change: str
    images: int
    accuracy: tuple[float, float, float]
    student: Row
    audit: SiteAudit
    report: AuditReport
    seconds: float

    @property
    def release(self) -> Row:
        """The row named beforehand of the attacks on the release."""
        row = self.report.headline
        if row is None:
            raise UserError(f"{self.audit.site.name}: no attack on the release could be run; give the site more images")
        return row

    def less(self, other: Rehearsed) -> PairedDifference | None:
        """Return by how much more this one gives away than another; None where it is not of the same images."""
        key = row_key(self.release["attack"], self.release["references"])
        a, b = self.report, other.report
        if key not in b.scores or self._sides() != other._sides():
            return None
        return self.audit.difference(a.scores[key], b.scores[key], a.counted & b.counted, "rehearsal")

    def _sides(self) -> list[str]:
        return [content_digest(side) for side in self.audit.challenge.sides]

    def as_row(self) -> dict[str, Any]:
        """Return its figures, of which none is of a single image."""
        kept = ("attack", "references", "auc", "auc_low", "auc_high", *(f"tpr_at_fpr_{FPR:g}{end}" for end in _ENDS))
        rows = {"release": self.release, "student": self.student}
        return {
            "change": self.change,
            "images": self.images,
            "accuracy": dict(zip(("value", "low", "high"), self.accuracy, strict=True)),
            **{name: {key: row[key] for key in (*kept, "members", "nonmembers")} for name, row in rows.items()},
            "seconds": self.seconds,
        }


_ENDS = ("", "_low", "_high")


def rehearsed_study(study: Study, references: int) -> Study:
    """Return a study whose audit has what a rehearsal needs, and whose canaries and coins are the study's own.

    An odd number of ``references``, or fewer than four, is a :class:`UserError`, and so are features that are not
    installed here.
    """
    if references < LEAST_REFERENCES:
        raise UserError(f"references={references}: a rehearsal takes an even number, {LEAST_REFERENCES} or more")
    changes = [
        *("audit.enabled=true", f"audit.attacks=[{ATTACK}]", f"audit.headline={ATTACK}", f"audit.fprs=[{FPR}]"),
        *(f"audit.direct_references={LEAST_REFERENCES}", f"audit.pipeline_references={references}"),
    ]
    rehearsed = with_options(study, changes)
    check_installed(rehearsed.audit)
    return rehearsed


def usual_changes(study: Study) -> list[str]:
    """Return the changes that took most from what attacks find, as far as they are changes of this study.

    Measured in ``simulations/results/privacy.md``.
    """
    found: list[str] = []
    if study.privacy.guaranteed:
        # It takes images as they are, and fewer steps have less noise, but promise the same.
        return found
    if study.generator.kind == "edm" and not study.generator.options.get("augment"):
        found.append("generator.options.augment=0.12")
    # `moments` measures once.
    if study.generator.steps >= SHORTER and study.generator.kind != "moments":
        found.append(f"generator.steps={study.generator.steps // SHORTER}")
    return [*found, " ".join(found)] if len(found) > 1 else found


def changed(study: Study, change: str) -> Study:
    """Return a study with one change, which may be of several options: ``group.option=value other.option=value``."""
    return with_options(study, re.split(r"\s+(?=[\w.]+=)", change.strip()))


def moved(site: Site, folder: Path) -> Site:
    """Return a site whose stages lie in a folder of their own, so that a rehearsal can be deleted.

    A release with a guarantee is drawn from noise of its own there: rehearsing spends nothing of ``policy.privacy``.
    """
    own = site.pipeline
    terms = rehearsed_terms(own.terms, site.records)
    pipeline = type(own)(own.site, own.data, own.study, StageStore(folder), own.job, terms)
    return dataclasses.replace(site, pipeline=pipeline)


def rehearse(site: Site, change: str = AS_IS) -> Rehearsed:
    """Run a site's pipeline and its references, or go on with them, and attack what it would release.

    Raises:
        UserError: a site too small to be attacked, or whose generator collapsed.
    """
    started, audit = time.perf_counter(), SiteAudit(site)
    report, _ = audit.attack_releases()
    student, test = audit.own_student(), site.data.test
    right = int((predict_logits(student, test.images, site.runtime).argmax(1) == test.labels).sum())
    limits = scipy.stats.binomtest(right, len(test)).proportion_ci(method="wilson")
    rows = audit.report(SITE_STUDENT, student).rows
    images = sum(len(release) for release in audit.releases())
    accuracy = right / len(test), float(limits.low), float(limits.high)
    seconds = time.perf_counter() - started
    row = next((row for row in rows if row["references"] == "pipeline"), rows[0])
    return Rehearsed(change, images, accuracy, row, audit, report, seconds)


def lines_of(found: Sequence[Rehearsed]) -> Iterator[str]:
    """Yield what an engineer should know of rehearsals, the first of which is of the study as it is."""
    usual = found[0]
    row = usual.release
    images = f"{row['members']} images that are trained on against {row['nonmembers']} held out"
    yield f"{usual.audit.site.name}: attacks by whoever has the release, {images}"
    for one in found:
        yield f"{one.change}: {one.images} images; {_accuracy(one)}; release: {_attacked(one.release)}"
        yield f"  their student: {_attacked(one.student)}"
    helped = [(one, difference) for one in found[1:] if (difference := one.less(usual)) and difference.high < 0]
    for one, difference in sorted(helped, key=lambda pair: pair[1].difference):
        lost = 100 * (one.accuracy[0] - usual.accuracy[0])
        yield (
            f"{one.change} moves the release's AUC by {difference.difference:+.3f} ({difference.low:+.3f} to "
            f"{difference.high:+.3f}; 95 %, not corrected for how many were tried), and accuracy by {lost:+.1f} points"
        )
    if len(found) > 1 and not helped:
        yield "no change lowers the release's AUC by more than chance at this site"


def _accuracy(one: Rehearsed) -> str:
    value, low, high = (100 * figure for figure in one.accuracy)
    return f"accuracy of their student on the own test images {value:.1f} % ({low:.1f} to {high:.1f})"


def _attacked(row: Row) -> str:
    name = row_key(row["attack"], row["references"])
    rate = row[f"tpr_at_fpr_{FPR:g}"]
    text = f"{name} AUC {row['auc']:.3f} ({row['auc_low']:.3f} to {row['auc_high']:.3f})"
    return text if rate is None else f"{text}, TPR at {100 * FPR:g} % FPR {100 * rate:.1f} %"
