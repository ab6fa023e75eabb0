"""The comparison: every strategy's figures come into one shape, whatever it shares and whoever may take part."""

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from fedkr import wire
from fedkr.config import Study
from fedkr.data import ImageSet
from fedkr.data.images import Shape
from fedkr.errors import StudyFailedError, UserError
from fedkr.learning.job import Job
from fedkr.learning.models import build_classifier, load_weights
from fedkr.learning.prediction import predict_logits
from fedkr.learning.runtime import Runtime
from fedkr.stages import Artifact, model_tensors, read_artifact
from server.audit import read_auditable
from server.comparison import Comparison
from server.contestant import Federation
from server.targets import Target, measure_model

COSTS = {"seconds", "bytes_up", "bytes_down"}


def utility(split, accuracy):
    figures = {"accuracy": accuracy, "balanced_accuracy": accuracy, "auc": None, "loss": 1.0, "count": 10}
    return {f"{split}/{name}": value for name, value in figures.items()}


def local(site, content):
    return wire.metrics_reply({"seconds": 2.0, **utility("test", 0.25), **utility("global", 0.1 * int(site[-1]))})


def weights(site, content):
    reply = wire.metrics_reply({"num-examples": 1, "val-correct": 1.0, "val-loss": 1.0, "val-count": 2, "seconds": 3.0})
    reply[wire.ARRAYS] = content[wire.ARRAYS]
    return reply


def evaluate(site, content):
    split = dict(content[wire.CONFIG]).get("split", "test")
    return wire.metrics_reply({"seconds": 0.5, **utility(split, 0.75)})


@pytest.fixture
def compare(federation, release_of, study, tmp_path):
    """Return a function that runs the comparison over sites that answer everything, and the grid."""
    study.strategy.lrs, study.strategy.local_epochs, study.strategy.rounds = [0.1], [1], 2
    study.strategy.compare = ["local", "fedavg", "fedkr"]

    def run(prepare=lambda coordinator: None, test=None, **settings):
        answers = {wire.LOCAL: local, wire.TRAIN: weights, wire.EVALUATE: evaluate}
        answers[wire.RELEASE] = lambda site, content: wire.release_reply(release_of(site, left_out=["rare"]), 5.0)
        grid, coordinator = federation(answers, **settings)
        prepare(coordinator)
        runtime = Runtime.choose("cpu", "float32", 1)
        comparison = Comparison(Federation(coordinator, Job(runtime), test), tmp_path)
        return comparison.run(), grid

    return run


def row_of(found, name):
    return next(row for row in found["strategies"] if row["name"] == name)


def test_every_strategy_but_the_oracle_has_a_row_in_the_studys_order(compare, study):
    study.strategy.compare = ["fedkr", "centralised", "fedavg", "local"]
    study.strategy.options |= {"centralised": {"kind": "simulations.study.centralised", "driver": True}}
    found, _ = compare()
    assert [row["name"] for row in found["strategies"]] == ["fedkr", "fedavg", "local"]
    for row in found["strategies"]:
        assert {"accuracy", "balanced_accuracy", "auc"} | COSTS <= set(row)
        assert [entry["site"] for entry in row["per_site"]] == ["site-0", "site-1", "site-2"]
        assert all({"accuracy", "auc"} | COSTS <= set(entry) for entry in row["per_site"])


def test_local_has_no_headline_where_the_sites_share_no_test_set(compare):
    assert row_of(compare()[0], "local")["accuracy"] is None


def test_local_is_the_mean_over_sites_on_the_global_test_set_and_costs_no_bytes(compare, study):
    digits = ImageSet(np.zeros((4, 8, 8, 1), np.uint8), np.array([0, 1, 2, 0]), ("a", "b", "c"))
    study.strategy.compare = ["local"]
    row = row_of(compare(test=digits)[0], "local")
    assert row["accuracy"] == pytest.approx(0.1)
    assert row["auc"] is None
    assert (row["bytes_up"], row["bytes_down"], row["seconds"]) == (0, 0, 6.0)
    assert [entry["accuracy"] for entry in row["per_site"]] == [0.25] * 3


def test_a_shared_models_row_adds_up_what_its_sites_paid(compare, tmp_path):
    found, _ = compare()
    student = read_artifact(tmp_path / "models" / "student.safetensors")
    weights_bytes = sum(t.numel() * t.element_size() for t in student.tensors.values())
    for name in ("fedkr", "fedavg"):
        row = row_of(found, name)
        for cost in ("bytes_up", "bytes_down"):
            assert row[cost] == sum(entry[cost] for entry in row["per_site"])
    kr = row_of(found, "fedkr")
    assert kr["bytes_down"] > 3 * weights_bytes
    assert kr["seconds"] == pytest.approx(3 * 5.0 + student.info["seconds"])
    assert row_of(found, "fedavg")["seconds"] == 2 * 3 * 3.0
    assert [entry["accuracy"] for entry in kr["per_site"]] == [0.75] * 3


def test_the_releases_are_named_with_what_was_left_out(compare, tmp_path):
    found, _ = compare()
    assert list(found["recycling"]) == ["site-0", "site-1", "site-2"]
    assert [info["left_out"] for info in found["recycling"].values()] == [["rare"]] * 3
    for paths in found["releases"].values():
        assert all((tmp_path / path).is_file() for path in paths)


