"""The audit at a site: references are trained once and stay, scores stay, each target gets the right references."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from fedkr import wire
from fedkr.audit.attacks.quantile import describe_images
from fedkr.audit.copies import check_copies
from fedkr.audit.document import Pair, keyed
from fedkr.audit.rounds import SeenRound, packed
from fedkr.audit.run import Knowledge, audit_model
from fedkr.config import CALIBRATED_ATTACKS
from fedkr.data.images import Shape
from fedkr.errors import UserError
from fedkr.learning.models import build_classifier
from fedkr.learning.prediction import predict_logits
from fedkr.release import ReleasedSets
from fedkr.stages import read_artifact
from sites.audit import REPORT_FILE, SiteAudit
from sites.handlers import HANDLERS, received_others
from sites.policy import PolicyError
from sites.workspace import open_site

NONE = {"direct_references": 0, "pipeline_references": 0}


@pytest.fixture
def study(study):
    """The site's small study, audited with reference models."""
    audit = study.audit
    audit.attacks, audit.headline = ["rmia", "loss"], "rmia"
    audit.direct_references, audit.pipeline_references = 4, 4
    return study


@pytest.fixture
def site(hospital, study):
    return open_site({"site-file": str(hospital())}, study)


@pytest.fixture
def others():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (9, 8, 8, 1), dtype=np.uint8)
    return ReleasedSets.of_arrays(images, np.full((9, 3), 1 / 3, np.float16), (4, 5))


def a_model(study, seed="server"):
    return build_classifier(study.student, Shape(1, 8, 3), seed)


def request(study, weights=None, shared=None, **settings):
    return wire.Request(study.to_json(), settings, weights, shared)


def metrics_of(site, message_type, request):
    return wire.read_metrics(HANDLERS[message_type](site, request))


def document_of(site, message_type, request):
    name = wire.FINDINGS if message_type == wire.AUDIT else wire.COMPARISON
    return wire.read_document(HANDLERS[message_type](site, request), name)


def kinds(work, target):
    return [(signals.kind, signals.others) for signals in work.train_references(target)]


@pytest.mark.parametrize(
    ("kind", "components", "adjustment"),
    [
        *(("student", 16, 1.0), ("site-student", 16, 1.0), ("control-student", 16, 1.0)),
        *(("local", 0, 1.0), ("oracle", 0, 1.0), ("personal", 0, 1.0), ("control", 0, 1.0)),
        *(("teacher", 0, 0.5), ("weights", 0, 0.0), ("update", 0, 0.0), ("rounds", 0, 0.0)),
    ],
)
def test_references_are_trained_by_the_recipe_of_their_kind(site, kind, components, adjustment, monkeypatch):
    site.study.student.components, site.study.student.logit_adjustment = 16, 1.0
    site.study.teacher.logit_adjustment = 0.5
    recipes = []

    def reference_task(recipe, *_):
        recipes.append((recipe.components, recipe.logit_adjustment))
        raise InterruptedError

    monkeypatch.setattr("sites.audit.reference_task", reference_task)
    with pytest.raises(InterruptedError):
        SiteAudit(site).train_references(kind)
    assert recipes == [(components, adjustment)]


def test_each_target_is_attacked_with_references_that_went_its_way(site, others):
    work = SiteAudit(site)
    work.keep_others(others)
    assert kinds(work, "teacher") == kinds(work, "local") == kinds(work, "control") == [("direct", False)]
    assert kinds(work, "weights") == kinds(work, "oracle") == kinds(work, "update") == [("direct", True)]
    assert kinds(work, "student") == [("direct", True), ("pipeline", True)]
    assert kinds(work, "site-student") == kinds(work, "control-student") == [("direct", False), ("pipeline", False)]
    assert kinds(work, "release") == [("pipeline", False)]


def test_the_same_images_of_another_number_of_sites_are_other_releases(others):
    before = others.digest()
    others.sites += 1
    assert others.digest() != before


@pytest.mark.parametrize("count", [0, 1, 2])
def test_direct_references_take_a_students_steps_for_each_site_that_they_learn_from(site, others, count, monkeypatch):
    """Some sites may not pass theirs on, be lost or in quarantine: what is sent counts, not the study's sites."""
    others.sites, work, taken = count, SiteAudit(site), []
    work.keep_others(others if count else None)

    def reference_task(recipe, *_):
        taken.append(recipe.steps)
        raise InterruptedError

    monkeypatch.setattr("sites.audit.reference_task", reference_task)
    with pytest.raises(InterruptedError):
        work.train_references("student")
    own, half, more = len(site.data.train), len(work.candidates) // 2, len(others(0).images) if count else 0
    target = (1 + count) * site.study.student.steps
    assert taken == [math.ceil(target * (half + more) / (own + more))]


