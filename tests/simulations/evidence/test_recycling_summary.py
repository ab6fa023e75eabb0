"""Single-site runs of several datasets and seeds brought together: gaps, their interval, tables and plots."""

import dataclasses
import json
import math

import pytest
from scipy.stats import t as student_t

from fedkr.config import Study
from fedkr.errors import UserError
from fedkr.recycle.ablation import ABLATION, FIXED, FULL, USUAL
from fedkr.report.plots.style import CYCLE
from simulations.evidence.recycling_plot import RATIO_NAME, draw
from simulations.evidence.recycling_summary import main, spread, summarise, tables

REAL = 0.9
TRAIN = 100


def row(variant, accuracy, auc):
    figures = {"accuracy": accuracy, "balanced_accuracy": accuracy, "auc": auc, "recalls": [accuracy, None]}
    costs = {"sets": 2, "images": 200, "sampling_seconds": 4.0, "seconds": 9.0}
    return {"name": variant.name, "step": 10, **figures, **costs}


def finished_run(folder, seed, accuracy, dataset="digits", variants=USUAL, auc=0.95, real=REAL, **changes):
    """Write what a run leaves behind: every variant's accuracy is ``accuracy``, that of real images ``real``."""
    study = dataclasses.asdict(dataclasses.replace(Study(), seed=seed, run_dir=str(folder), **changes))
    study["data"]["name"] = dataset
    scores = [{"step": step, "score": 0.5, "loss": 1.0} for step in (3, 6)]
    results = {
        "study": study,
        "seed": seed,
        "images": {"train": TRAIN, "val": 20, "test": 30},
        "reference": {"name": "real images", "accuracy": real, "auc": auc, "recalls": [1.0, None]},
        "rows": [row(variant, accuracy, auc) for variant in variants],
        "generator_seconds": 50.0,
        "search_seconds": 10.0,
        "checkpoint": 6,
        "knobs": {"steps": 2},
        "checkpoints": scores,
        "tuning": [{"knobs": {"steps": 2}, "score": 0.5, "loss": 1.0}],
        "hardware": {"cores": 2},
        "versions": {"torch": "2"},
    }
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def runs(folder, accuracies, **options):
    return [finished_run(folder / f"{seed}", seed, value, **options) for seed, value in enumerate(accuracies)]


def test_a_gap_is_in_points_and_paired_with_the_real_images_of_its_seed(tmp_path):
    gap = summarise(runs(tmp_path, (0.88, 0.92, 0.84)))["datasets"]["digits"]["rows"][FULL.name]["gap"]
    assert gap["values"] == pytest.approx([-2.0, 2.0, -6.0])
    assert (gap["mean"], gap["sd"]) == (pytest.approx(-2.0), pytest.approx(4.0))


def test_the_mean_gap_has_students_interval_over_seeds_paired_across_datasets(tmp_path):
    found = [*runs(tmp_path / "a", (0.88, 0.92, 0.84)), *runs(tmp_path / "b", (0.9, 0.9, 0.87), dataset="breastmnist")]
    summary = summarise(found)
    gap = summary["mean_gap"]
    # Means over the two datasets: -1, 1 and -4.5 points.
    mean, deviation = -1.5, math.sqrt((0.5**2 + 2.5**2 + 3.0**2) / 2)
    half = student_t.ppf(0.975, 2) * deviation / math.sqrt(3)
    assert [gap["low"], gap["mean"], gap["high"]] == pytest.approx([mean - half, mean, mean + half])
    assert gap["datasets"] == ["breastmnist", "digits"]
    interval = f"(95 % interval over seeds: {mean - half:+.2f} to {mean + half:+.2f})"
    assert f"\nMean gap over breastmnist, digits: -1.50 points {interval}.\n" in tables(summary)


@pytest.mark.parametrize("accuracies", [[(0.88,), (0.9,)], [(0.88, 0.9), (0.9,)]])
def test_one_seed_or_unequal_numbers_of_seeds_leave_no_interval(tmp_path, accuracies):
    found = [
        run
        for name, values in zip(("digits", "breastmnist"), accuracies, strict=True)
        for run in runs(tmp_path / name, values, dataset=name)
    ]
    summary = summarise(found)
    gap = summary["mean_gap"]
    assert gap["mean"] < 0
    assert (gap["low"], gap["high"]) == (None, None)
    assert f"digits: {gap['mean']:+.2f} points (no interval" in tables(summary)


def test_costs_are_shares_of_the_generators_time(tmp_path):
    costs = summarise(runs(tmp_path, (0.88,)))["datasets"]["digits"]["costs"]
    assert costs["generator_seconds"]["mean"] == 50.0
    assert costs["search_share"]["mean"] == pytest.approx(0.2)
    # 4 seconds drew 200 images, so 100 of them, one set, cost 2 of 50.
    assert costs["regeneration_share"]["mean"] == pytest.approx(0.04)


