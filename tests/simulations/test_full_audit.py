"""The audit for papers, made tiny, and every contestant that its study can have; resumed, and the same on Ray."""

import json

import pytest

from fedkr.config import CALIBRATED_ATTACKS, FUSED_ATTACK, LABEL_ONLY, RELEASE_ATTACKS, ROUND_ATTACK
from fedkr.site_name import ALL_SITES

pytestmark = pytest.mark.alone(minutes=5)

SITES = ("site-0", "site-1")
# What each target's audit shows: who could do it, and which references calibrate the attack on it.
TARGETS = {
    "student": ("outsider", {"direct", "pipeline"}),
    "fedavg": ("outsider", {"direct"}),
    "centralised": ("outsider", {"direct"}),
    "site-student": ("server", {"direct", "pipeline"}),
    "fedavg-update": ("server", {"direct"}),
    "fedavg-rounds": ("server", {"direct"}),
    "release": ("server", {"released", "pipeline"}),
    "teacher": ("owner", {"direct"}),
    "local": ("owner", {"direct"}),
    "control": ("owner", {"direct"}),
    "control-student": ("owner", {"direct", "pipeline"}),
}
ON_RELEASES = (*RELEASE_ATTACKS, *CALIBRATED_ATTACKS, FUSED_ATTACK)
WITH_OTHERS = {"student", "fedavg", "centralised", "fedavg-update", "fedavg-rounds"}


@pytest.fixture(scope="module")
def overrides(small_overrides):
    less = ("generator.steps=6", "generator.checkpoints=1", "teacher.steps=6", "student.steps=8", "data.limit=240")
    kept = [option for option in small_overrides if not option.startswith("audit.targets")]
    compare = "strategy.compare=[local,fedavg,fedkr,fedkr-dda,fedkr+ft,centralised]"
    references = ("audit=full", "audit.direct_references=4", "audit.pipeline_references=4")
    coins = ("audit.canaries=8", "audit.guesses=4", "recycle.refuse_collapsed=false")
    # Each of a site's pipeline references draws and searches again.
    quick = (
        "generator.options.steps_sample=2",
        "recycle.search_steps=2",
        "recycle.search_images=16",
        "recycle.ratio=0.5",
    )
    return [*kept, *less, compare, *references, *coins, *quick, "audit.bootstrap=10"]


@pytest.fixture(scope="module")
def full_run(run, overrides, tmp_path_factory):
    """The run folder of the study: to be read, not to be changed but by a repeated command."""
    return run(overrides, tmp_path_factory.mktemp("full") / "run")


@pytest.fixture(scope="module")
def results(full_run):
    return json.loads((full_run / "results.json").read_text())


def test_every_target_has_its_adversary_and_its_references_at_every_site_and_over_all(results):
    for target, (adversary, kinds) in TARGETS.items():
        rows = [row for row in results["audit"] if row["target"] == target]
        assert {row["adversary"] for row in rows} == {adversary}
        assert {row["site"] for row in rows} == {*SITES, ALL_SITES}
        assert {row["references"] for row in rows} == kinds | {"none"}
        attacks = results["study"]["audit"]["attacks"]
        met = {"release": {*ON_RELEASES}, "fedavg-rounds": {*attacks, ROUND_ATTACK} - {LABEL_ONLY}}
        assert {row["attack"] for row in rows} == met.get(target, {*attacks})
        known = {row["others"] for row in rows if row["references"] in ("direct", "pipeline")}
        assert known == {target in WITH_OTHERS}
    assert {row["target"] for row in results["audit"]} == set(TARGETS)


def test_the_headline_of_what_is_trained_on_releases_has_pipeline_references(results):
    headlines = {row["target"]: (row["attack"], row["references"]) for row in results["audit"] if row["headline"]}
    assert headlines["student"] == headlines["site-student"] == headlines["control-student"] == ("rmia", "pipeline")
    assert headlines["fedavg"] == headlines["teacher"] == ("rmia", "direct")
    assert headlines["release"] == ("fused", "pipeline")


def test_beside_the_rows_is_all_that_an_audit_measures(results):
    extras = results["audit_extras"]
    for name in ("blind", "copies", "two_sample"):
        assert [row["site"] for row in extras[name]] == list(SITES)
    assert {(row["target"], row["other"]) for row in extras["paired"]} == {
        ("student", "fedavg"), ("student", "centralised"),
        ("site-student", "fedavg-update"), ("site-student", "fedavg-rounds"),
    }  # fmt: skip
    assert all(row["references"] == "direct" and row["attack"] == "rmia" for row in extras["paired"][:2])
    assert {(row["target"], row["site"]) for row in extras["verdicts"]} == {
        (target, site) for target in TARGETS for site in (*SITES, ALL_SITES)
    }
    assert {row["target"] for row in extras["epsilon"]} == set(TARGETS)
    assert all((row["coins"], row["guesses"]) == (8, 4) for row in extras["epsilon"])
    assert {row["target"] for row in extras["canaries"]} == set(TARGETS)
    assert extras["notes"] == []


def test_no_scores_references_or_shadows_are_at_the_server(full_run):
    held = [path for folder in ("server", "models", "oracles") for path in (full_run / folder).rglob("*")]
    assert not [path for path in held if "scores" in path.name or "shadow" in path.name or "signals" in path.name]
    results = json.loads((full_run / "results.json").read_text())
    images = min(row["members"] for row in results["audit"] if row["site"] != ALL_SITES)
    assert all(len(values) < images for values in lists_of_numbers(results["audit_extras"]))


def lists_of_numbers(value):
    if isinstance(value, dict):
        return [found for item in value.values() for found in lists_of_numbers(item)]
    if isinstance(value, list) and value and not isinstance(value[0], (dict, list)):
        return [value]
    return [found for item in value for found in lists_of_numbers(item)] if isinstance(value, list) else []


def test_each_site_has_a_page_of_its_own_in_its_workspace(full_run):
    for site in SITES:
        page = (full_run / "sites" / site / "audit.html").read_text()
        assert "centralised" in page and "site-student" in page


def test_a_run_that_stopped_before_its_end_repeats_no_stage(full_run, overrides, run, stages, numbers):
    before, known = stages(full_run), numbers(full_run)
    for folder in (full_run, full_run / "server"):
        (folder / "results.json").unlink()
    run(overrides, full_run)
    assert stages(full_run) == before
    assert numbers(full_run) == known


def test_ray_gives_the_numbers_of_the_inline_run_bit_by_bit(full_run, overrides, run, numbers, leftovers, tmp_path):
    folder = run([*overrides, "backend=ray"], tmp_path / "ray")
    assert json.loads((folder / "results.json").read_text())["backend"] == "ray"
    found, expected = numbers(folder), numbers(full_run)
    assert found["models"].keys() == expected["models"].keys() == {"student", "fedavg", "centralised"}
    for part, values in expected.items():
        assert found[part] == values, part
    assert found["choices"]["fedkr-dda"]["site-0"]["candidates"][0]["site"] == "site-1"
    assert not leftovers(folder)
