"""What counts at a site: classes that its generator was taught, and no image that another simulated site trains on."""

import dataclasses

import numpy as np
import pytest

from fedkr import wire
from fedkr.audit.challenge import Challenge
from fedkr.audit.document import Pair, keyed
from fedkr.config import GeneratorConfig, PrivacyConfig
from fedkr.data.images import Shape, image_digests
from fedkr.errors import UserError
from fedkr.learning.models import build_classifier
from fedkr.recycle import pipeline_class
from fedkr.release import Release
from sites.audit import REPORT_FILE, SiteAudit
from sites.handlers import HANDLERS
from sites.policy import PolicyError
from sites.workspace import open_site

ILL = 1


@pytest.fixture
def study(study):
    study.audit.attacks, study.audit.headline = ["loss"], "loss"
    # Only the ill have so many training images.
    study.recycle.min_class_count = 25
    return study


@pytest.fixture
def site(hospital, study):
    """A hospital that allows exact counts, so that a study says how many images of a class teach a generator."""
    return open_site({"site-file": str(hospital(exact_counts=True, min_class_count=1))}, study)


def audit(site, target, kind):
    """Audit a model of the server's; return the headline row and the model's digest."""
    weights = build_classifier(site.study.student, Shape(1, 8, 3), target).state_dict()
    request = wire.Request(site.study.to_json(), {"target": target, "kind": kind}, weights)
    document = wire.read_document(HANDLERS[wire.AUDIT](site, request), wire.FINDINGS)
    return keyed(document["audit"])["loss"], wire.weights_digest(weights)


def compare(site, *pairs):
    request = wire.Request(site.study.to_json(), {"pairs": wire.pairs_setting(pairs)}, None)
    return wire.read_document(HANDLERS[wire.COMPARE](site, request), wire.COMPARISON)["paired"]


def test_members_of_the_student_are_of_the_classes_that_the_generator_was_taught(site, tmp_path):
    assert site.pipeline.left_out == ["healthy", "rare"]
    work = SiteAudit(site)
    ill = [int((side.labels == ILL).sum()) for side in work.challenge.sides]
    student, about = audit(site, "student", "student")
    fedavg, of_fedavg = audit(site, "fedavg", "weights")
    assert [student["members"], student["nonmembers"]] == ill
    assert [fedavg["members"], fedavg["nonmembers"]] == [len(side) for side in work.challenge.sides] != ill
    pair = Pair("loss", "none", "student", about, "fedavg", of_fedavg)
    back = Pair("loss", "none", "fedavg", of_fedavg, "student", about)
    first, second = compare(site, pair, back)
    assert first["difference"] == pytest.approx(-second["difference"])
    counted = (work.challenge.members.labels == ILL, work.challenge.nonmembers.labels == ILL)
    scores = work._kept("loss", "fedavg", of_fedavg).tensors["loss"].numpy()
    of_ill = scores[np.concatenate(counted)]
    inside, outside = of_ill[: ill[0]], of_ill[ill[0] :]
    on_both = float(((inside[:, None] > outside) + 0.5 * (inside[:, None] == outside)).mean())
    assert first["difference"] == pytest.approx(student["auc"] - on_both)
    assert work.compare(pair)[1] == min(ill)
    page = (tmp_path / "work" / REPORT_FILE).read_text()
    assert "healthy" not in page.split('id="target-student"')[1].split("</section>")[0]


def test_an_audit_or_a_comparison_copies_the_images_that_count_hardly_ever(site, monkeypatch):
    copies, narrowed = [], Challenge.narrowed
    monkeypatch.setattr(Challenge, "narrowed", lambda *given: copies.append(given) or narrowed(*given))
    about = audit(site, "student", "student")[1]
    # Once for what leaves, once for the attacks.
    assert len(copies) == 2
    compare(site, *[Pair("loss", "none", "student", about, "student", about)] * 3)
    assert len(copies) == 2


def test_a_release_is_checked_against_the_classes_that_it_was_taught(site, monkeypatch):
    drawn = Release(site.data.train.images[:9], np.full((9, 3), 1 / 3, np.float16), {})
    monkeypatch.setattr(SiteAudit, "releases", lambda self: [drawn])
    document = wire.read_document(
        HANDLERS[wire.AUDIT](site, wire.Request(site.study.to_json(), {"target": "release", "kind": "release"}, None)),
        wire.FINDINGS,
    )
    sides = [len(side) for side in SiteAudit(site).challenge_of("release").sides]
    (copies,) = document["copies"]
    assert [copies["members"], copies["nonmembers"]] == sides
    assert {(row["members"], row["nonmembers"]) for row in document["audit"]} == {tuple(sides)}


