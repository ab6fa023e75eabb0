"""``fedkr kr``: one site from overrides to results, continued where it stopped, and its ablation."""

import csv
import dataclasses
import io
import json
import shutil

import pytest

from fedkr.cli import app
from fedkr.data import joined, load_source
from fedkr.data.registry import Source
from fedkr.learning.runtime import Runtime
from fedkr.progress import SilentProgress
from fedkr.recycle.ablation import ABLATION, FULL, USUAL, SingleSite
from server.composition import compose_study
from simulations import single_site

IMAGES = 150
CLASSIFIER = ("arch=resnet8", "width=4", "steps=6", "batch=16")
SMALL = [
    *(f"data.limit={IMAGES}", "device=cpu", "precision=float32"),
    *(f"{name}.{option}" for name in ("teacher", "student") for option in CLASSIFIER),
    *("teacher.evaluations=2", "student.regenerate_every=1"),
    *("generator.steps=6", "generator.batch=8", "generator.checkpoints=2"),
    *("generator.options.width=8", "generator.options.steps_sample=2"),
    *("recycle.search_steps=2", "recycle.search_images=16", "recycle.search_rungs=1", "recycle.tuning_budget=2"),
    *("recycle.views=2", "recycle.refuse_collapsed=false", "recycle.search_tolerance=0"),
]
COSTS = {"seconds", "sampling_seconds", "generator_seconds", "search_seconds"}
JUDGED_BY_TEST = next(variant for variant in ABLATION if variant.judge == "test")


@pytest.fixture(scope="module", autouse=True)
def few_images_choose():
    """Let val choose however few images it has: how the search is run and told is what these tests are about."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedkr.config.protocol.LEAST_TO_CHOOSE", 1)
        yield


def kr(folder, *more):
    assert single_site.main([*SMALL, f"run_dir={folder}", *more]) == 0
    return json.loads((folder / "results.json").read_text())


def without_costs(value):
    if isinstance(value, dict):
        return {name: without_costs(item) for name, item in value.items() if name not in COSTS}
    return [without_costs(item) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A finished run with the rows that every run has: its folder, to be read, and its results."""
    folder = tmp_path_factory.mktemp("kr") / "run"
    return folder, kr(folder)


@pytest.fixture(scope="module")
def ablation(plain, tmp_path_factory):
    """The same run continued with all rows: its folder, its results, and a copy of the folder from before."""
    folder = tmp_path_factory.mktemp("ablation") / "run"
    shutil.copytree(plain[0], folder)
    return folder, kr(folder, single_site.ABLATION_FLAG), plain[0]


def test_a_run_measures_the_real_images_and_the_rows_that_every_run_has(plain):
    results = plain[1]
    assert [row["name"] for row in results["rows"]] == [variant.name for variant in USUAL]
    assert results["images"]["train"] + results["images"]["val"] == IMAGES
    for row in (results["reference"], *results["rows"]):
        assert 0 <= row["accuracy"] <= 1
        assert len(row["recalls"]) == 10


def test_the_ablation_has_a_row_for_each_variant_and_trains_only_what_is_missing(ablation, plain, stages):
    folder, results, before = ablation
    assert [row["name"] for row in results["rows"]] == [variant.name for variant in ABLATION]
    named = {row["name"]: row for row in results["rows"]}
    assert [named[variant.name] for variant in USUAL] == plain[1]["rows"]
    old = {path.name: path.read_bytes() for path in stages(before)}
    new = {path.name: path.read_bytes() for path in stages(folder)}
    assert old.items() < new.items()


def test_a_run_without_the_flag_keeps_what_an_ablation_trained(ablation):
    folder, results, _ = ablation
    assert [row["name"] for row in kr(folder)["rows"]] == [row["name"] for row in results["rows"]]


def test_every_student_has_its_fidelity_to_the_teacher(ablation):
    for row in ablation[1]["rows"]:
        assert set(row["fidelity"]) == {"agreement", "divergence"}
        assert 0 <= row["fidelity"]["agreement"] <= 1
        assert row["fidelity"]["divergence"] > 0


