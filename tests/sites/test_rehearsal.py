"""A rehearsal attacks what a site would release, sends nothing, and keeps its work apart."""

import dataclasses
import json

import numpy as np
import pytest

from fedkr.audit.findings import AuditReport
from fedkr.audit.targets import RELEASE
from fedkr.config import GeneratorConfig, PrivacyConfig, Study, parse_study
from fedkr.errors import UserError
from sites import hospital_rehearsal
from sites.audit import SiteAudit
from sites.hospital_rehearsal import FOLDER, rehearse_study
from sites.ledger import Ledger
from sites.rehearsal import AS_IS, Rehearsed, changed, lines_of, rehearsed_study, usual_changes
from sites.studies import approve
from sites.workspace import open_site


@pytest.fixture
def written(study, tmp_path):
    """Return a function that writes the study as a coordinator would send it, and its path."""

    def write(**changed):
        path = tmp_path / "study.json"
        path.write_text(dataclasses.replace(study, **changed).to_json())
        return path

    return write


@pytest.fixture
def rehearsed(written, hospital):
    """The study as it is, and with one slice in place of two."""
    return list(rehearse_study(written(), hospital(), 4, ["recycle.rounds=1"]))


def test_a_release_is_attacked_with_references_and_a_change_that_helps_is_told(rehearsed, tmp_path):
    usual, less = rehearsed
    assert [one.change for one in rehearsed] == [AS_IS, "recycle.rounds=1"]
    assert usual.images == 2 * less.images
    for one in rehearsed:
        assert (one.release["attack"], one.release["references"]) == ("fused", "pipeline")
        assert (one.student["attack"], one.student["references"]) == ("rmia", "pipeline")
        low, high = one.accuracy[1:]
        assert 0 <= low <= one.accuracy[0] <= high <= 1
    assert (tmp_path / "work" / FOLDER).is_dir() and not (tmp_path / "work" / "stages").exists()
    difference = less.less(usual)
    assert difference.low <= difference.difference <= difference.high
    assert difference.difference == pytest.approx(less.release["auc"] - usual.release["auc"])
    # Nothing that is told or written is a figure of a single image.
    lines = list(lines_of(rehearsed))
    assert lines[0].startswith("st-mary: ") and lines[1].startswith(f"{AS_IS}: ")
    assert any("fused@pipeline AUC" in line for line in lines) and any("own test images" in line for line in lines)
    rows = json.loads(json.dumps([one.as_row() for one in rehearsed]))
    assert [row["change"] for row in rows] == [AS_IS, "recycle.rounds=1"]
    assert not any(isinstance(value, list) for row in rows for part in row.values() for value in _values(part))
    # A change that helps is told with what it costs.
    key = "fused@pipeline"
    members = len(usual.audit.challenge.members)
    inside = np.arange(len(usual.report.scores[key])) < members
    leaking = {key: inside + np.linspace(0, 1e-3, len(inside))}
    apart = [dataclasses.replace(usual, report=dataclasses.replace(usual.report, scores=leaking)), less]
    assert any(line.startswith("recycle.rounds=1 moves the release's AUC by -") for line in lines_of(apart))
    alike = [usual, dataclasses.replace(usual, change="recycle.rounds=1")]
    assert list(lines_of(alike))[-1].startswith("no change lowers")


def _values(part):
    return part.values() if isinstance(part, dict) else [part]


def test_what_a_site_would_refuse_is_not_rehearsed(written, hospital, study):
    cases = (
        ({"generator": dataclasses.replace(study.generator, kind="foreign.module")}, [], "studies.modules"),
        ({"generator": dataclasses.replace(study.generator, steps=10**6)}, [], "outside this site's bounds"),
        ({}, ["recycle.rounds=500"], "outside this site's bounds"),
        ({}, ["recycle.round=1"], "no such option"),
        ({}, ["recycel.rounds=1"], "no group of options; did you mean 'recycle'"),
        ({}, ["rounds"], "expected OPTION=VALUE"),
        ({}, ["recycle.rounds=[1"], "cannot be read"),
    )
    for written_with, changes, line in cases:
        with pytest.raises(UserError, match=line):
            next(rehearse_study(written(**written_with), hospital(), 4, changes))
    for references in (-2, 0, 2):
        with pytest.raises(UserError, match=f"references={references}: a rehearsal takes an even number, 4 or more"):
            next(rehearse_study(written(), hospital(), references, []))