def test_every_candidate_is_in_half_of_the_references(site):
    for signals in SiteAudit(site).train_references("student"):
        assert (signals.membership.sum(axis=0) == 2).all()
        assert np.isfinite(signals.logits).all() and np.isfinite(signals.population).all()


def test_without_references_or_attacks_that_need_them_nothing_is_trained(hospital, study):
    for changed in ({"attacks": ["loss"], "headline": "loss"}, {"attacks": ["loss"], "headline": "loss", **NONE}):
        less = dataclasses.replace(study, audit=dataclasses.replace(study.audit, **changed))
        site = open_site({"site-file": str(hospital())}, less)
        assert SiteAudit(site).train_references("student") == []
        assert not list(site.pipeline.stages.folder.glob("*"))


def test_references_are_trained_once_and_the_answer_is_counts_only(site, study, others, monkeypatch):
    asked = request(study, shared=others.arrays()[0], sizes=[4, 5], sites=1, kinds=["student", "teacher"])
    metrics = metrics_of(site, wire.REFERENCES, asked)
    assert {name: value for name, value in metrics.items() if name != "seconds"} == {
        "direct": 4,
        "pipeline": 4,
        "others": 9,
    }
    monkeypatch.setattr("sites.audit.train_references", lambda *a, **k: pytest.fail("trained again"))
    monkeypatch.setattr("sites.audit.PipelineShadows", lambda *a, **k: pytest.fail("trained again"))
    metrics_of(site, wire.REFERENCES, asked)
    metrics_of(site, wire.AUDIT, request(study, a_model(study).state_dict(), target="student"))


def test_no_reference_is_trained_where_no_audit_by_it_could_leave(hospital, study, monkeypatch):
    monkeypatch.setattr("sites.audit.train_references", lambda *a, **k: pytest.fail("trained for nothing"))
    few = open_site({"site-file": str(hospital(min_evaluated=50))}, study)
    with pytest.raises(PolicyError, match="an audit needs 50 members and 50 non-members"):
        metrics_of(few, wire.REFERENCES, request(study, kinds=["teacher"]))


def test_the_shadows_teachers_and_generators_do_not_stay_on_the_disk(site):
    SiteAudit(site).train_references("site-student")
    folder = site.pipeline.stages.folder
    assert len(list(folder.glob("shadow-*-release-*.safetensors"))) == 4
    assert not [path for path in folder.iterdir() if path.is_dir()]


def test_other_sites_releases_are_forgotten_when_the_server_sends_none(site, others):
    SiteAudit(site).keep_others(others)
    assert SiteAudit(site).others.digest() == others.digest()
    SiteAudit(site).keep_others(None)
    assert SiteAudit(site).others is None


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"sizes": [4, 4]}, r"sizes=\[4, 4\] are not of 9 images"),
        ({"sizes": [10, -1]}, "are not of 9 images"),
        *(({"sites": bad}, rf"sites={bad}, where this study has 2 other sites") for bad in (0, 3, -1, True, 1.5)),
        ({"labels": np.full((9, 2), 0.5, np.float16)}, "soft labels must be float16"),
        ({"images": np.zeros((9, 9, 9, 1), np.uint8)}, "images must be uint8"),
    ],
)
def test_other_sites_releases_that_do_not_fit_are_refused(site, study, others, changed, line):
    images, labels = others.arrays()[0]
    shared = changed.get("images", images), changed.get("labels", labels)
    with pytest.raises(UserError, match=line):
        settings = {"sizes": [4, 5], "sites": 1} | {
            name: changed[name] for name in ("sizes", "sites") if name in changed
        }
        received_others(site, request(study, shared=shared, **settings))


def test_an_audit_has_rows_of_every_kind_of_references_and_names_none_of_the_scores(site, study):
    found = document_of(site, wire.AUDIT, request(study, a_model(study).state_dict(), target="student"))
    assert list(keyed(found["audit"])) == ["rmia@direct", "rmia@pipeline", "loss"]
    lists = [name for row in found["audit"] for name, value in row.items() if isinstance(value, list)]
    assert set(lists) == {"roc"}
    assert keyed(found["audit"])["rmia@direct"]["others"] is False


@pytest.mark.parametrize("target", ["../student", "x/../../student", "/tmp/student"])
def test_no_name_of_a_target_leads_out_of_the_workspace(site, study, target, tmp_path):
    before = set(tmp_path.rglob("*student*"))
    pair = Pair("loss", "none", target, "", "student", "")
    for message_type, asked in (
        (wire.AUDIT, request(study, a_model(study).state_dict(), target=target, kind="student")),
        (wire.COMPARE, request(study, pairs=wire.pairs_setting([pair]))),
    ):
        with pytest.raises(UserError, match="is no name of a target"):
            metrics_of(site, message_type, asked)
    assert set(tmp_path.rglob("*student*")) == before