def test_the_final_models_can_be_built_again_from_their_files_alone(compare, study, tmp_path):
    compare()
    for name, steps in (("student", 3 * study.student.steps), ("fedavg", study.student.steps)):
        artifact = read_artifact(tmp_path / "models" / f"{name}.safetensors")
        assert artifact.info["classifier"] == dataclasses.asdict(study.student) | {"steps": steps}
        assert (artifact.info["channels"], artifact.info["size"]) == (1, 8)
        model = build_classifier(study.student, Shape(1, 8, len(artifact.info["classes"])), "any")
        load_weights(model, artifact.tensors)


def test_the_moments_of_an_adaptive_strategy_are_no_part_of_its_model(compare, study, tmp_path):
    study.strategy.compare = ["fedadam"]
    compare()
    names = read_artifact(tmp_path / "models" / "fedadam.safetensors").tensors
    assert not [name for name in names if name.startswith(("m_t", "v_t", "model."))]


def test_weight_sharing_is_left_out_where_no_policy_allows_it(compare):
    def prepare(coordinator):
        for member in coordinator.members.values():
            member.card["allow"] = ["metrics", "release"]

    found, grid = compare(prepare)
    assert [row["name"] for row in found["strategies"]] == ["local", "fedkr"]
    assert wire.TRAIN not in {kind for kind, _ in grid.asked}
    assert found["notes"] == ["fedavg is left out: no site's policy lets weights leave"]


def test_a_comparison_of_which_the_policies_leave_nothing_says_so(compare):
    def prepare(coordinator):
        for member in coordinator.members.values():
            member.card["allow"] = []

    with pytest.raises(StudyFailedError, match="fedkr: no site's policy lets release leave"):
        compare(prepare)


def test_a_contestant_that_fails_is_a_note_and_the_others_go_on(compare, study):
    """One bad site can make a shared model diverge at the honest sites."""

    def diverged(site, content):
        reply = weights(site, content)
        reply[wire.METRICS]["diverged"] = 1
        return reply

    study.strategy.compare = ["fedavg", "local"]
    found, _ = compare(lambda coordinator: coordinator.grid.answers.update({wire.TRAIN: diverged}))
    assert [row["name"] for row in found["strategies"]] == ["local"]
    assert [note for note in found["notes"] if note.startswith("fedavg is left out: fedavg diverged")]
    study.strategy.compare = ["fedavg"]
    with pytest.raises(StudyFailedError, match="fedavg diverged in its first round"):
        compare(lambda coordinator: coordinator.grid.answers.update({wire.TRAIN: diverged}))


def test_two_of_flowers_strategies_are_rows_and_models_of_one_study(compare, study, tmp_path):
    study.strategy.compare = ["fedavg", "fedprox", "fedkr"]
    study.strategy.options |= {"fedprox": {"proximal_mu": 0.25}}
    found, grid = compare()
    assert [row["name"] for row in found["strategies"]] == ["fedavg", "fedprox", "fedkr"]
    assert [(row["name"], row["kind"], row["contestant"]) for row in found["targets"]] == [
        ("fedavg", "weights", "fedavg"),
        ("fedprox", "weights", "fedprox"),
        ("student", "student", "fedkr"),
        ("teacher", "teacher", "fedkr"),
    ]
    assert {path.stem for path in (tmp_path / "models").iterdir()} == {"fedavg", "fedprox", "student"}
    assert {row["strategy"] for row in found["weights_search"]} == {"fedavg", "fedprox"}
    # Each model at each site, on test: val is too small to choose, and is not asked about.
    assert sum(kind == wire.EVALUATE for kind, _ in grid.asked) == 3 * 3


def test_sites_that_released_early_go_on_with_their_own_models(compare):
    _, grid = compare()
    kinds = [kind for kind, _ in grid.asked]
    assert kinds[:6] == [wire.RELEASE] * 3 + [wire.LOCAL] * 3
    assert wire.TRAIN not in kinds[:6]


def test_a_comparison_that_was_stopped_asks_nothing_twice(compare):
    first, _ = compare()
    second, grid = compare()
    assert grid.asked == []
    assert first == second


def test_the_headline_figures_are_those_of_the_global_test_set():
    rng = np.random.default_rng(0)
    test = ImageSet(rng.integers(0, 256, (30, 8, 8, 1), dtype=np.uint8), np.arange(30) % 3, ("a", "b", "c"))
    study, runtime = Study(), Runtime.choose("cpu", "float32", 1)
    study.student.arch, study.student.width = "resnet8", 4
    model = build_classifier(study.student, Shape(1, 8, 3), "seed")
    figures = measure_model(study, Artifact(model_tensors(model)), test, runtime)
    predicted = predict_logits(model, test.images, runtime).argmax(axis=1)
    assert figures["accuracy"] == pytest.approx(accuracy_score(test.labels, predicted))


def test_a_server_without_images_has_no_headline_figures():
    figures = measure_model(Study(), Artifact(), None, Runtime.choose("cpu", "float32", 1))
    assert figures == {"accuracy": None, "balanced_accuracy": None, "auc": None}


@pytest.mark.parametrize("name", ["/etc/passwd", "../other/models/student.safetensors", "models/../../x"])
def test_results_that_name_a_file_outside_their_folder_are_refused(tmp_path, name):
    row = {"name": "student", "kind": "student", "contestant": "fedkr"}
    for more in ({"model": name}, {"by_site": {"site-0": name}}):
        with pytest.raises(UserError, match="which is not in this folder"):
            Target.read(tmp_path, row | more)
    with pytest.raises(UserError, match="which is not in this folder"):
        read_auditable(tmp_path, {"releases": {"site-0": [name]}})
