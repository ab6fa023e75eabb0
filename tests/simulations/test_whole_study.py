"""A whole study in seconds: what its figures show on any machine; run again it does nothing."""

import dataclasses
import json

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg

from fedkr.config import RELEASE_ATTACKS, parse_study
from fedkr.data import load_source
from fedkr.data.images import Shape
from fedkr.learning.evaluation import measure_utility
from fedkr.learning.job import Job
from fedkr.learning.models import load_classifier
from fedkr.learning.prediction import predict_logits
from fedkr.learning.runtime import Runtime
from fedkr.recycle.distill import distill_student
from fedkr.recycle.drawer import own_knobs
from fedkr.release import ReleasedSets, SoftSet
from fedkr.site_name import ALL_SITES
from fedkr.stages import read_artifact
from server.composition import compose_study
from simulations.run_folder import RunFolder
from simulations.study import centralised
from sites.workspace import open_site

pytestmark = pytest.mark.alone(minutes=4)

FIGURES = {"accuracy", "balanced_accuracy", "auc"}
STRATEGY_KEYS = FIGURES | {"name", "bytes_up", "bytes_down", "seconds", "per_site"}
AUDIT_KEYS = {
    "target", "site", "attack", "auc", "auc_low", "auc_high", "tpr_at_fpr_0.01", "members", "nonmembers",
}  # fmt: skip
RUNTIME = Runtime.choose("cpu", "float32", 1)
TARGETS = {"student", "fedavg", "teacher", "centralised"}
# Processors differ in the last digits, and by the end of so short a schedule in points: only what holds on all of them
# can be asserted. Seeds 0 to 7, which redraw the partition too, gave these accuracies: local 0.49 to 0.63,
# fedavg 0.81 to 0.93, fedkr 0.86 to 0.93, centralised 0.93 to 0.98; local's AUC was 0.91 at most, the others' 0.99.
BOUNDS = {"accuracy": 0.7, "balanced_accuracy": 0.7, "auc": 0.95}
# Of a site's drawn images, those in which the oracle's model sees the class asked for: seeds 0 to 5 gave 0.71 to 1.
RECOGNISED = 0.5


@pytest.fixture(scope="module")
def results(whole_run):
    return json.loads((whole_run / "results.json").read_text())


@pytest.fixture
def figures(whole_overrides):
    """Return the headline figures of a model of the whole study on the global test set."""
    study = compose_study(whole_overrides)
    test = load_source(study.data).test

    def figures(model):
        return dataclasses.asdict(measure_utility(predict_logits(model, test.images, RUNTIME), test.labels, 10))

    return figures


def missed(figures):
    return {name for name, bound in BOUNDS.items() if figures[name] < bound}


def test_what_joins_the_sites_knows_all_classes_and_what_one_site_trains_alone_does_not(results):
    found = {row["name"]: missed(row) for row in results["strategies"]}
    assert found == {"local": set(BOUNDS), "fedavg": set(), "fedkr": set(), "centralised": set()}


def shuffle_labels(images, labels):
    return SoftSet(images, np.random.default_rng(0).permutation(labels))


def blank_images(images, labels):
    return SoftSet(np.zeros_like(images), labels)


@pytest.mark.parametrize(
    ("sites", "broken"),
    [
        (["site-0"], SoftSet),
        (["site-1"], SoftSet),
        (["site-0", "site-1"], shuffle_labels),
        (["site-0", "site-1"], blank_images),
    ],
    ids=["release of site-0 alone", "release of site-1 alone", "labels of other images", "images without content"],
)
def test_the_bounds_catch_a_student_of_broken_releases(sites, broken, results, whole_run, whole_overrides, figures):
    study = compose_study(whole_overrides)
    whole = ReleasedSets.of_files([[whole_run / path for site in sites for path in results["releases"][site]]])
    sets = ReleasedSets(lambda index: broken(*whole(index)), len(whole))
    student = distill_student(study.student, sets, Job(RUNTIME), "student")
    assert missed(figures(student)) == set(BOUNDS)


def test_the_bounds_catch_an_average_over_one_site(whole_overrides, run, monkeypatch, tmp_path):
    average = FedAvg.aggregate_train
    monkeypatch.setattr(
        FedAvg, "aggregate_train", lambda self, number, replies: average(self, number, list(replies)[:1])
    )
    folder = run([*whole_overrides, "strategy.compare=[fedavg]", "audit=off"], tmp_path / "run")
    (row,) = json.loads((folder / "results.json").read_text())["strategies"]
    assert missed(row) == set(BOUNDS)


