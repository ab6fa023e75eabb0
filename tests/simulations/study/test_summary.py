"""Seeds of one study, summarised."""

import dataclasses
import json

import numpy as np
import pytest
import scipy

from fedkr.config import Study
from fedkr.data.identity import DIGITS, PARTS
from fedkr.errors import UserError
from simulations.study.summary import as_csv, lost_sites, mixed, summarise, warned


def finished_run(folder, seed, accuracy, auc=0.5, missing=(), told=(), **changes):
    study = dataclasses.asdict(dataclasses.replace(Study(), seed=seed, run_dir=str(folder), **changes))
    row = {"target": "student", "site": "site-0", "attack": "loss", "headline": 1, "auc": auc}
    results = {
        "study": study,
        "seed": seed,
        "strategies": [{"name": "fedkr", "accuracy": accuracy, "auc": None}],
        "missing_sites": list(missing),
        "data": {"warnings": list(told), "leaks": None},
        "audit": [row, {**row, "headline": 0, "auc": 0.99}],
    }
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_mean_and_deviation_are_over_seeds(tmp_path):
    runs = [finished_run(tmp_path / str(seed), seed, value) for seed, value in enumerate((0.9, 0.92, 0.97))]
    accuracy = summarise(runs)["strategies"]["fedkr"]["accuracy"]
    assert accuracy["values"] == [0.9, 0.92, 0.97]
    assert accuracy["mean"] == pytest.approx(0.93)
    assert accuracy["sd"] == pytest.approx(0.0360555, abs=1e-6)


def test_only_the_headline_attack_is_summarised_and_its_worst_site_named(tmp_path):
    runs = [finished_run(tmp_path / str(seed), seed, 0.9, auc) for seed, auc in enumerate((0.5, 0.6))]
    assert summarise(runs)["audit"]["student"]["worst"] == 0.6
    assert summarise(runs)["audit"]["student"]["mean"] == pytest.approx(0.55)


def test_an_audits_deviation_is_over_seeds_and_not_over_the_sites_of_one(tmp_path):
    runs = [finished_run(tmp_path / str(seed), seed, 0.9, 0.5) for seed in (0, 1)]
    for run in runs:
        results = json.loads((run / "results.json").read_text())
        results["audit"].append({**results["audit"][0], "site": "site-1", "auc": 0.7})
        (run / "results.json").write_text(json.dumps(results))
    student = summarise(runs)["audit"]["student"]
    assert (student["values"], student["sd"], student["sites"]) == ([pytest.approx(0.6)] * 2, 0, [2, 2])
    assert student["by_site"] == [{"site-0": 0.5, "site-1": 0.7}] * 2 and student["worst"] == 0.7


def test_seeds_of_other_code_or_machines_are_told(tmp_path):
    runs = [finished_run(tmp_path / str(seed), seed, 0.9) for seed in (0, 1)]
    assert mixed(summarise(runs)) == []
    results = json.loads((runs[1] / "results.json").read_text())
    (runs[1] / "results.json").write_text(json.dumps(results | {"versions": {"torch": "2.6.0"}, "backend": "ray"}))
    found = summarise(runs)
    assert found["versions"] == [None, {"torch": "2.6.0"}]
    assert [line.partition(",")[0] for line in mixed(found)] == [
        "these seeds differ in backend",
        "these seeds differ in versions",
    ]


def test_a_figure_that_one_seed_lacks_has_no_mean(tmp_path):
    runs = [finished_run(tmp_path / "a", 0, 0.9), finished_run(tmp_path / "b", 1, None)]
    assert summarise(runs)["strategies"]["fedkr"]["accuracy"]["mean"] is None


def test_runs_of_different_studies_are_refused(tmp_path):
    runs = [finished_run(tmp_path / "a", 0, 0.9), finished_run(tmp_path / "b", 1, 0.9, threads=2)]
    with pytest.raises(UserError, match=r"differ in more than their seed: threads=1 and 2 \(seeds 0 and 1\)"):
        summarise(runs)


def test_one_seed_given_twice_is_refused(tmp_path):
    runs = [finished_run(tmp_path / "a", 3, 0.9), finished_run(tmp_path / "b", 3, 0.8)]
    with pytest.raises(UserError, match=r"two runs of one seed in \[3, 3\]"):
        summarise(runs)


def test_no_folder_of_this_machine_is_in_the_summary(tmp_path):
    found = summarise([finished_run(tmp_path / "a", 0, 0.9)])
    assert str(tmp_path) not in json.dumps(found)
    assert "root" not in found["study"]["data"]


