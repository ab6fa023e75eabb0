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
from server.predictions import measure_on_test, with_intervals

CLASSES = ("a", "b", "c")


@pytest.fixture
def test_images():
    rng = np.random.default_rng(0)
    return ImageSet(rng.integers(0, 256, (60, 8, 8, 1), dtype=np.uint8), np.arange(60) % 3, CLASSES)


@pytest.fixture
def measured(test_images, tmp_path):
    """Return a function that measures a model with weights of its own under a name, and returns its row."""
    runtime = Runtime.choose("cpu", "float32", 1)

    def measure(name, test=test_images):
        model = Artifact(model_tensors(build_classifier(Study().student, Shape.of(test_images), name)))
        return {"name": name, **measure_on_test(name, Study(), model, test, runtime, tmp_path)}

    return measure


def test_answers_are_kept_beside_the_labels_and_give_the_figures(measured, test_images, tmp_path):
    row = measured("fedavg")
    with np.load(tmp_path / "predictions" / "fedavg.npz", allow_pickle=False) as kept:
        utility = measure_utility(kept["logits"], kept["labels"], 3)
        assert np.array_equal(kept["labels"], test_images.labels) and set(kept.files) == {"logits", "labels"}
    assert row["accuracy"] == utility.accuracy and row["confusion"] == utility.confusion


def test_without_test_images_there_are_no_figures_and_nothing_is_kept(measured, tmp_path):
    assert measured("fedkr", test=None) == {"name": "fedkr", "accuracy": None, "balanced_accuracy": None, "auc": None}
    assert not list(tmp_path.iterdir())


def test_shared_models_get_intervals_and_fedkr_is_set_against_each(measured, test_images, tmp_path):
    local = {"name": "local", "accuracy": 0.5, "balanced_accuracy": 0.5, "auc": None}
    rows = [local, measured("fedavg"), measured("fedkr"), measured("centralised")]
    found = with_intervals({"strategies": rows, "seed": 3}, tmp_path, test_images)
    check_results(found)
    assert found["strategies"][0] == local
    for row in found["strategies"][1:]:
        assert row["accuracy_low"] < row["accuracy"] < row["accuracy_high"] and row["auc_low"] < row["auc_high"]
    against = {(d["strategy"], d["other"]) for d in found["differences"]}
    assert against == {("fedkr", "fedavg"), ("fedkr", "centralised")}
    by_accuracy = next(d for d in found["differences"] if (d["other"], d["figure"]) == ("fedavg", "accuracy"))
    assert by_accuracy["difference"] == pytest.approx(rows[2]["accuracy"] - rows[1]["accuracy"])
    assert by_accuracy["difference_low"] <= by_accuracy["difference"] <= by_accuracy["difference_high"]
    assert by_accuracy["unit"] == "image"


def test_patients_are_what_the_intervals_resample_where_images_name_them(measured, test_images, tmp_path):
    images, labels = test_images.images, test_images.labels
    grouped = ImageSet(images, labels, CLASSES, np.arange(60) // 6)
    rows = [measured("fedavg", grouped), measured("fedkr", grouped)]
    found = with_intervals({"strategies": rows, "seed": 3}, tmp_path, grouped)
    assert {row["unit"] for row in found["differences"]} == {"patient"}
    with np.load(tmp_path / "predictions" / "fedkr.npz", allow_pickle=False) as kept:
        assert np.array_equal(kept["groups"], grouped.groups)


def test_without_a_student_nothing_is_set_against_it(measured, test_images, tmp_path):
    found = with_intervals({"strategies": [measured("fedavg")], "seed": 0}, tmp_path, test_images)
    assert found["differences"] == [] and "accuracy_low" in found["strategies"][0]
    assert with_intervals({"strategies": []}, tmp_path, None) == {"strategies": []}
