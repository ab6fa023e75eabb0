"""A whole study in seconds: its figures are those kept, a second command does nothing, a killed one goes on."""

import dataclasses
import json

import pytest

from fedkr.audit.statistics.pooling import ALL_SITES
from fedkr.config import RELEASE_ATTACKS, parse_study
from fedkr.data import load_source
from server.composition import compose_study
from simulations.run_folder import simulated_sites

FIGURES = {"accuracy", "balanced_accuracy", "auc"}
STRATEGY_KEYS = FIGURES | {"name", "bytes_up", "bytes_down", "seconds", "per_site"}
AUDIT_KEYS = {
    "target", "site", "attack", "auc", "auc_low", "auc_high", "tpr_at_fpr_0.01", "members", "nonmembers",
}  # fmt: skip
TARGETS = {"student", "fedavg", "teacher", "centralised"}


@pytest.fixture(scope="module")
def results(golden_run):
    return json.loads((golden_run / "results.json").read_text())


def test_the_headline_figures_are_the_ones_kept(results, golden):
    figures = {
        row["name"]: {name: row[name] for name in golden["strategies"][row["name"]]} for row in results["strategies"]
    }
    expected = {name: pytest.approx(kept, abs=golden["tolerance"]) for name, kept in golden["strategies"].items()}
    assert figures == expected


def test_results_name_all_strategies_with_their_costs_at_each_site(results):
    assert [row["name"] for row in results["strategies"]] == ["local", "fedavg", "fedkr", "centralised"]
    for row in results["strategies"]:
        assert set(row) >= STRATEGY_KEYS
        assert [entry["site"] for entry in row["per_site"]] == ["site-0", "site-1"]
        # What the oracle computes, it computes at no site.
        costs = {"bytes_up", "bytes_down"} if row["name"] == "centralised" else {"bytes_up", "bytes_down", "seconds"}
        assert all(set(entry) >= FIGURES | costs for entry in row["per_site"])
        assert row["seconds"] > 0
    sent = {row["name"]: row["bytes_up"] for row in results["strategies"]}
    assert sent["local"] == 0 < sent["fedkr"] < sent["fedavg"]


def test_every_target_is_audited_at_every_site_and_over_all_sites_by_every_attack(results):
    audited = {(row["target"], row["site"], row["attack"]) for row in results["audit"]}
    attacks = [(target, attack) for target in TARGETS for attack in results["study"]["audit"]["attacks"]]
    attacks += [("release", attack) for attack in RELEASE_ATTACKS]
    assert audited == {(t, s, a) for t, a in attacks for s in ("site-0", "site-1", ALL_SITES)}
    for row in results["audit"]:
        assert set(row) >= AUDIT_KEYS
        assert 0 <= row["auc_low"] <= row["auc"] <= row["auc_high"] <= 1
        assert row["references"] == "none"
        # Too few non-members to see one false positive in a hundred.
        assert row["nonmembers"] < 100 and row["tpr_at_fpr_0.01"] is None


def test_beside_the_attacks_are_blind_baseline_paired_differences_copies_and_verdicts(results):
    extras = results["audit_extras"]
    for name in ("blind", "copies"):
        assert [row["site"] for row in extras[name]] == ["site-0", "site-1"]
    assert {(row["target"], row["other"], row["site"]) for row in extras["paired"]} == {
        ("student", other, site) for other in ("fedavg", "centralised") for site in ("site-0", "site-1")
    }
    assert {row["target"] for row in extras["verdicts"]} == TARGETS | {"release"}
    assert extras["notes"] == [] and results["notes"] == []


def test_results_say_what_ran_where(results, golden_overrides):
    study = compose_study(golden_overrides)
    assert results["identity"] == parse_study(json.dumps(results["study"])).identity()
    assert results["study"]["generator"] == dataclasses.asdict(study.generator)
    assert (results["seed"], results["backend"], results["missing_sites"]) == (study.seed, "inline", [])
    assert results["versions"] and results["hardware"]


def test_the_run_folder_holds_report_config_progress_and_models(golden_run):
    page = (golden_run / "report.html").read_text()
    assert "FedKR" in page
    assert not any(f'{attribute}="{scheme}' in page for attribute in ("src", "href") for scheme in ("http", "//"))
    assert (golden_run / "study.json").exists() and (golden_run / "server" / "metrics.jsonl").exists()
    assert list(golden_run.glob("tensorboard/**/events.*"))
    assert {p.stem for p in (golden_run / "models").iterdir()} == {"student", "fedavg", "centralised"}


def test_no_private_image_is_in_the_results_or_at_the_server(golden_run, golden_overrides):
    study = compose_study(golden_overrides)
    sites = simulated_sites(study, load_source(study.data))
    held = [p.read_bytes() for folder in ("server", "models") for p in golden_run.glob(f"{folder}/**/*") if p.is_file()]
    results = (golden_run / "results.json").read_text()
    for data in sites.values():
        for part in (data.train, data.val, data.test, data.holdout):
            for image in part.images:
                assert not any(image.tobytes() in content for content in held)
                assert json.dumps(image.tolist())[2:-2] not in results


def test_a_second_command_repeats_no_stage_and_gives_the_same_numbers(
    golden_run, golden_overrides, run, stages, numbers
):
    before, known = stages(golden_run), numbers(golden_run)
    assert run(golden_overrides, golden_run) == golden_run
    assert stages(golden_run) == before
    assert numbers(golden_run) == known


def test_a_killed_command_continues_in_the_middle_of_a_generator_and_of_fedavg(
    command, wait_for_stage, assert_untouched, run, golden_run, golden_overrides, numbers, stages, tmp_path
):
    folder, done = tmp_path / "run", {}
    for pattern in ("sites/site-1/stages/generator-state-*", "server/stages/fedavg-*-r1-*"):
        process = command(golden_overrides, folder)
        wait_for_stage(folder, pattern, process)
        process.kill()
        process.wait()
        assert not (folder / "results.json").exists()
        assert_untouched(done, stages(folder))
        done = stages(folder)
    assert any("fedavg" in path.name for path in done) and any("release" in path.name for path in done)
    run(golden_overrides, folder)
    assert_untouched(done, stages(folder))
    assert numbers(folder) == numbers(golden_run)