def test_a_target_of_an_unknown_kind_is_refused_by_name(site, study):
    with pytest.raises(UserError, match="target='fedavg' is of an unknown kind 'model'"):
        metrics_of(site, wire.AUDIT, request(study, a_model(study).state_dict(), target="fedavg", kind="model"))


def test_images_are_described_once_for_all_targets_of_an_audit(hospital, study, monkeypatch):
    study.audit = dataclasses.replace(study.audit, attacks=["loss", "quantile"], headline="loss", **NONE)
    site = open_site({"site-file": str(hospital(exact_counts=True))}, study)
    described = []
    real = describe_images
    monkeypatch.setattr("sites.audit.describe_images", lambda *images: described.append(images) or real(*images))

    def rows(seed):
        # A message a target, and a process of its own in a deployment.
        asked = request(study, a_model(study, seed).state_dict(), target="student")
        return document_of(site, wire.AUDIT, asked)["audit"]

    first, second = rows("one"), rows("two")
    assert len(described) == 1 and keyed(first)["quantile"] != keyed(second)["quantile"]
    work = SiteAudit(site)
    fresh = audit_model(
        lambda images: predict_logits(a_model(study, "two").eval(), images, site.runtime),
        work._subject("student"),
        Knowledge(population=work.population),
    )
    assert fresh.rows == second


def rounds_of(study, *seeds):
    models = [a_model(study, seed).state_dict() for seed in seeds]
    return {number: SeenRound(*both) for number, both in enumerate(itertools.pairwise(models), start=1)}


def test_a_sites_rounds_are_attacked_together_with_the_references_of_an_update(site, study):
    sent = packed(rounds_of(study, "a", "b", "c"))
    found = document_of(site, wire.AUDIT, request(study, sent, target="fedavg-rounds", kind="rounds"))
    rows = keyed(found["audit"])
    assert list(rows) == ["rmia@direct", "loss", "round-gain"]
    assert {row["adversary"] for row in rows.values()} == {"server"} and rows["rmia@direct"]["headline"]
    # One model asked, the mean of what came back: that of a single round is its own.
    alone = packed(rounds_of(study, "a", "b"))
    figures = [
        keyed(document_of(site, wire.AUDIT, request(study, weights, target=name, kind=kind))["audit"])["loss"]["auc"]
        for weights, name, kind in (
            (alone, "x-rounds", "rounds"),
            (a_model(study, "b").state_dict(), "x-update", "update"),
        )
    ]
    assert figures[0] == figures[1]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda sent: {}, "one at least"),
        (lambda sent: None, "one at least"),
        (lambda sent: sent | {"1.before.ghost": torch.zeros(1)}, "'ghost' is on one side only"),
        (lambda sent: sent | {"x": torch.zeros(1)}, "names no tensor of a round's models"),
        (lambda sent: {name: tensor for name, tensor in sent.items() if ".after." not in name}, "one after it"),
        (lambda sent: sent | {"1.after.head.bias": torch.tensor([0.0, float("nan"), 0.0])}, "holds NaN or infinity"),
        (
            lambda sent: {
                name.replace("1.", f"{number}.", 1): tensor for number in range(1, 10) for name, tensor in sent.items()
            },
            "more than 8",
        ),
    ],
)
def test_what_are_no_rounds_of_the_studys_models_is_refused_in_one_line(quick_site, quick_study, spoil, words):
    sent = spoil(packed(rounds_of(quick_study, "a", "b")))
    with pytest.raises(UserError, match=words) as refusal:
        metrics_of(quick_site, wire.AUDIT, request(quick_study, sent, target="fedavg-rounds", kind="rounds"))
    assert "\n" not in str(refusal.value)


@pytest.fixture
def quick_study(study):
    """The same without reference models."""
    audit = dataclasses.replace(study.audit, attacks=["loss"], headline="loss", **NONE)
    return dataclasses.replace(study, audit=audit)


@pytest.fixture
def quick_site(hospital, quick_study):
    return open_site({"site-file": str(hospital())}, quick_study)


def test_a_release_is_attacked_without_a_model_and_checked_for_copies(quick_site, quick_study):
    site, study = quick_site, quick_study
    found = document_of(site, wire.AUDIT, request(study, target="release"))
    assert 0 <= keyed(found["audit"])["distance-features"]["auc"] <= 1
    assert found["copies"][0]["released"] == len(site.pipeline.release(1, site.most_images))


