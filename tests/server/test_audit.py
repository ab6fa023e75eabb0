"""The audit at the server: everyone is sent what is to be attacked there, and one site's failure is a note."""

import copy
import json
import re

import numpy as np
import pytest
from flwr.app import Error, Message

from fedkr import wire
from fedkr.audit.attacks.with_references import ReferenceSignals
from fedkr.audit.challenge import Challenge
from fedkr.audit.copies import CopyFigures
from fedkr.audit.document import Pair, audit_document
from fedkr.audit.findings import report_from_scores
from fedkr.audit.run import Knowledge, audit_model
from fedkr.audit.subject import Subject
from fedkr.config import RELEASE_ATTACKS
from fedkr.data import ImageSet
from fedkr.data.images import Shape
from fedkr.learning.models import build_classifier
from fedkr.learning.runtime import Runtime
from fedkr.progress import SilentProgress
from fedkr.site_name import ALL_SITES
from fedkr.stages import Artifact, model_tensors
from server.audit import Auditable, ServerAudit, common_row, read_auditable, with_summaries
from server.coordinator import SITE_ERROR
from server.targets import Target

REPORTS = {}


def challenge():
    rng = np.random.default_rng(0)
    parts = [ImageSet(rng.integers(0, 256, (30, 4, 4, 1), dtype=np.uint8), np.arange(30) % 3, ("a", "b", "c"))] * 2
    return Challenge(*parts, 0)


def signals(kind):
    rng = np.random.default_rng(1)
    membership = np.tile([[True], [False]], (2, 60))
    logits = [rng.normal(size=(4, 1, n, 3)).astype(np.float32) for n in (60, 9)]
    return ReferenceSignals(kind, *logits, membership, others=kind == "direct")


def report_of(study, target, kind, site):
    """Return the document of an audit of noise, computed once."""
    if (target, site) not in REPORTS:
        rng = np.random.default_rng([int(site[-1]), len(target)])
        kinds = ["direct", "pipeline"] if kind in ("student", "site-student") else ["direct"]
        report = audit_model(
            lambda images: rng.normal(size=(len(images), 3)).astype(np.float32),
            Subject(target, site, challenge(), study.audit, 0, kind),
            Knowledge(
                [signals(kind) for kind in kinds],
                ImageSet(np.zeros((9, 4, 4, 1), np.uint8), np.zeros(9, np.int64), ("a", "b", "c")),
            ),
        )
        REPORTS[target, site] = audit_document(report)
    return REPORTS[target, site]


class Sites:
    """Sites that answer an audit with figures of noise.

    Attributes:
        asked: (message type, site, request) in the order of the questions.
        refusing: (message type, site, target) that gets an error.
    """

    def __init__(self, study):
        self.study, self.asked, self.refusing = study, [], set()

    def answers(self):
        return {kind: self.answer_to(kind) for kind in (wire.REFERENCES, wire.AUDIT, wire.COMPARE)}

    def answer_to(self, kind):
        def answer(site, content):
            config = dict(content[wire.CONFIG])
            self.asked.append((kind, site, content))
            if (kind, site, config.get("target")) in self.refusing:
                return Error(SITE_ERROR, "UserError")
            found = getattr(self, kind.split(".")[1])(site, config)
            names = {wire.AUDIT: wire.FINDINGS, wire.COMPARE: wire.COMPARISON}
            if kind in names:
                return wire.document_reply(names[kind], found, 1.0)
            return wire.metrics_reply({"seconds": 1.0} | found)

        return answer

    def references(self, site, config):
        return {"direct": 4, "pipeline": 4, "others": 8}

    def audit(self, site, config):
        if config["target"] == "release":
            scores = {name: np.linspace(0, 1, 60) for name in RELEASE_ATTACKS}
            report = report_from_scores(scores, Subject("release", site, challenge(), self.study.audit, 0))
            return audit_document(report, [CopyFigures(8, 0, 0, 30, 1, 30, 0, 30, 0).counts(site)])
        return report_of(self.study, config["target"], config["kind"], site)

    def compare(self, site, config):
        figures = {"difference": 0.1, "low": 0.1, "high": 0.1, "unit": "image"}
        paired = [Pair(**pair).names(site) | figures for pair in json.loads(config["pairs"])]
        blind = {"site": site, "auc": 0.9, "p_value": 0.0004 if site == "site-1" else 0.5, "classes_p_value": 0.5}
        return {"blind": [blind], "paired": paired}

    def requests(self, kind, **settings):
        found = [(site, content) for asked, site, content in self.asked if asked == kind]
        return {s: c for s, c in found if all(dict(c[wire.CONFIG]).get(k) == v for k, v in settings.items())}


