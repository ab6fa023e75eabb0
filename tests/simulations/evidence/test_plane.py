"""Strategies of several runs in the report's plane."""

import json

from fedkr.report.results import load_results
from fedkr.report.selection import plane_points
from simulations.evidence import audited, plane


def test_runs_stand_beside_what_was_kept_under_their_labels(finished_run, tmp_path):
    kept, out = tmp_path / "kept.json", tmp_path / "plane.png"
    assert audited.main([str(kept), str(finished_run)]) == 0
    other = plane.with_targets(load_results(finished_run))
    points = plane_points(plane.together(plane.audited(kept), {"epsilon 8": other}))
    assert [(point.strategy, point.kind) for point in points] == [("fedkr", "student"), ("fedkr, epsilon 8", "student")]
    assert points[0].row["auc"] == points[1].row["auc"] == 0.53, "the headline attack's"
    assert plane.main([str(out), str(kept), f"epsilon 8={finished_run}"]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")


def test_a_file_without_targets_has_the_usual_ones(finished_run, tmp_path):
    kept = tmp_path / "kept.json"
    audited.main([str(kept), str(finished_run)])
    values = json.loads(kept.read_text())
    del values["runs"][0]["targets"]
    kept.write_text(json.dumps(values))
    assert [point.strategy for point in plane_points(plane.audited(kept))] == ["fedkr"]


def test_a_folder_without_a_run_is_one_line(finished_run, tmp_path, capsys):
    kept = tmp_path / "kept.json"
    audited.main([str(kept), str(finished_run)])
    assert plane.main([str(tmp_path / "out.png"), str(kept), f"x={tmp_path / 'nowhere'}"]) == 2
    assert "nowhere" in capsys.readouterr().err.splitlines()[-1] and not (tmp_path / "out.png").exists()
