"""Whose membership an outside audit asks after, and what its verdict takes."""

import numpy as np
import pytest

from fedkr.audit.outside.model import OutsideAuditor, read_outside
from fedkr.config import AuditConfig, ClassifierConfig
from fedkr.errors import UserError
from fedkr.learning.job import Job
from fedkr.learning.runtime import Runtime
from fedkr.stages import StageStore

CPU = Runtime.choose("cpu", "float32")


def arrays(name, count, seed, **more):
    rng = np.random.default_rng(seed)
    values = {"images": rng.integers(0, 256, (count, 8, 8), dtype=np.uint8), "labels": np.arange(count) % 2} | more
    return {f"{name}_{key}": value for key, value in values.items()}


@pytest.fixture
def saved(tmp_path):
    def saved(*parts):
        np.savez(tmp_path / "data.npz", **{key: value for part in parts for key, value in part.items()})
        return tmp_path / "data.npz"

    return saved


TRAIN = arrays("train", 40, 0)


def test_a_holdout_is_preferred_and_val_then_belongs_to_the_population(saved):
    parts = [arrays("holdout", 20, 1), arrays("val", 10, 2), arrays("test", 5, 3)]
    data = read_outside(saved(TRAIN, *parts))
    assert (len(data.challenge.members), len(data.challenge.nonmembers), len(data.population)) == (40, 20, 15)
    assert data.notes == ["members are the file's train split, non-members its holdout split"]
    assert data.name == "data"


def test_val_stands_in_for_a_holdout_and_the_reader_is_told(saved):
    data = read_outside(saved(TRAIN, arrays("val", 10, 2), arrays("test", 5, 3)))
    assert (len(data.challenge.nonmembers), len(data.population)) == (10, 5)
    assert any("a val split that chose the model's checkpoint" in note for note in data.notes)


def test_without_a_test_split_some_nonmembers_are_the_population_and_no_patient_is_on_both_sides(saved):
    groups = np.repeat(np.arange(10), 4)
    train, val = arrays("train", 40, 0, groups=100 + groups), arrays("val", 40, 2, groups=groups)
    data = read_outside(saved(train, val))
    assert len(data.challenge.nonmembers) + len(data.population) == 40 and len(data.population) == 8
    assert not set(data.challenge.nonmembers.groups) & set(data.population.groups)
    assert any("RMIA's population" in note for note in data.notes)


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ([arrays("test", 5, 3)], "neither holdout_images nor val_images, so there are no non-members"),
        ([arrays("val", 10, 2, groups=np.arange(10))], "groups are given for only one of train and val"),
        ([{"val_images": TRAIN["train_images"]}], "has no array 'val_labels'"),
        ([arrays("val", 40, 0), arrays("test", 5, 3)], "train split has no image that the other lacks"),
        ([arrays("val", 10, 2), arrays("test", 10, 2)], "only copies of members and non-members"),
    ],
)
def test_data_that_cannot_be_audited_are_refused_in_one_line(parts, line, saved):
    with pytest.raises(UserError, match=line):
        read_outside(saved(TRAIN, *parts))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_outside(tmp_path / "none.npz")


def test_the_data_may_lack_some_of_the_models_classes(saved):
    assert len(read_outside(saved(TRAIN, arrays("val", 10, 2)), classes=7).challenge.members.classes) == 7


@pytest.mark.parametrize(
    "labels", [lambda y: y + 1, lambda y: y * 2, lambda y: np.array(["ill", "well"])[y]], ids=["from 1", "gap", "text"]
)
def test_labels_that_are_no_places_of_outputs_are_refused(saved, labels):
    parts = [dict(part) for part in (TRAIN, arrays("val", 10, 2))]
    for part, split in zip(parts, ("train", "val"), strict=True):
        part[f"{split}_labels"] = labels(np.arange(len(part[f"{split}_labels"])) % 2)
    with pytest.raises(UserError, match="labels are not the places of the model's outputs"):
        read_outside(saved(*parts))


def test_labels_from_1_are_places_where_the_model_has_an_output_before_them(saved):
    parts = [dict(part) for part in (TRAIN, arrays("val", 10, 2))]
    for part, split in zip(parts, ("train", "val"), strict=True):
        part[f"{split}_labels"] = np.arange(len(part[f"{split}_labels"])) % 2 + 1
    members = read_outside(saved(*parts), classes=3).challenge.members
    assert members.classes == ("0", "1", "2") and members.class_counts().tolist() == [0, 20, 20]


@pytest.fixture
def audited(saved, tmp_path):
    """Audit a model that knows nothing of anybody, against the given non-members."""

    def audited(nonmembers, target="model"):
        data = read_outside(saved(TRAIN, nonmembers, arrays("test", 20, 3)))
        attacks = {"attacks": ["rmia", "loss"], "headline": "rmia", "direct_references": 4}
        config = AuditConfig(**attacks, bootstrap=20, permutations=200)
        recipe = ClassifierConfig(arch="resnet8", width=4, steps=3, batch=32)
        auditor = OutsideAuditor(data, config, recipe, StageStore(tmp_path / "stages"), Job(CPU))
        return auditor.audit(lambda images: np.zeros((len(images), 2), np.float32), target)

    return audited


def test_members_that_differ_without_any_model_void_the_audit(audited):
    dark = arrays("val", 40, 2)
    dark["val_images"] //= 4
    found = audited(dark)
    assert found.void and found.verdict.verdict == "cannot tell" and "blind baseline" in found.verdict.reason


def test_the_control_is_attacked_beside_the_model_and_trained_once(audited, monkeypatch):
    found = audited(arrays("val", 40, 2))
    assert [report.target for report in found.reports] == ["model", "control"]
    assert [row["auc"] for row in found.reports[0].rows if row["attack"] == "loss"] == [0.5] and not found.void
    monkeypatch.setattr("fedkr.audit.outside.model.train_control", lambda *a, **k: pytest.fail("trained again"))
    assert audited(arrays("val", 40, 2)).as_results() == found.as_results()


def test_what_was_trained_on_releases_does_not_pass_by_direct_references(audited):
    assert audited(arrays("val", 40, 2), "student").verdict.verdict == "cannot tell"


def test_patients_of_an_outside_model_are_audited_as_wholes_and_found(saved, tmp_path):
    train = arrays("train", 120, 0, groups=np.arange(120) // 3)
    holdout = arrays("holdout", 90, 1, groups=1000 + np.arange(90) // 3)
    data = read_outside(saved(train, holdout, arrays("test", 20, 3, groups=2000 + np.arange(20))))
    config = AuditConfig(attacks=["loss"], headline="loss", direct_references=0, bootstrap=50, permutations=200)
    auditor = OutsideAuditor(data, config, ClassifierConfig(), StageStore(tmp_path / "stages"), Job(CPU))
    # It knows one image of each patient.
    known = {
        image.tobytes(): label for image, label in zip(data.challenge.members.images[::3], [0, 1] * 20, strict=True)
    }

    def predict(images):
        labels = [known.get(image.tobytes()) for image in images]
        return np.array([[0, 0] if k is None else [9 * (k == 0), 9 * (k == 1)] for k in labels], np.float32)

    results = auditor.audit(predict, "model").as_results()
    (row,) = results["audit_extras"]["patients"]
    assert (row["members"], row["nonmembers"], row["unit"], row["auc"]) == (40, 30, "patient", 1.0)
    assert results["audit"][0]["unit"] == "patient" and results["audit"][0]["auc"] < 0.7
    assert "AUC" in results["audit_extras"]["verdicts"][0]["reason"]
    assert results["audit_extras"]["verdicts"][0]["verdict"] == "leakage found"