@pytest.fixture
def sites(study):
    audit = study.audit
    audit.enabled, audit.attacks, audit.headline, audit.bootstrap = True, ["rmia", "loss"], "rmia", 5
    audit.direct_references, audit.pipeline_references = 4, 4
    audit.targets = ["student", "weights", "teacher", "local", "oracle", "site-student", "update", "release"]
    audit.targets += ["control", "control-student"]
    study.strategy.options = {"centralised": {"driver": True}}
    REPORTS.clear()
    return Sites(study)


def a_model(study, seed):
    return Artifact(model_tensors(build_classifier(study.student, Shape(1, 8, 3), seed)))


@pytest.fixture
def found(study, release_of, tmp_path):
    """What a run of three sites left behind."""
    names, files = ("site-0", "site-1", "site-2"), {}
    for site in names:
        files[site] = tmp_path / "server" / "stages" / f"release-r1-{site}.safetensors"
        release_of(site).save(files[site])
    targets = [
        Target("student", "student", "fedkr", model=a_model(study, "student")),
        Target("teacher", "teacher", "fedkr"),
        Target("fedavg", "weights", "fedavg", model=a_model(study, "fedavg")),
        Target("fedavg-update", "update", "fedavg", by_site={site: a_model(study, site) for site in names}),
        Target("local", "local", "local"),
    ]
    return Auditable(targets, [files])


@pytest.fixture
def audit(federation, sites, found):
    """Return a function that audits what was found; it returns rows, extras and the coordinator."""

    def run(recipients="federation", found=found):
        _, coordinator = federation(sites.answers())
        for member in coordinator.members.values():
            member.card["recipients"] = recipients if isinstance(recipients, str) else recipients[member.name]
        runtime = Runtime.choose("cpu", "float32", 1)
        return *ServerAudit(coordinator, found, runtime, SilentProgress()).run(), coordinator

    return run


def test_every_target_has_rows_of_every_site_and_of_all_sites_together(audit):
    rows, _, _ = audit()
    names = {"student", "fedavg", "teacher", "local", "site-student", "fedavg-update", "release"}
    names |= {"control", "control-student"}
    assert {(row["target"], row["site"]) for row in rows} == {
        (t, s) for t in names for s in ("site-0", "site-1", "site-2", "all sites")
    }
    student = {(r["attack"], r["references"]) for r in rows if r["target"] == "student"}
    assert student == {("rmia", "direct"), ("rmia", "pipeline"), ("loss", "none")}
    adversaries = {row["target"]: row["adversary"] for row in rows}
    assert (adversaries["student"], adversaries["fedavg-update"], adversaries["teacher"]) == (
        "outsider",
        "server",
        "owner",
    )


