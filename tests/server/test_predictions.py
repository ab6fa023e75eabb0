"""What the compared models answer is kept, and says how sure the comparison is."""

import numpy as np
import pytest

from fedkr.config import Study
from fedkr.data import ImageSet
from fedkr.data.images import Shape
from fedkr.learning.evaluation import measure_utility
from fedkr.learning.models import build_classifier
from fedkr.learning.runtime import Runtime
from fedkr.report.results import check_results
from fedkr.stages import Artifact, model_tensors
from server.predictions import with_intervals
from server.targets import Target, measure_model

CLASSES = ("a", "b", "c")
CARD = {"channels": 1, "size": 8, "classes": list(CLASSES)}
RUNTIME = Runtime.choose("cpu", "float32", 1)
LOCAL = {"name": "local", "accuracy": 0.5, "balanced_accuracy": 0.5, "auc": None}


@pytest.fixture
def test_images():
    rng = np.random.default_rng(0)
    return ImageSet(rng.integers(0, 256, (60, 8, 8, 1), dtype=np.uint8), np.arange(60) % 3, CLASSES)


@pytest.fixture
def finished(test_images, tmp_path):
    """Return a function that keeps a model for each name, as a run does, and returns the run's results."""

    def finish(*names):
        rows, targets = [LOCAL], []
        for name in names:
            model = Artifact(model_tensors(build_classifier(Study().student, Shape.of(test_images), name)))
            targets.append(Target(f"{name}-model", "weights", name, model).keep(tmp_path, Study(), CARD))
            rows.append({"name": name, **measure_model(Study(), model, test_images, RUNTIME)})
        return {"strategies": rows, "targets": targets, "seed": 3, "classes": list(CLASSES)}

    return finish


def compared(results, tmp_path, test):
    return with_intervals(results, Study(), tmp_path, test, RUNTIME)


def test_shared_models_get_intervals_and_fedkr_is_set_against_each(finished, test_images, tmp_path):
    results = finished("fedavg", "fedkr", "centralised")
    found = compared(results, tmp_path, test_images)
    check_results(found)
    assert found["strategies"][0] == LOCAL
    for row in found["strategies"][1:]:
        assert row["accuracy_low"] < row["accuracy"] < row["accuracy_high"] and row["auc_low"] < row["auc_high"]
    against = {(d["strategy"], d["other"]) for d in found["differences"]}
    assert against == {("fedkr", "fedavg"), ("fedkr", "centralised")}
    by_accuracy = next(d for d in found["differences"] if (d["other"], d["figure"]) == ("fedavg", "accuracy"))
    expected = results["strategies"][2]["accuracy"] - results["strategies"][1]["accuracy"]
    assert by_accuracy["difference"] == pytest.approx(expected) and by_accuracy["unit"] == "image"
    assert by_accuracy["difference_low"] <= expected <= by_accuracy["difference_high"]


def test_answers_are_kept_beside_the_labels_and_give_the_figures(finished, test_images, tmp_path):
    row = compared(finished("fedavg"), tmp_path, test_images)["strategies"][1]
    with np.load(tmp_path / "predictions" / "fedavg.npz", allow_pickle=False) as kept:
        utility = measure_utility(kept["logits"], kept["labels"], 3)
        assert np.array_equal(kept["labels"], test_images.labels) and set(kept.files) == {"logits", "labels"}
    assert row["accuracy"] == utility.accuracy and row["confusion"] == utility.confusion


def test_what_an_earlier_comparison_left_is_made_anew_or_taken_away(finished, test_images, tmp_path):
    both = compared(finished("fedavg", "fedprox"), tmp_path, test_images)
    (tmp_path / "predictions" / "fedprox.npz").write_bytes(b"no archive")
    assert compared(both, tmp_path, test_images) == both
    compared(finished("fedprox"), tmp_path, test_images)
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["fedprox.npz"]


def test_patients_are_what_the_intervals_resample_where_images_name_them(finished, test_images, tmp_path):
    grouped = ImageSet(test_images.images, test_images.labels, CLASSES, np.arange(60) // 3)
    found = compared(finished("fedavg", "fedkr"), tmp_path, grouped)
    assert {row["unit"] for row in found["differences"]} == {"patient"}
    with np.load(tmp_path / "predictions" / "fedkr.npz", allow_pickle=False) as kept:
        assert np.array_equal(kept["groups"], grouped.groups)


def test_a_model_that_answers_nan_gets_no_interval(finished, test_images, tmp_path, monkeypatch):
    results, answers = finished("fedavg", "fedkr"), iter([np.nan, 0])
    monkeypatch.setattr("server.predictions.predict", lambda *_: np.eye(3, dtype=np.float32)[[0] * 60] + next(answers))
    found = compared(results, tmp_path, test_images)
    assert "accuracy_low" not in found["strategies"][1] and "accuracy_low" in found["strategies"][2]
    assert found["differences"] == []


def test_without_test_images_or_shared_models_nothing_is_added(finished, test_images, tmp_path):
    results = finished("fedavg")
    assert compared(results, tmp_path, None) == results
    alone = finished()
    assert compared(alone, tmp_path, test_images) == alone
    assert not (tmp_path / "predictions").exists()
