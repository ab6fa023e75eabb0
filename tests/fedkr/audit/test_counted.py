"""Which candidates count for a kind of target, and that every figure is of those alone."""

from dataclasses import replace

import numpy as np
import pytest

from fedkr.audit.challenge import candidates, site_challenge
from fedkr.audit.counted import Counted, Uncounted
from fedkr.audit.findings import report_from_scores
from fedkr.audit.statistics.membership import auc
from fedkr.audit.subject import Subject
from fedkr.config import AUDIT_TARGETS, AuditConfig
from fedkr.data.images import image_digests
from fedkr.errors import UserError

OF_RELEASES = {"student", "site-student", "release"}
OF_ALL_SITES = {"student", "weights", "oracle", "update", "rounds", "personal"}
CONFIG = AuditConfig(attacks=["loss"], headline="loss", bootstrap=20, canaries=24, coins=True)


@pytest.fixture
def challenge(make_world):
    return site_challenge(make_world(members=70, nonmembers=60, canaries=24).data)


@pytest.mark.parametrize("kind", AUDIT_TARGETS)
def test_a_class_that_no_generator_was_taught_counts_only_where_its_images_themselves_were_trained_on(challenge, kind):
    of_class = candidates(challenge).labels == 2
    assert of_class[:70].any() and of_class[70:130].any() and of_class[130:].any()
    counted = Uncounted(left_out=[2]).counted(challenge, kind)
    assert (counted.mask == (~of_class if kind in OF_RELEASES else True)).all()
    assert counted.elsewhere == 0 and counted.of(challenge).duplicates == challenge.duplicates


@pytest.mark.parametrize("kind", AUDIT_TARGETS)
def test_what_another_site_trains_on_counts_on_neither_side_for_models_of_all_sites(challenge, kind):
    digests, shared = image_digests(candidates(challenge).images), [3, 75, 77, 140]
    counted = Uncounted(elsewhere={digests[i] for i in shared} | {b"another"}).counted(challenge, kind)
    gone = shared if kind in OF_ALL_SITES else []
    assert np.flatnonzero(~counted.mask).tolist() == gone
    assert counted.elsewhere == len(gone[:3]), "canaries are no natural images"
    narrowed = counted.of(challenge)
    assert (len(narrowed.members), len(narrowed.nonmembers), len(narrowed.canaries)) == (
        (69, 58, 23) if gone else (70, 60, 24)
    )


def test_a_site_that_cannot_see_the_others_leaves_nothing_out(challenge):
    for elsewhere in (None, set()):
        counted = Uncounted(elsewhere=elsewhere).counted(challenge, "weights")
        assert counted.mask.all() and counted.of(challenge) is challenge and len(counted.mask) == challenge.size


def test_every_figure_is_of_what_counts_and_as_if_nothing_else_were_there(challenge):
    rng = np.random.default_rng(0)
    scores = {"loss": rng.normal(size=len(candidates(challenge)))}
    counted = Uncounted([2], {image_digests(challenge.nonmembers.images)[0]}).counted(challenge, "student")
    whole = Subject("student", "site-0", challenge, CONFIG, 0)
    report = report_from_scores(scores, replace(whole, counted=counted))
    alone = replace(whole, challenge=counted.of(challenge))
    expected = report_from_scores({"loss": scores["loss"][counted.mask]}, alone)
    for part in ("rows", "canaries", "per_class", "epsilon"):
        assert getattr(report, part) == getattr(expected, part), part
    (row,) = report.rows
    kept = [scores["loss"][:130][counted.mask[:130] & side] for side in (np.arange(130) < 70, np.arange(130) >= 70)]
    assert row["auc"] == auc(*kept) and (row["members"], row["nonmembers"]) == tuple(map(len, kept))
    assert row["elsewhere"] == counted.elsewhere <= 1 and report.per_class[0]["auc"][2] is None
    assert report.epsilon[0]["coins"] == counted.mask.sum()
    assert report.canaries[0]["included"] == (challenge.canaries.included & counted.mask[130:]).sum()
    assert len(report.scores["loss"]) == 130 and (report.counted == counted.mask[:130]).all()


def test_images_of_a_class_that_the_student_never_saw_hide_no_leak_and_make_none_up(challenge):
    """A student knows the members of two classes by heart, and nothing of the third."""
    pool = candidates(challenge)
    inside = np.arange(len(pool)) < 70
    known = {"loss": np.where(pool.labels == 2, -9.0, inside.astype(float))}
    subject = Subject("student", "site-0", challenge, CONFIG, 0)
    counted = Uncounted([2]).counted(challenge, "student")
    assert report_from_scores(known, replace(subject, counted=counted)).rows[0]["auc"] == 1.0
    assert report_from_scores(known, subject).rows[0]["auc"] < 0.9
    # Left out among the members alone, the class would tell the two sides apart without any leak.
    clean = {"loss": np.where(pool.labels == 2, -9.0, 0.0)}
    one_sided = Counted(counted.mask | ~inside, 0)
    assert report_from_scores(clean, replace(subject, counted=one_sided)).rows[0]["auc"] > 0.6
    assert report_from_scores(clean, replace(subject, counted=counted)).rows[0]["auc"] == 0.5


def test_where_nothing_counts_it_is_said_in_one_line(challenge):
    subject = Subject("student", "site-0", challenge, CONFIG, 0)
    counted = Uncounted([0, 1, 2]).counted(challenge, "student")
    with pytest.raises(UserError, match=r"0 members and 0 held-out images count.*lower recycle.min_class_count$"):
        report_from_scores({"loss": np.zeros(154)}, replace(subject, counted=counted))