def test_each_site_is_sent_the_others_releases_and_never_its_own(audit, sites, found):
    audit()
    for site, content in sites.requests(wire.REFERENCES).items():
        request = wire.read_request(a_message(content))
        shown = {value // 100 for value in request.shared[0][:, 0, 0, 0].tolist()}
        assert shown == {0, 1, 2} - {int(site[-1])}
        assert (request.settings["sizes"], request.settings["sites"]) == ([8, 8], 2)
        assert {"student", "weights", "oracle"} <= set(request.settings["kinds"])


def a_message(content):
    return Message(content, dst_node_id=1, message_type=wire.REFERENCES)


def test_a_release_whose_policy_names_the_server_alone_is_sent_to_nobody(audit, sites):
    audit({"site-0": "server", "site-1": "federation", "site-2": "server"})
    asked = {s: wire.read_request(a_message(c)).shared for s, c in sites.requests(wire.REFERENCES).items()}
    assert asked["site-1"] is None
    for site in ("site-0", "site-2"):
        assert set((asked[site][0] // 100).ravel().tolist()) == {1}


def test_each_site_attacks_its_own_update_and_the_student_of_its_own_releases(audit, sites, found):
    audit()
    for target in ("fedavg-update", "site-student"):
        sent = sites.requests(wire.AUDIT, target=target)
        digests = {s: wire.weights_digest(wire.read_weights(c[wire.ARRAYS])) for s, c in sent.items()}
        assert len(set(digests.values())) == 3
        if target == "fedavg-update":
            (update,) = [left for left in found.targets if left.name == target]
            assert digests == {site: wire.weights_digest(u.tensors) for site, u in update.by_site.items()}


def test_models_that_a_site_has_itself_are_not_sent(audit, sites):
    audit()
    for target in ("teacher", "local", "release", "control", "control-student"):
        assert all(wire.ARRAYS not in content for content in sites.requests(wire.AUDIT, target=target).values())


def test_targets_under_the_same_adversary_are_compared_by_references_that_both_have(audit):
    _, extras, _ = audit()
    pairs = {(row["target"], row["other"], row["attack"], row["references"]) for row in extras["paired"]}
    assert pairs == {("student", "fedavg", "rmia", "direct"), ("site-student", "fedavg-update", "rmia", "direct")}
    assert len(extras["paired"]) == 6


def test_a_blind_baseline_that_is_rejected_over_all_sites_voids_that_sites_verdicts(audit):
    _, extras, _ = audit()
    assert [row["rejected"] for row in extras["blind"]] == [False, True, False]
    void = [row for row in extras["verdicts"] if row["site"] == "site-1"]
    assert void and all("voids the audit" in row["reason"] for row in void)


def test_copies_epsilon_and_worst_sites_are_beside_the_rows(audit):
    _, extras, _ = audit()
    assert [(row["site"], row["released"]) for row in extras["copies"]] == [(f"site-{i}", 8) for i in range(3)]
    assert {row["target"] for row in extras["worst_site"]} >= {"student", "fedavg", "release"}
    assert all("roc" not in row for row in extras["worst_site"])
    assert extras["notes"] == []


def test_a_site_whose_references_fail_is_left_out_of_the_audit_and_stays_in_the_study(audit, sites):
    sites.refusing.add((wire.REFERENCES, "site-1", None))
    rows, extras, coordinator = audit()
    assert {row["site"] for row in rows} == {"site-0", "site-2", "all sites"}
    assert "site-1 is left out (reference models): refused or failed" in extras["notes"][0]
    assert "site-1" in coordinator.members and not coordinator.missing
    assert not [site for kind, site, _ in sites.asked if site == "site-1" and kind != wire.REFERENCES]


def test_a_site_that_fails_on_one_target_answers_for_the_others(audit, sites):
    sites.refusing.add((wire.AUDIT, "site-1", "fedavg-update"))
    rows, extras, _ = audit()
    assert {row["site"] for row in rows if row["target"] == "fedavg-update"} == {"site-0", "site-2", "all sites"}
    assert {row["site"] for row in rows if row["target"] == "student"} >= {"site-1"}
    assert extras["notes"][0].startswith("site-1 is left out (audit of fedavg-update)")
    assert {row["site"] for row in extras["paired"] if row["target"] == "site-student"} == {"site-0", "site-2"}


def test_a_comparison_that_cannot_be_read_leaves_the_site_out_of_it(audit, sites, monkeypatch):
    blind = {"auc": 17.0, "p_value": 0.5, "classes_p_value": 0.5}
    monkeypatch.setattr(sites, "compare", lambda site, _: {"blind": [blind | {"site": site}], "paired": []})
    _, extras, _ = audit()
    assert extras["blind"] == [] and len(extras["notes"]) == 3
    assert "'blind.0.auc' is '17.0'" in extras["notes"][0] and "\n" not in extras["notes"][0]
    assert not [row for row in extras["verdicts"] if row["verdict"] == "no leakage found"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda found: found["audit"][0].update(auc=0.9, auc_low=0.95, auc_high=0.91), "lower limit of auc"),
        (lambda found: found["audit"][0].update(scores=[0.1] * 60), "extra inputs"),
        (lambda found: found["audit"].append(found["audit"][0]), "expected each once|at most"),
        (lambda found: found["per_class"][0].update(auc=[0.5] * 60), "at most 3 items"),
        (lambda found: found["audit"][0].update(site="site-2"), "'audit.0.site' is 'site-2'"),
        (lambda found: found.pop("canaries"), "field required"),
        (lambda found: found["audit"][-1].update(headline=1), "headline=1"),
    ],
)
def test_an_audit_that_is_no_answer_is_a_note_in_one_line(audit, sites, monkeypatch, spoil, words):
    honest = sites.audit

    def audit_of(site, config):
        found = copy.deepcopy(honest(site, config))
        if (site, config["target"]) == ("site-1", "student"):
            spoil(found)
        return found

    monkeypatch.setattr(sites, "audit", audit_of)
    rows, extras, _ = audit()
    assert {row["site"] for row in rows if row["target"] == "student"} == {"site-0", "site-2", "all sites"}
    (note,) = extras["notes"]
    assert re.search(words, note) and "\n" not in note
    assert note.startswith("site-1 is left out (audit of student): audit of student at site-1: ")


def test_without_references_no_site_is_asked_to_train_any(audit, sites, study):
    study.audit.direct_references = study.audit.pipeline_references = 0
    study.audit.attacks, study.audit.headline = ["loss"], "loss"
    study.audit.targets = ["teacher"]
    audit()
    assert {kind for kind, _, _ in sites.asked} == {wire.AUDIT, wire.COMPARE}


def test_an_audit_that_was_stopped_asks_nothing_twice_and_trains_no_student_again(audit, sites, monkeypatch):
    first = audit()[:2]
    sites.asked.clear()
    monkeypatch.setattr("server.audit.train_student", lambda *a, **k: pytest.fail("trained again"))
    assert audit()[:2] == first
    assert sites.asked == []


def test_a_finished_run_is_audited_from_its_folder_alone(found, study, tmp_path):
    releases = {site: [str(path.relative_to(tmp_path))] for site, path in found.releases[0].items()}
    shape = {"channels": 1, "size": 8, "classes": ["a", "b", "c"]}
    kept = [target.keep(tmp_path, study, shape) for target in found.targets]
    read = read_auditable(tmp_path, json.loads(json.dumps({"releases": releases, "targets": kept})))
    assert read.releases == found.releases
    for left, again in zip(found.targets, read.targets, strict=True):
        assert (again.name, again.kind, again.contestant) == (left.name, left.kind, left.contestant)
        assert digests_of(again) == digests_of(left)


def digests_of(target):
    models = target.by_site if target.model is None else {"all": target.model}
    return {site: wire.weights_digest(model.tensors) for site, model in models.items()}


@pytest.mark.parametrize(
    ("wanted", "found_names"),
    [
        (["weights"], ["fedavg"]),
        (["fedavg"], ["fedavg"]),
        (["fedkr"], ["student"]),
        (["update", "student", "student"], ["fedavg-update", "student"]),
        (["release", "site-student"], ["release", "site-student"]),
        (["oracle"], []),
    ],
)
def test_a_target_goes_by_its_name_its_kind_or_the_contestant_whose_model_it_is(found, wanted, found_names):
    assert [target.name for target in found.wanted(wanted)] == found_names


def test_what_a_users_own_contestant_trained_on_releases_is_attacked_like_the_student(audit, sites, found, study):
    mine = Target("mine", "student", "mine", model=a_model(study, "mine"))
    rows, extras, _ = audit(found=Auditable([*found.targets, mine], found.releases))
    kinds = {(row["attack"], row["references"]) for row in rows if row["target"] == "mine"}
    assert kinds == {("rmia", "direct"), ("rmia", "pipeline"), ("loss", "none")}
    assert {(row["kind"], row["adversary"]) for row in rows if row["target"] == "mine"} == {("student", "outsider")}
    assert ("mine", "fedavg") in {(row["target"], row["other"]) for row in extras["paired"]}


def test_several_weight_sharing_models_are_attacked_and_compared_each(audit, found, study):
    more = Target("fedprox", "weights", "fedprox", model=a_model(study, "fedprox"))
    rows, extras, _ = audit(found=Auditable([*found.targets, more], found.releases))
    assert {"fedavg", "fedprox"} <= {row["target"] for row in rows}
    assert {(row["target"], row["other"]) for row in extras["paired"]} == {
        ("student", "fedavg"),
        ("student", "fedprox"),
        ("site-student", "fedavg-update"),
    }


def test_summaries_are_made_anew_from_the_sites_rows_and_name_a_site_that_outweighs_all_others(audit):
    rows, extras, _ = audit()
    assert with_summaries(rows, extras) == (rows, extras)
    others = [{**row, "site": f"{row['site']}-again"} for row in rows if row["site"] != ALL_SITES]
    loud = [{**row, "members": 10**7, "nonmembers": 10**7} if row["site"] == "site-1" else row for row in rows]
    _, found = with_summaries([*loud, *others], extras)
    assert found["notes"] == [
        "in the audit's pooled figures site-1 would outweigh all other sites together; it counts as they do"
    ]


def test_figures_of_patients_are_pooled_beside_the_sites_own(study):
    rng, sides = np.random.default_rng(0), []
    for first in (0, 100):
        images = rng.integers(0, 256, (30, 4, 4, 1), dtype=np.uint8)
        sides.append(ImageSet(images, np.arange(30) % 3, ("a", "b", "c"), first + np.arange(30) // 2))
    study.audit.attacks, study.audit.headline = ["loss"], "loss"
    rows, patients = [], []
    for site in ("site-0", "site-1"):
        subject = Subject("student", site, Challenge(*sides, 0), study.audit, 0)
        report = report_from_scores({"loss": rng.normal(size=60)}, subject)
        rows, patients = rows + report.rows, patients + report.patients
    found, extras = with_summaries(rows, {"patients": patients})
    *own, pooled = extras["patients"]
    assert own == patients and (pooled["site"], pooled["members"], pooled["unit"]) == (ALL_SITES, 30, "patient")
    assert pooled["auc"] == pytest.approx(np.mean([row["auc"] for row in own]))
    assert "roc" not in pooled and "headline" not in pooled
    assert found[-1]["unit"] == "patient"
    assert with_summaries(found, extras) == (found, extras)


def rows_of(*keys):
    return [{"attack": key.partition("@")[0], "references": key.partition("@")[2] or "none"} for key in keys]


@pytest.mark.parametrize(
    ("first", "second", "row"),
    [
        (["rmia@direct", "rmia@pipeline"], ["rmia@direct"], "rmia@direct"),
        (["rmia@direct", "rmia@pipeline"], ["rmia@direct", "rmia@pipeline"], "rmia@pipeline"),
        (["loss"], ["loss"], None),
        (["rmia@direct"], [], None),
    ],
)
def test_the_compared_row_is_the_headline_attack_with_the_strongest_common_references(first, second, row):
    found = common_row("rmia", rows_of(*first), rows_of(*second))
    assert found == (None if row is None else rows_of(row)[0])