def test_an_approved_study_may_be_beyond_bounds_and_changes_of_it_may_not(written, hospital, study, monkeypatch):
    monkeypatch.setattr(hospital_rehearsal, "rehearse", lambda site, change: change)
    path = written(student=dataclasses.replace(study.student, steps=30_000))
    site = hospital()
    with pytest.raises(UserError, match="outside this site's bounds"):
        next(rehearse_study(path, site, 4, []))
    approve(tmp_records(site), parse_study(path.read_text()))
    assert list(rehearse_study(path, site, 4, [])) == [AS_IS]
    with pytest.raises(UserError, match="outside this site's bounds"):
        next(rehearse_study(path, site, 4, ["recycle.rounds=1"]))


def tmp_records(site):
    return site.parent / "site-records"


def test_rehearsing_a_guarantee_spends_nothing_and_draws_no_noise_that_leaves(written, hospital, study, monkeypatch):
    monkeypatch.setattr(hospital_rehearsal, "rehearse", lambda site, change: site)
    guaranteed = {"generator": GeneratorConfig("moments", options={"components": 8}), "privacy": PrivacyConfig("dp")}
    site = hospital(privacy={"required": True})
    path = written(**guaranteed)
    (rehearsed,) = rehearse_study(path, site, 4, [])
    rehearsed.pipeline.release(1)
    assert not Ledger(tmp_records(site)).entries()
    real = open_site({"site-file": str(site)}, rehearsed.study).pipeline
    assert real.generator_job().seed != rehearsed.pipeline.generator_job().seed
    assert len(Ledger(tmp_records(site)).entries()) == 1, "what leaves costs as before"


def test_rehearsals_of_other_images_are_not_compared_however_many_they_are(hospital, study):
    row = {"attack": "fused", "references": "pipeline"}

    def rehearsed_with(data):
        audit = SiteAudit(dataclasses.replace(site, data=data))
        count = audit.challenge.natural
        report = AuditReport(
            RELEASE,
            [row | {"headline": 1}],
            scores={"fused@pipeline": np.arange(count) / count},
            counted=np.ones(count, bool),
        )
        return Rehearsed(AS_IS, 1, (0.5, 0.4, 0.6), row, audit, report, 1.0)

    site = open_site({"site-file": str(hospital())}, study)
    holdout = site.data.holdout
    other = dataclasses.replace(holdout, images=255 - holdout.images)
    usual, changed = rehearsed_with(site.data), rehearsed_with(dataclasses.replace(site.data, holdout=other))
    assert usual.audit.challenge.natural == changed.audit.challenge.natural
    assert usual.less(rehearsed_with(site.data)).difference == 0.0
    assert usual.less(changed) is None


def test_the_usual_changes_are_changes_of_this_study():
    study = Study()
    usual = ["generator.options.augment=0.12", f"generator.steps={study.generator.steps // 4}"]
    assert usual_changes(study) == [*usual, " ".join(usual)]
    study.generator.options["augment"] = 0.1
    assert usual_changes(study) == usual[1:]
    study.generator.kind, study.generator.steps = "biggan_deep", 1
    assert usual_changes(study) == []
    study.generator = GeneratorConfig("moments", steps=100)
    assert usual_changes(study) == []
    guaranteed = PrivacyConfig("dp")
    study = dataclasses.replace(Study(), privacy=guaranteed)
    assert study.generator.kind == "edm" and usual_changes(study) == [], "with a guarantee it takes images as they are"


def test_a_change_may_be_of_several_options_and_a_list_stays_whole():
    study = changed(Study(), "generator.steps=7  strategy.lrs=[0.1, 0.2] generator.options.augment=0.12")
    assert (study.generator.steps, study.strategy.lrs) == (7, [0.1, 0.2])
    assert study.generator.options["augment"] == 0.12


def test_canaries_and_coins_stay_the_studys_own():
    study = Study()
    study.audit.canaries, study.audit.coins, study.audit.enabled = 6, True, False
    audit = rehearsed_study(study, 4).audit
    assert (audit.canaries, audit.coins, audit.enabled, audit.pipeline_references) == (6, True, True, 4)
