"""Runs that planted others of the same canaries, each attacked with the others as references."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from fedkr.data.images import Shape
from fedkr.learning.models import build_classifier
from fedkr.release import Release
from fedkr.stages import Artifact, model_tensors, write_artifact
from server.composition import compose_study
from simulations.evidence import pooled_canaries
from simulations.evidence.leave_one_out import distance_scores
from simulations.evidence.pooled_canaries import FPRS, RESAMPLES, figures
from simulations.run_folder import RunFolder

OPTIONS = ["dataset=digits", "federation.sites=2", "student.arch=resnet8", "student.width=4", "audit.canaries=24"]
OPTIONS += ["audit.canary_kinds=[mislabelled,outlier]", "partition=iid"]


@pytest.fixture(scope="session")
def tosses(tmp_path_factory):
    """Return four runs, as folders, whose releases hold what each planted at one site and nothing of the other's."""
    return [make_run(tmp_path_factory.mktemp("tosses") / f"run{toss}", toss) for toss in range(4)]


def make_run(folder, toss):
    study = compose_study([*OPTIONS, f"audit.canary_toss={toss}"])
    study = RunFolder.of_study(dataclasses.replace(study, run_dir=str(folder))).study
    folder.mkdir()
    (folder / "study.json").write_text(study.to_json())
    run, releases = RunFolder.of_run(folder), {}
    for site, data in run.sites.items():
        canaries = data.canaries
        images = canaries.images[canaries.included] if site == "site-0" else data.val.images
        soft = np.eye(10, dtype=np.float16)[np.arange(len(images)) % 10]
        releases[site] = [f"release-{site}.safetensors"]
        Release(images, soft, {"site": site, "round": 1, "count": len(images)}).save(folder / releases[site][0])
    model = build_classifier(study.student, Shape(1, 8, 10), "any")
    card = {"classifier": dataclasses.asdict(study.student), "channels": 1, "size": 8, "classes": list("0123456789")}
    write_artifact(folder / "models" / "student.safetensors", Artifact(model_tensors(model), card))
    row = {"name": "student", "kind": "student", "contestant": "fedkr", "model": "models/student.safetensors"}
    results = {"seed": 0, "study": json.loads(study.to_json()), "targets": [row], "releases": releases}
    results |= {"strategies": [{"name": "fedkr", "accuracy": 0.9 + toss / 100}], "versions": {}, "hardware": {}}
    results |= {"backend": "inline", "classes": card["classes"], "sites": [], "audit": []}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_what_a_release_holds_is_found_and_a_model_of_no_image_gives_nothing_away(tosses, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert pooled_canaries.main([str(out), *map(str, tosses)]) == 0
    (study,) = json.loads(out.read_text())["studies"]
    rows = {(row["target"], row["channel"]): row for row in study["targets"]}
    assert rows.keys() == {(target, channel) for target in ("student", "release") for channel in ("label", "image")}
    assert all(rows["student", channel]["auc"] == 0.5 for channel in ("label", "image")), "one model in all runs"
    planted, scores = np.array(study["planted"], bool), np.array(study["scores"]["release"], float)
    assert planted.shape == scores.shape == (4, 48) and study["sites"] == {"site-0": 24, "site-1": 24}
    known, first = np.isfinite(scores), np.arange(48) < 24
    assert known.any(0).sum() < 48 or known.all()
    assert scores[:, first][(known & planted)[:, first]].min() > scores[:, first][(known & ~planted)[:, first]].max()
    assert not scores[:, ~first][known[:, ~first]].any(), "the other site releases the same in all runs"
    assert study["accuracy"] == {"fedkr": [0.9, 0.91, 0.92, 0.93]} and study["tosses"] == [0, 1, 2, 3]
    assert str(tmp_path.parent) not in out.read_text(), "no path of the machine that it ran on"
    assert "run0, accuracy of fedkr: 91.5 ± 1.3 %" in capsys.readouterr().out


def test_an_image_is_judged_by_other_runs_and_one_that_all_of_them_tossed_alike_by_nothing():
    membership = np.array([[True, True], [True, False], [False, False], [True, False]])
    nearness = np.array([[5.0, 1.0], [4.0, 0.0], [2.0, 0.0], [4.0, 0.0]])
    first = distance_scores(nearness, membership, 0)
    assert first[0] == 5 - (4 + 2) / 2 and np.isnan(first[1])


def test_a_resample_draws_whole_runs_and_whole_canaries():
    scores = np.array([[3.0, 1.0, np.nan], [0.0, 2.0, 4.0]])
    planted = np.array([[True, False, True], [False, True, False]])
    runs, canaries = np.tile([2.0, 0.0], (RESAMPLES, 1)), np.ones((RESAMPLES, 3))
    row = figures(scores, planted, (runs, canaries))
    assert (row["included"], row["excluded"]) == (2, 3)
    assert row["auc"] == pytest.approx(4 / 6) and (row["auc_low"], row["auc_high"]) == (1, 1), "the first run alone"
    assert all(row[f"tpr_at_fpr_{fpr:g}"] == 0 for fpr in FPRS)


@pytest.mark.parametrize(
    ("runs", "said"),
    [([0, 1, 2], "give 4 or more runs of a study"), ([0, 1, 2, 2], "audit.canary_toss=[0, 1, 2, 2]")],
)
def test_too_few_runs_and_the_same_run_twice_are_refused(tosses, runs, said, tmp_path, capsys):
    assert pooled_canaries.main([str(tmp_path / "out.json"), *(str(tosses[run]) for run in runs)]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out.json").exists()


def test_a_run_without_canaries_is_named(finished_run, monkeypatch, tmp_path, capsys):
    plain = SimpleNamespace(study=compose_study(["dataset=digits"]))
    monkeypatch.setattr(RunFolder, "of_run", lambda _: plain)
    assert pooled_canaries.main([str(tmp_path / "out.json"), str(finished_run)]) == 2
    assert "planted no canaries; set audit.canaries" in capsys.readouterr().err


def test_a_run_whose_release_taught_nothing_is_no_target_and_its_canaries_are_not_in(tosses, tmp_path):
    runs = [shutil.copytree(run, tmp_path / run.name) for run in tosses]
    results = json.loads((runs[2] / "results.json").read_text())
    del results["releases"]["site-0"]
    (runs[2] / "results.json").write_text(json.dumps(results))
    assert pooled_canaries.main([str(tmp_path / "out.json"), *map(str, runs)]) == 0
    (study,) = json.loads((tmp_path / "out.json").read_text())["studies"]
    for target in ("student", "release"):
        scores = np.array(study["scores"][target], float)
        assert np.isnan(scores[2, :24]).all() and np.isfinite(scores[2, 24:]).any()
    planted, scores = np.array(study["planted"], bool), np.array(study["scores"]["release"], float)
    known = np.isfinite(scores)[:, :24]
    assert scores[:, :24][known & planted[:, :24]].min() > scores[:, :24][known & ~planted[:, :24]].max()