def test_with_a_guarantee_the_classes_that_its_noisy_counts_drop_do_not_count_and_only_releases_ask(site, study):
    study.recycle.min_class_count = 10
    study = dataclasses.replace(
        study, generator=GeneratorConfig("moments", options={"components": 8}), privacy=PrivacyConfig("dp", 8.0, 1e-5)
    )
    place = site.pipeline
    own = pipeline_class(study)(place.site, place.data, study, place.stages, place.job, place.terms)
    work = SiteAudit(dataclasses.replace(site, pipeline=own))
    assert work.counted("weights").mask.all() and not list(own.stages.folder.glob("generator-*"))
    undrawn = np.flatnonzero(own.class_counts() == 0)
    assert 0 < len(undrawn) < 3
    assert (work.counted("release").mask == ~np.isin(work.candidates.labels, undrawn)).all()


def test_a_class_that_was_held_out_but_not_trained_on_counts_on_neither_side_of_a_release(site):
    place = site.pipeline
    data = dataclasses.replace(
        place.data, train=place.data.train.subset(np.flatnonzero(place.data.train.labels == ILL))
    )
    own = type(place)(place.site, data, place.study, place.stages, place.job, place.terms)
    work = SiteAudit(dataclasses.replace(site, data=data, pipeline=own))
    assert set(work.challenge.nonmembers.labels) > {ILL}
    assert [set(side.labels) for side in work.challenge_of("release").sides] == [{ILL}, {ILL}]


def test_no_study_makes_a_site_answer_for_fewer_images_than_its_policy_says(hospital, study):
    policy = {"exact_counts": True, "min_class_count": 1, "min_evaluated": 10}
    site = open_site({"site-file": str(hospital(**policy))}, study)
    audit(site, "fedavg", "weights")
    with pytest.raises(PolicyError, match="an audit needs 10 members and 10 non-members"):
        audit(site, "student", "student")


def test_a_comparison_is_of_no_fewer_images_either(hospital, study):
    policy = {"exact_counts": True, "min_class_count": 1}
    site = open_site({"site-file": str(hospital(**policy))}, study)
    about = {name: audit(site, name, kind)[1] for name, kind in (("student", "student"), ("fedavg", "weights"))}
    strict = dataclasses.replace(site, policy=dataclasses.replace(site.policy, min_evaluated=10))
    assert compare(strict, Pair("loss", "none", "fedavg", about["fedavg"], "fedavg", about["fedavg"]))
    with pytest.raises(PolicyError, match="an audit needs 10"):
        compare(strict, Pair("loss", "none", "fedavg", about["fedavg"], "student", about["student"]))


def test_where_counts_stay_no_study_says_which_classes_count(hospital, study):
    site = open_site({"site-file": str(hospital(min_class_count=1))}, study)
    work = SiteAudit(site)
    assert work.counted("student").mask.all() and site.elsewhere is None
    assert work.challenge_of("student") is work.challenge


@pytest.fixture
def doubled(study, tmp_path):
    """Two simulated sites whose pool holds every image twice."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (60, 8, 8), dtype=np.uint8), np.arange(60) % 2
    np.savez(
        tmp_path / "pool.npz",
        train_images=np.concatenate([images, images]),
        train_labels=np.concatenate([labels, labels]),
        test_images=rng.integers(0, 256, (6, 8, 8), dtype=np.uint8),
        test_labels=np.arange(6) % 2,
    )
    study.data.name, study.data.path = "npz", str(tmp_path / "pool.npz")
    study.federation.sites, study.partition.kind, study.recycle.min_class_count = 2, "iid", 1
    return study


def test_an_image_that_the_other_simulated_site_trains_on_counts_for_no_model_of_both(doubled):
    first, second = (open_site({"partition-id": i}, doubled) for i in range(2))
    work, trained = SiteAudit(first), set(image_digests(second.data.train.images))
    assert first.elsewhere() == trained
    held = image_digests(work.challenge.nonmembers.images)
    assert 0 < sum(digest in trained for digest in held) < len(held)
    counted = work.counted("weights")
    for side in counted.of(work.challenge).sides:
        assert not trained & set(image_digests(side.images))
    assert counted.elsewhere == work.challenge.natural - counted.of(work.challenge).natural
    assert work.counted("local").mask.all() and work.counted("release").mask.all()


def test_a_site_that_cannot_be_opened_trains_on_nothing(doubled, monkeypatch):
    from sites import workspace

    real = workspace.prepare_site

    def prepare(pool, study, name):
        if name == "site-1":
            raise UserError("site-1: too few images")
        return real(pool, study, name)

    workspace._trained.cache_clear()
    monkeypatch.setattr(workspace, "prepare_site", prepare)
    assert open_site({"partition-id": 0}, dataclasses.replace(doubled, seed=3)).elsewhere() == frozenset()