def test_a_release_is_calibrated_by_other_releases_and_beside_a_student_of_its_own_images(site, study, others):
    asked = request(study, shared=others.arrays()[0], sizes=[4, 5], sites=1, kinds=["release"])
    metrics_of(site, wire.REFERENCES, asked)
    found = document_of(site, wire.AUDIT, request(study, target="release"))
    rows = keyed(found["audit"])
    assert [key for key in rows if "@" in key] == [
        *(f"{name}@{kind}" for name in CALIBRATED_ATTACKS for kind in ("released", "pipeline")),
        "fused@pipeline",
    ]
    assert [key for key, row in rows.items() if row["headline"]] == ["fused@pipeline"]
    assert 0 < found["two_sample"][0]["p_value"] <= 1
    SiteAudit(site).keep_others(None)
    alone = keyed(document_of(site, wire.AUDIT, request(study, target="release"))["audit"])
    assert alone == {key: row for key, row in rows.items() if "released" not in key}


def test_a_release_is_checked_for_copies_once_however_often_the_result_is_read(
    quick_site, quick_study, monkeypatch, tmp_path
):
    site, study = quick_site, quick_study
    checks = []
    monkeypatch.setattr("sites.audit.check_copies", lambda *a, **k: checks.append(1) or check_copies(*a, **k))
    first, again = [document_of(site, wire.AUDIT, request(study, target="release")) for _ in range(2)]
    metrics_of(site, wire.COMPARE, request(study, pairs="[]"))
    assert "Copy check" in (tmp_path / "work" / REPORT_FILE).read_text()
    assert len(checks) == 1
    assert first == again


def test_two_targets_are_compared_by_the_scores_that_stayed_at_the_site(site, study):
    models = {name: a_model(study, name) for name in ("student", "fedavg")}
    for name, model in models.items():
        kind = "student" if name == "student" else "weights"
        metrics_of(site, wire.AUDIT, request(study, model.state_dict(), target=name, kind=kind))
    about = {name: wire.weights_digest(model.state_dict()) for name, model in models.items()}
    pairs = [
        Pair("rmia", "direct", "student", about["student"], "fedavg", about["fedavg"]),
        Pair("rmia", "direct", "fedavg", about["fedavg"], "student", about["student"]),
    ]
    found = document_of(site, wire.COMPARE, request(study, pairs=wire.pairs_setting(pairs)))
    first, second = found["paired"]
    assert first["difference"] == pytest.approx(-second["difference"])
    assert first["low"] <= first["difference"] <= first["high"]
    assert 0 < found["blind"][0]["p_value"] <= 1
    unknown = Pair("rmia", "direct", "student", "another model", "fedavg", about["fedavg"])
    with pytest.raises(UserError, match="student was not audited here by rmia@direct"):
        metrics_of(site, wire.COMPARE, request(study, pairs=wire.pairs_setting([unknown])))


def test_the_site_finds_its_most_exposed_images_in_its_own_workspace(site, study, tmp_path):
    metrics_of(site, wire.AUDIT, request(study, target="teacher"))
    metrics_of(site, wire.COMPARE, request(study, pairs="[]"))
    assert "teacher" in (tmp_path / "work" / REPORT_FILE).read_text()


def test_another_audit_of_the_same_site_trains_nothing_of_the_study_again(hospital, study):
    first = open_site({"site-file": str(hospital())}, study)
    first.pipeline.release(1, first.most_images)
    SiteAudit(first).train_references("student")
    before = {path: path.stat().st_mtime_ns for path in first.pipeline.stages.folder.glob("*.safetensors")}
    changed = dataclasses.replace(study, audit=dataclasses.replace(study.audit, gamma=2.0, bootstrap=11))
    again = open_site({"site-file": str(hospital())}, changed)
    again.pipeline.release(1, again.most_images)
    SiteAudit(again).attack("student", a_model(study))
    after = {path: path.stat().st_mtime_ns for path in again.pipeline.stages.folder.glob("*.safetensors")}
    assert before.items() <= after.items()
    assert {path.name.split("-")[0] for path in set(after) - set(before)} == {"scores"}


def test_the_scores_of_single_images_are_finite_and_one_an_image(site, study):
    work = SiteAudit(site)
    work.attack("student", a_model(study))
    (path,) = site.pipeline.stages.folder.glob("scores-student-*")
    scores = read_artifact(path).tensors
    assert set(scores) == {"rmia@direct", "rmia@pipeline", "loss"}
    for values in scores.values():
        assert len(values) == work.challenge.natural and torch.isfinite(values).all()