def test_the_bounds_catch_an_oracle_that_pools_one_site(whole_overrides, figures):
    study = compose_study(whole_overrides)
    for data in RunFolder(study).sites.values():
        weights = centralised.train(study, [data], Job(RUNTIME)).tensors
        assert missed(figures(load_classifier(study.student, Shape.of(data.train), weights, RUNTIME))) == set(BOUNDS)


@pytest.fixture(scope="module", params=["site-0", "site-1"])
def recognised(request, results, whole_run, whole_overrides):
    """Return the share of a site's drawn images that are recognised as the classes asked for, or as these changed."""
    study = compose_study([*whole_overrides, f"run_dir={whole_run}"])
    pipeline = open_site({"partition-id": int(request.param[-1])}, study).pipeline
    generator, choice = pipeline.build_generator(), pipeline.choose()
    generator.load(pipeline.checkpoint(choice["checkpoint"]))
    asked = np.repeat(pipeline.kept, 20)
    images = np.concatenate(list(generator.sample(asked, own_knobs(choice["knobs"]), "asked")))
    weights = read_artifact(whole_run / "models" / "centralised.safetensors").tensors
    judge = load_classifier(study.student, Shape.of(pipeline.data.train), weights, RUNTIME)
    seen = predict_logits(judge, images, RUNTIME).argmax(axis=1)
    return lambda change=lambda labels: labels: float(np.mean(seen == change(asked)))


def test_the_generator_draws_the_class_that_it_is_asked_for(recognised):
    assert recognised() > RECOGNISED


def test_the_bound_catches_a_generator_that_ignores_the_class(recognised):
    assert recognised(np.random.default_rng(0).permutation) < RECOGNISED


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
        # Fewer non-members than a hundred cannot show one false positive in a hundred.
        assert (row["tpr_at_fpr_0.01"] is None) == (row["nonmembers"] < 100)


def test_beside_the_attacks_are_blind_baseline_paired_differences_copies_and_verdicts(results):
    extras = results["audit_extras"]
    for name in ("blind", "copies", "two_sample"):
        assert [row["site"] for row in extras[name]] == ["site-0", "site-1"]
    assert {(row["target"], row["other"], row["site"]) for row in extras["paired"]} == {
        ("student", other, site) for other in ("fedavg", "centralised") for site in ("site-0", "site-1")
    }
    assert {row["target"] for row in extras["verdicts"]} == TARGETS | {"release"}
    assert extras["notes"] == [] and results["notes"] == []


def test_results_say_what_ran_where(results, whole_overrides):
    study = compose_study(whole_overrides)
    assert results["identity"] == parse_study(json.dumps(results["study"])).identity()
    assert results["study"]["generator"] == dataclasses.asdict(study.generator)
    assert (results["seed"], results["backend"], results["missing_sites"]) == (study.seed, "inline", [])
    assert results["versions"] and results["hardware"]


def test_the_run_folder_holds_report_config_progress_and_models(whole_run):
    page = (whole_run / "report.html").read_text()
    assert "FedKR" in page
    assert not any(f'{attribute}="{scheme}' in page for attribute in ("src", "href") for scheme in ("http", "//"))
    assert (whole_run / "study.json").exists() and (whole_run / "server" / "metrics.jsonl").exists()
    assert list(whole_run.glob("tensorboard/**/events.*"))
    assert {p.stem for p in (whole_run / "models").iterdir()} == {"student", "fedavg", "centralised"}


def test_no_private_image_is_in_the_results_or_at_the_server(whole_run, whole_overrides):
    study = compose_study(whole_overrides)
    sites = RunFolder(study).sites
    held = [p.read_bytes() for folder in ("server", "models") for p in whole_run.glob(f"{folder}/**/*") if p.is_file()]
    results = (whole_run / "results.json").read_text()
    for data in sites.values():
        for part in (data.train, data.val, data.test, data.holdout):
            for image in part.images:
                assert not any(image.tobytes() in content for content in held)
                assert json.dumps(image.tolist())[2:-2] not in results


def test_a_second_command_repeats_no_stage_and_gives_the_same_numbers(whole_run, whole_overrides, run, stages, numbers):
    before, known = stages(whole_run), numbers(whole_run)
    assert run(whole_overrides, whole_run) == whole_run
    assert stages(whole_run) == before
    assert numbers(whole_run) == known