def test_only_rows_that_every_run_has_are_summarised(tmp_path):
    found = [
        finished_run(tmp_path / "a", 0, 0.9, variants=ABLATION),
        finished_run(tmp_path / "b", 1, 0.9, variants=(*USUAL, FIXED)),
    ]
    rows = summarise(found)["datasets"]["digits"]["rows"]
    assert set(rows) == {variant.name for variant in (*USUAL, FIXED)}


def test_the_ablation_compares_the_variants_of_its_own_seeds_only(tmp_path):
    found = [
        finished_run(tmp_path / "a", 4, 0.88, variants=ABLATION),
        finished_run(tmp_path / "b", 5, 0.92, real=0.8),
        finished_run(tmp_path / "broken off", 6, 0.92, variants=ABLATION[:-1], real=0.8),
    ]
    summary = summarise(found)
    digits = summary["datasets"]["digits"]
    assert (digits["seeds"], set(digits["rows"])) == ([4, 5, 6], {variant.name for variant in USUAL})
    assert digits["ablation"]["reference"]["accuracy"]["mean"] == REAL
    assert (digits["ablation"]["seeds"], list(digits["ablation"]["rows"])) == ([4], [v.name for v in ABLATION])
    assert digits["ablation"]["rows"][FULL.name]["accuracy"]["mean"] == 0.88
    assert "### digits, seed 4\n" in tables(summary)


def test_runs_of_one_dataset_with_other_settings_are_refused(tmp_path):
    found = [finished_run(tmp_path / "a", 0, 0.9), finished_run(tmp_path / "b", 1, 0.9, threads=2)]
    with pytest.raises(UserError, match=r"^digits: these runs differ in more than their seed: threads=1 and 2 "):
        summarise(found)


def test_one_seed_given_twice_is_refused(tmp_path):
    found = [finished_run(tmp_path / "a", 3, 0.9), finished_run(tmp_path / "b", 3, 0.8)]
    with pytest.raises(UserError, match=r"^digits: two runs of one seed in \[3, 3\]"):
        summarise(found)


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"reference": {}}'])
def test_a_folder_that_holds_no_finished_run_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match=f"^{tmp_path}: holds no finished run of `fedkr kr`"):
        summarise([tmp_path])


@pytest.mark.parametrize("arguments", [[], ["out"]])
def test_a_command_without_runs_is_answered_with_its_usage(arguments):
    with pytest.raises(UserError, match=r"^usage: python -m simulations\.evidence\.recycling_summary OUT_FOLDER RUN"):
        main(arguments)


def test_the_command_writes_json_a_plot_and_the_tables_that_it_prints(tmp_path, capsys):
    found = [
        *runs(tmp_path / "a", (0.88, 0.92), variants=ABLATION),
        *runs(tmp_path / "b", (0.9, 0.87), dataset="breastmnist"),
    ]
    main([str(tmp_path / "out"), *map(str, found)])
    printed = capsys.readouterr().out
    assert (tmp_path / "out" / "kr_tables.md").read_text() == printed
    assert (tmp_path / "out" / "kr.png").read_bytes().startswith(b"\x89PNG")
    kept = json.loads((tmp_path / "out" / "kr.json").read_text())
    assert kept["datasets"]["digits"]["seeds"] == [0, 1]
    assert "| digits | 100 | 90.00 ± 0.00 | 90.00 ± 2.83 | +0.00 ± 2.83 |" in printed


def test_more_datasets_than_colours_are_drawn(tmp_path):
    found = [
        run
        for number in range(len(CYCLE) + 1)
        for run in runs(tmp_path / f"{number}", (0.9,), dataset=f"set {number}", variants=ABLATION)
    ]
    assert draw(summarise(found)).startswith(b"\x89PNG")


def test_only_a_dataset_with_an_ablation_gets_a_table_of_its_variants(tmp_path):
    found = [
        *runs(tmp_path / "a", (0.88,), variants=ABLATION),
        *runs(tmp_path / "b", (0.9,), dataset="breastmnist"),
    ]
    text = tables(summarise(found))
    assert "### digits" in text
    assert "### breastmnist" not in text
    assert [line.split(" |")[0] for line in text.splitlines() if RATIO_NAME in line] == [
        f"| {variant.name}" for variant in ABLATION if variant.name.startswith(RATIO_NAME)
    ]


def test_a_figure_that_no_run_has_is_a_dash_and_one_run_has_no_deviation(tmp_path):
    summary = summarise(runs(tmp_path, (0.88,), auc=None))
    assert "| 88.00 | -2.00 |" in tables(summary)
    assert "| - | - |" in tables(summary)
    assert spread([None, None]) == {"mean": None, "sd": None, "values": [None, None]}
