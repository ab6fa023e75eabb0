"""What whole audits found, brought together over seeds."""

import json

from simulations.evidence.audited import main


def a_run(folder, finished_run, seed, auc):
    results = json.loads((finished_run / "results.json").read_text()) | {"seed": seed}
    results["study"] = results["study"] | {"seed": seed}
    for row in results["audit"]:
        row |= {"auc": auc, "references": "direct"}
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(results))
    return str(folder)


def test_each_seed_has_its_column_and_every_row_but_its_curve_is_kept(finished_run, tmp_path, capsys):
    runs = [a_run(tmp_path / f"run-{seed}", finished_run, seed, auc) for seed, auc in ((3, 0.6), (4, 0.7))]
    assert main([str(tmp_path / "out.json"), *runs]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "AUC, seed 3 | AUC, seed 4" in printed[0]
    student = next(line for line in printed if line.startswith("| FedKR student"))
    assert "0.600 [" in student and "0.700 [" in student and student.endswith("| 0 / 2 / 0 |")
    kept = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert [(run["seed"], run["audit"]["auc"]) for run in kept] == [(3, [0.6] * 4), (4, [0.7] * 4)]
    assert "roc" not in kept[0]["audit"]


def test_runs_of_one_seed_are_one_line(finished_run, tmp_path, capsys):
    runs = [a_run(tmp_path / name, finished_run, 3, 0.6) for name in ("one", "two")]
    assert main([str(tmp_path / "out.json"), *runs]) == 1
    assert capsys.readouterr().err.startswith("two runs of one seed")
