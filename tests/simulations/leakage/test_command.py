"""`fedkr leakage`: from a study or a run to the curve's files."""

import csv
import io
import json

import pytest

from fedkr.audit.leakage_curve import CurvePoint
from fedkr.errors import UserError
from server.composition import compose_study
from simulations.leakage import command as leakage

POINTS = [
    CurvePoint("ratio", 0.5, "soft"),
    CurvePoint("ratio", 1.0, "hard"),
    CurvePoint("rounds", 1.0, "hard"),
    CurvePoint("rounds", 2.0, "soft"),
]
SMALL = [
    *("data.limit=300", "federation.sites=2", "partition=iid", "device=cpu", "precision=float32"),
    *("teacher.arch=resnet8", "teacher.width=4", "teacher.steps=20", "teacher.batch=32"),
    *("student.arch=resnet8", "student.width=4", "student.steps=20", "student.batch=32"),
    *("generator.steps=30", "generator.checkpoints=2", "generator.options.width=8", "generator.options.steps_sample=2"),
    *("recycle.search_steps=3", "recycle.search_images=64", "recycle.tuning_budget=0", "recycle.rounds=2"),
    *("recycle.refuse_collapsed=false", "audit.bootstrap=20"),
]


@pytest.fixture(scope="module")
def curve(tmp_path_factory):
    """Results of a short curve, with its study and folder."""
    folder = tmp_path_factory.mktemp("leakage")
    study = compose_study([*SMALL, f"run_dir={folder}"])
    study.data = study.data.located()
    study.audit = leakage.curve_audit(study.audit)
    study.audit.direct_references = 4
    return leakage.LeakageCurve(study).results(POINTS), study, folder


def test_every_point_has_accuracy_and_auc_with_intervals_and_the_worst_site(curve):
    results, _, _ = curve
    assert [(row["sweep"], row["value"], row["labels"]) for row in results["rows"]] == [
        (p.sweep, p.value, p.labels) for p in POINTS
    ]
    for row in [*results["rows"], results["real"]]:
        for name in ("accuracy", "auc"):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        assert row["attack"] == "rmia"
        assert row["references"] == "direct"
        assert row["others"] is True
        assert row["worst_auc"] == max(site["auc"] for site in row["per_site"])


def test_one_round_and_a_fixed_set_of_ratio_one_are_one_student(curve):
    rows = curve[0]["rows"]
    assert {**rows[1], "sweep": ""} == {**rows[2], "sweep": ""}


def test_students_and_the_real_ones_take_their_steps_for_each_site(curve):
    _, study, _ = curve
    assert leakage.LeakageCurve(study).recipe.steps == 2 * 20


def test_what_is_finished_is_not_computed_again(curve):
    _, study, folder = curve
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    again = leakage.LeakageCurve(study).results(POINTS)
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors") if "others-" not in path.name}
    assert after.items() <= before.items()
    assert again["rows"] == curve[0]["rows"]


def test_no_score_of_a_single_image_is_in_the_results(curve):
    results, _, _ = curve
    longest = max(results["members"].values())

    def lists(value):
        if isinstance(value, dict):
            return [item for part in value.values() for item in lists(part)]
        return [value, *(item for part in value for item in lists(part))] if isinstance(value, list) else []

    assert all(len(found) < longest / 4 for found in lists(results))


def test_no_folder_of_this_machine_is_in_the_results(curve):
    results, study, folder = curve
    assert str(folder) not in json.dumps(results)
    assert study.data.root not in json.dumps(results["study"])


def test_the_curve_is_written_as_json_csv_and_png(curve, tmp_path):
    results, _, _ = curve
    leakage.write_results(results, tmp_path)
    assert json.loads((tmp_path / "leakage.json").read_text())["rows"] == results["rows"]
    table = list(csv.DictReader(io.StringIO((tmp_path / "leakage.csv").read_text())))
    assert [row["sweep"] for row in table] == ["ratio", "ratio", "rounds", "rounds", "real images"]
    assert float(table[0]["auc"]) == results["rows"][0]["auc"]
    assert (tmp_path / "leakage.png").read_bytes().startswith(b"\x89PNG")


def test_the_curve_asks_for_rmia_with_at_least_16_direct_references():
    audit = leakage.curve_audit(compose_study([]).audit)
    assert (audit.headline, audit.direct_references, audit.pipeline_references) == ("rmia", 16, 0)


def test_a_folder_that_is_no_run_of_a_simulation_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"study\.json: not there"):
        leakage.main([str(tmp_path)])


def test_a_run_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"file/run: cannot be the run folder"):
        leakage.measure_study(compose_study([*SMALL, f"run_dir={tmp_path}/file/run"]))


def test_a_run_with_options_beside_it_is_refused(tmp_path):
    with pytest.raises(UserError, match="a run has its options already"):
        leakage.main([str(tmp_path), "seed=1"])