def test_the_ratio_changes_how_many_images_a_set_has(ablation):
    named = {row["name"]: row for row in ablation[1]["rows"]}
    train = ablation[1]["images"]["train"]
    fixed = [variant for variant in ABLATION if not variant.fresh]
    assert {variant.ratio for variant in fixed} > {1.0}
    for variant in fixed:
        assert (named[variant.name]["sets"], named[variant.name]["images"]) == (1, round(variant.ratio * train))


def test_the_same_command_again_trains_nothing_anew(ablation, stages):
    folder, results, _ = ablation
    before = stages(folder)
    again = kr(folder, single_site.ABLATION_FLAG)
    assert stages(folder) == before
    assert again == results


def test_a_run_that_is_interrupted_goes_on_to_the_same_numbers(plain, tmp_path, monkeypatch, stages):
    train, trained = SingleSite._distil, []

    def interrupted(site, variant, pipeline):
        if trained:
            raise KeyboardInterrupt
        trained.append(variant.name)
        return train(site, variant, pipeline)

    with monkeypatch.context() as patched:
        patched.setattr(SingleSite, "_distil", interrupted)
        with pytest.raises(KeyboardInterrupt):
            kr(tmp_path)
    before = stages(tmp_path)
    assert trained == [USUAL[0].name]
    assert not (tmp_path / "results.json").exists()
    whole, continued = plain[1], kr(tmp_path)
    assert before.items() < stages(tmp_path).items()
    for name in ("reference", "rows", "checkpoint", "checkpoints", "knobs", "tuning", "images"):
        assert without_costs(continued[name]) == without_costs(whole[name])


def test_every_candidate_of_the_search_is_a_line_of_the_csv(plain):
    folder, results = plain
    rows = list(csv.DictReader(io.StringIO((folder / "tuning.csv").read_text())))
    assert list(rows[0]) == ["stage", "checkpoint", "knobs", "score", "loss"]
    checkpoints = [row for row in rows if row["stage"] == "checkpoint"]
    assert [int(row["checkpoint"]) for row in checkpoints] == [2, 6]
    best = max(checkpoints, key=lambda row: (float(row["score"]), -float(row["loss"])))
    assert int(best["checkpoint"]) == results["checkpoint"]
    tuning = [row for row in rows if row["stage"] == "tuning"]
    assert [json.loads(row["knobs"]) for row in tuning] == [row["knobs"] for row in results["tuning"]]
    assert {int(row["checkpoint"]) for row in tuning} == {results["checkpoint"]}
    assert len(rows) == len(checkpoints) + len(tuning)


def test_selection_on_test_changes_the_judge_and_nothing_else(tmp_path):
    study = compose_study([*SMALL, "strategy.compare=[local]"])
    source = load_source(study.data)
    # With the test images as the official val split, both judges look at the same images.
    same = Source(joined([source.pool, source.test]), source.test, val=len(source.test))
    runtime = Runtime.choose("cpu", "float32", 1)
    site = SingleSite(study, same, tmp_path, runtime, SilentProgress())
    by_val, by_test = (site.student(variant) for variant in (FULL, JUDGED_BY_TEST))
    assert without_costs({**by_val, "name": ""}) == without_costs({**by_test, "name": ""})
    assert dataclasses.replace(JUDGED_BY_TEST, name=FULL.name, judge="val") == FULL


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.name=digitz", ("data.name='digitz'", "digits")),
        ("generator.options.widht=8", ("widht", "width")),
        ("recycle.metric=f1", ("recycle.metric='f1'",)),
        ("split.val=0", ("split.val=0",)),
        ("run_dir=file/run", ("file/run", "run_dir=")),
    ],
)
def test_what_cannot_be_run_is_one_line_that_names_it(override, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SystemExit) as ended:
        app(["kr", *SMALL, override], prog_name="fedkr")
    errors = capsys.readouterr().err.splitlines()
    assert (ended.value.code, len(errors)) == (2, 1)
    assert all(word in errors[0] for word in ("fedkr: error:", *words))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