def test_a_lost_site_is_told_beside_the_means(tmp_path):
    runs = [finished_run(tmp_path / "a", 0, 0.9), finished_run(tmp_path / "b", 1, 0.8, missing=["site-2: died"])]
    summary = summarise(runs)
    assert summary["missing_sites"] == [[], ["site-2: died"]]
    assert lost_sites(summary) == ["seed 1 is without site-2: died"]


def test_what_is_wrong_with_the_data_is_told_once_with_its_seeds(tmp_path):
    told = (["a leak"], ["a leak", "classes left out"], [])
    summary = summarise([finished_run(tmp_path / str(seed), seed, 0.9, told=lines) for seed, lines in enumerate(told)])
    assert summary["data_warnings"] == list(map(list, told))
    assert warned(summary) == ["seed 0, 1: a leak", "seed 1: classes left out"]


def test_seeds_that_ran_on_other_data_are_refused_with_what_differs(tmp_path):
    same, other = "0" * DIGITS * len(PARTS), "0" * DIGITS * (len(PARTS) - 1) + "1" * DIGITS
    runs = [finished_run(tmp_path / d[-1], int(d[-1]), 0.9, data_digest=d) for d in (same, other)]
    with pytest.raises(UserError, match="seed 1 ran on other data than seed 0: patients of the test set differ"):
        summarise(runs)


def test_each_figure_says_of_how_many_sites_it_is(tmp_path):
    runs = [finished_run(tmp_path / "a", 0, 0.9), finished_run(tmp_path / "b", 1, 0.8, missing=["site-2: died"])]
    summary = summarise(runs)
    assert summary["strategies"]["fedkr"]["sites"]["values"] == [3, 2]
    assert summary["audit"]["student"]["sites"] == [1, 1]
    assert "fedkr,sites,2.5,0.7071067811865476,,,3,2" in as_csv(summary).splitlines()


def test_a_strategy_that_one_seed_lacks_has_no_mean_and_no_sites_there(tmp_path):
    runs = [finished_run(tmp_path / str(seed), seed, 0.9) for seed in (0, 1)]
    results = json.loads((runs[1] / "results.json").read_text())
    (runs[1] / "results.json").write_text(json.dumps(results | {"strategies": []}))
    figures = summarise(runs)["strategies"]["fedkr"]
    assert (figures["accuracy"]["mean"], figures["accuracy"]["values"]) == (None, [0.9, None])
    assert figures["sites"]["values"] == [3, 0]


def test_an_unfinished_run_is_named(tmp_path):
    with pytest.raises(UserError, match=r"results\.json"):
        summarise([tmp_path])


def test_csv_has_one_line_for_each_figure_and_a_column_for_each_seed(tmp_path):
    runs = [finished_run(tmp_path / str(seed), seed, 0.5) for seed in (3, 7)]
    lines = as_csv(summarise(runs)).splitlines()
    assert lines[0] == "strategy,figure,mean,sd,low,high,seed3,seed7"
    assert lines[1] == "fedkr,accuracy,0.5,0.0,,,0.5,0.5"


def test_a_score_has_its_t_interval_over_seeds_and_none_for_one_seed(tmp_path):
    values = (0.6, 0.62, 0.67, 0.63)
    runs = [finished_run(tmp_path / str(seed), seed, value) for seed, value in enumerate(values)]
    accuracy = summarise(runs)["strategies"]["fedkr"]["accuracy"]
    expected = scipy.stats.t.interval(0.95, 3, np.mean(values), scipy.stats.sem(values))
    assert (accuracy["low"], accuracy["high"]) == pytest.approx(expected)
    alone = summarise(runs[:1])["strategies"]["fedkr"]["accuracy"]
    assert (alone["low"], alone["high"]) == (None, None)


def test_what_a_seed_does_to_all_strategies_cancels_out_of_their_difference(tmp_path):
    runs = [finished_run(tmp_path / str(seed), seed, value) for seed, value in enumerate((0.6, 0.9))]
    for run, other in zip(runs, (0.5, 0.81), strict=True):
        results = json.loads((run / "results.json").read_text())
        results["strategies"].append({"name": "fedavg", "accuracy": other})
        (run / "results.json").write_text(json.dumps(results))
    found = summarise(runs)
    difference = found["differences"]["fedavg"]["accuracy"]
    assert difference["values"] == pytest.approx([0.1, 0.09]) and 0 < difference["low"] < 0.095 < difference["high"]
    assert found["strategies"]["fedkr"]["accuracy"]["low"] == 0
    assert any(line.startswith("fedkr less fedavg,accuracy,0.09") for line in as_csv(found).splitlines())
