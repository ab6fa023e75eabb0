"""The sweep of variants: what each asks for, what is trained for it, and what is found where a mark is left."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from fedkr.audit.references.direct import balanced_membership
from fedkr.errors import UserError
from fedkr.recycle.distill import distill_student
from fedkr.report.plots.style import series_style
from fedkr.stages import Artifact, read_artifact, write_artifact
from server.composition import compose_study
from simulations.evidence.privacy import bench as benches
from simulations.evidence.privacy import figures
from simulations.evidence.privacy import sizes as sizes_module
from simulations.evidence.privacy.answers import MODELS, SETS, answers_path, bench_path
from simulations.evidence.privacy.bench import Settings, bench_of
from simulations.evidence.privacy.command import main
from simulations.evidence.privacy.figures import (
    RARE,
    Figure,
    Left,
    Resamples,
    Subject,
    attack_figures,
    figures_of,
    guessing_aucs,
    of_rare_classes,
)
from simulations.evidence.privacy.picture import plane
from simulations.evidence.privacy.schedule import ANSWERS, GENERATOR, RELEASE, TEACHER, Task, do, plan
from simulations.evidence.privacy.summary import write_summary
from simulations.evidence.privacy.variants import USUAL, read_variant

PIPELINES, IMAGES, CLASSES = 6, 120, 3
TINY = (
    *("generator.steps=2", "generator.options.width=8", "generator.options.steps_sample=1"),
    *("teacher.steps=2", "student.steps=2", "recycle.rounds=1", "recycle.views=1", "recycle.ratio=0.3"),
)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setitem(benches.SIZES, "digits", (120, 20))
    folders = {"stages": str(tmp_path / "stages"), "out": str(tmp_path)}
    yield Settings("digits", "", 0, 4, 0, "cpu", "float32", TINY, **folders)
    bench_of.cache_clear()


def subject():
    rng = np.random.default_rng(0)
    membership = balanced_membership(PIPELINES, IMAGES, rng)
    surroundings = np.stack([rng.normal(size=IMAGES), np.ones(IMAGES)], axis=1)
    return Subject(membership, surroundings, *(rng.integers(0, CLASSES, n) for n in (IMAGES, 80, 90)))


def left(of, mark):
    """What pipelines leave whose releases lie nearer to what they trained on, by ``mark``, and whose models do not."""
    rng = np.random.default_rng(1)
    signals = rng.normal(0, 3, (IMAGES, 3)) + rng.normal(size=(PIPELINES, IMAGES, 3))
    signals[:, :, 0] += mark * of.membership
    sizes = {"pool": IMAGES, "population": len(of.population), "test": len(of.test)}
    logits = {
        f"{model}.{part}": rng.normal(size=(PIPELINES, sizes[part], CLASSES)).astype(np.float32)
        for model in MODELS
        for part in SETS
    }
    return Left(signals, signals[:, :, 0], logits)


def test_a_variants_name_says_what_differs_from_the_default():
    assert dataclasses.astuple(read_variant("default")) == ("default", {}, {}, 0)
    found = read_variant("augment0.12+steps1.5+slices2+hard")
    assert found.sets == {"generator.options.augment": 0.12, "recycle.rounds": 2}
    assert (found.times, found.classes) == ({"generator.steps": 1.5}, 1)
    assert all(read_variant(name).name == name for name in USUAL)
    rare = read_variant("scaled+power0.5+guidance2").sets
    assert rare == {
        "generator.options.scale_shift": True,
        "generator.options.class_power": 0.5,
        "generator.options.guidance": 2.0,
    }


@pytest.mark.parametrize("name", ["agument0.1", "hard+", "slices1.5", "augment", "steps..", "augment0.1,hard", "dp"])
def test_an_unknown_knob_is_refused(name):
    with pytest.raises(UserError, match="variants="):
        read_variant(name)


def test_variants_change_what_they_name_and_share_halves_and_what_they_do_not_change(settings):
    bench, names = bench_of(settings), ("default", "hard", "augment0.1+steps2", "augment0.1+steps2+slices2")
    default, hard, augmented, both = (bench.study(read_variant(name)) for name in names)
    assert default == hard and bench.pipeline(read_variant("hard"), 0).terms.classes == 1
    assert augmented.generator.steps == 2 * default.generator.steps == 4
    assert both.recycle.rounds == 2 and both.generator == augmented.generator
    tasks = plan(bench, [read_variant(name) for name in names])
    kinds = [task.kind for task, _ in tasks.values()]
    counted = {kind: kinds.count(kind) for kind in (TEACHER, GENERATOR, RELEASE, ANSWERS)}
    # Four pipelines and two other sites: one teacher each, two generators, and all four variants' releases.
    assert counted == {TEACHER: 6, GENERATOR: 12, RELEASE: 24, ANSWERS: 16}
    _, needs = tasks["answers hard 1"]
    assert needs == {"release hard 1", "release hard 4", "release hard 5"}
    assert tasks["release hard 1"][1] == {"teacher default 1", "generator default 1"}
    assert all(needed in tasks for _, needs in tasks.values() for needed in needs)


def test_halves_are_of_the_pool_and_other_sites_have_none_of_it(settings):
    bench = bench_of(settings)
    assert (bench.membership.sum(0) == 2).all() and len(bench.train_of(0)) == bench.membership[0].sum()
    parts = [bench.pool, *bench.peers, bench.val, bench.population]
    images = [{image.tobytes() for image in part.images} for part in parts]
    assert [len(part) for part in parts[:4]] == [120, 60, 60, 20]
    assert not any(images[0] & other for other in images[1:])


def test_other_sizes_have_their_own_images_and_schedules(settings):
    sized = dataclasses.replace(settings, members=40, options=())
    bench, larger = bench_of(sized), bench_of(dataclasses.replace(sized, members=300))
    assert len(bench.pool) == 80 and [len(peer) for peer in bench.peers] == [40, 40]
    assert len(bench.train_of(0)) == bench.membership[0].sum() and 30 < len(bench.train_of(0)) < 50
    assert bench.base.generator.steps < larger.base.generator.steps
    assert bench.base.teacher.steps < larger.base.teacher.steps
    assert bench.identity(read_variant("default")) != larger.identity(read_variant("default"))


def test_more_images_than_a_dataset_has_are_refused(settings):
    with pytest.raises(UserError, match=r"members=500: digits has images for \d+ at most"):
        bench_of(dataclasses.replace(settings, members=500))


def test_a_pool_may_have_a_long_tail(settings):
    bench = bench_of(dataclasses.replace(settings, members=60, tail=10.0))
    classes = np.bincount(bench.pool.labels)
    assert (np.diff(classes) <= 1).all() and 6 < classes[0] / classes[-1] < 15
    parts = (bench.pool, *bench.peers, bench.val, bench.population)
    images = [{image.tobytes() for image in part.images} for part in parts]
    assert sum(map(len, images)) == len(set.union(*images))
    with pytest.raises(UserError, match=r"members=300: .* at most with tail=10"):
        bench_of(dataclasses.replace(settings, members=300, tail=10.0))


def test_images_of_rare_classes_are_attacked_apart(monkeypatch):
    labels = np.repeat([0, 1, 2], [2 * RARE, 2 * RARE - 1, 2 * RARE + 1])
    of = dataclasses.replace(subject(), labels=labels)
    rare = of_rare_classes(labels)
    assert (rare == (labels == 1)).all()
    unmarked, marked = left(of, 0.0), left(of, 3.0)
    of_rare = dataclasses.replace(unmarked, signals=np.where(rare[:, None], marked.signals, unmarked.signals))
    assert "release_rare_auc" not in figures_of(of_rare, of, Resamples(of))
    monkeypatch.setattr(figures, "LEAST_OF_RARE", 30)
    found = figures_of(of_rare, of, Resamples(of))
    assert found["release_auc"].value < 0.8 and found["release_rare_auc"].value > 0.9
    # What is done of a sweep changes nothing of who is rare.
    some = of.of(range(PIPELINES - 1))
    answered = Left(of_rare.signals[:-1], of_rare.nearest[:-1], {k: v[:-1] for k, v in of_rare.logits.items()})
    assert figures_of(answered, some, Resamples(some)).keys() == found.keys()
    assert of_rare_classes(np.zeros(2 * RARE, int)).sum() == 0


def test_a_variant_with_a_guarantee_is_that_of_the_product(settings):
    bench, variant = bench_of(settings), read_variant("dp4+slices2")
    study = bench.study(variant)
    assert study.privacy.guaranteed and (study.privacy.epsilon, study.recycle.rounds) == (4.0, 2)
    assert study.student == dataclasses.replace(compose_study(["dataset=digits", "privacy=dp"]).student, steps=2)
    do(settings, Task(RELEASE, variant, 0))
    (release,) = bench.pipeline(variant, 0).releases(None)
    assert release.manifest["privacy"]["epsilon"] == 4.0 and set(np.unique(release.soft_labels)) == {0.0, 1.0}
    plain, other = (bench.study(read_variant(name)) for name in ("moments", "dp8"))
    assert not plain.privacy.guaranteed and plain.generator == other.generator
    kinds = [task.kind for task, _ in plan(bench, [read_variant("moments"), read_variant("dp8")]).values()]
    assert kinds.count(GENERATOR) == 12


def test_a_pipelines_answers_are_kept_once_and_done_again_for_other_settings(settings):
    variant = read_variant("hard")
    do(settings, Task(ANSWERS, variant, 0))
    found = read_artifact(answers_path(benches.Path(settings.out), "hard", 0))
    assert found.tensors["student.test"].shape == (359, 10) and found.tensors["signals"].shape == (120, 3)
    assert found.info["released"] == round(0.3 * len(bench_of(settings).train_of(0)))
    assert "answers hard 0" not in plan(bench_of(settings), [variant])
    other = dataclasses.replace(settings, options=(*TINY, "student.lr=0.05"))
    assert "answers hard 0" in plan(bench_of(other), [variant])


def test_a_student_of_all_sites_takes_the_steps_of_each(settings, monkeypatch):
    trained = {}

    def distill(config, sets, job, name):
        trained[name] = config.steps, len(sets(0)[0])
        return distill_student(config, sets, job, name)

    monkeypatch.setattr("simulations.evidence.privacy.answers.distill_student", distill)
    do(settings, Task(ANSWERS, read_variant("hard"), 0))
    assert (trained["student"][0], trained["union"][0]) == (2, 6)
    assert trained["union"][1] > 2.5 * trained["student"][1]


def test_a_mark_in_a_release_is_found_there_and_nowhere_else():
    of = subject()
    drawn = Resamples(of, 200)
    marked, clean = (figures_of(left(of, mark), of, drawn) for mark in (2.0, 0.0))
    assert marked["statistic_auc"].value > clean["statistic_auc"].interval[1]
    assert marked["release_auc"].interval[0] > 0.75 and marked["fused_auc"].value > 0.7
    for name in ("release_features_auc", "student_auc", "union_auc", "teacher_auc"):
        low, high = marked[name].interval
        assert low < 0.5 < high
    difference, p_value = marked["release_auc"].less(clean["release_auc"])
    assert difference.interval[0] > 0.1 and p_value < 1e-4
    assert marked["student_auc"].less(clean["student_auc"])[1] == 1.0
    assert marked["student_accuracy"].value == pytest.approx(1 / CLASSES, abs=0.1)
    assert guessing_aucs(of)["mean"] == pytest.approx(0.5, abs=0.02)


def test_a_variant_is_attacked_by_pipelines_of_another():
    of = subject()
    drawn, marked = Resamples(of, 200), left(of, 2.0)
    own = attack_figures(marked, of, drawn, marked)
    assert own["release_auc"].value == figures_of(marked, of, drawn)["release_auc"].value
    # Signals of other images, as if these pipelines had learnt nothing of how each image lies by itself.
    strange = dataclasses.replace(marked, signals=marked.signals[:, ::-1])
    found = attack_figures(marked, of, drawn, strange)
    difference, p_value = found["release_auc"].less(own["release_auc"])
    assert difference.interval[1] < -0.05 and p_value < 0.01
    assert found["student_auc"].value == own["student_auc"].value and "student_accuracy" not in found


def test_an_interval_is_over_pipelines_as_well_as_images():
    of = subject()
    drawn = Resamples(of, 500)
    apart, alike = np.repeat([0.5, 0.9], PIPELINES // 2), np.full(PIPELINES, 0.7)
    wide, narrow = (drawn.over_pipelines(once, np.tile(once, (500, 1))).interval for once in (apart, alike))
    assert wide[1] - wide[0] > 0.2 and narrow[1] - narrow[0] == pytest.approx(0)
    assert isinstance(drawn.over_pipelines(alike, np.tile(alike, (500, 1))), Figure)


def test_what_is_there_is_summarised_and_what_is_unfinished_is_told(tmp_path):
    of = subject()
    names = ("surroundings", "labels.pool", "labels.population", "labels.test")
    labels = zip(names, (of.surroundings, of.labels, of.population, of.test), strict=True)
    tensors = {"membership": torch.from_numpy(of.membership)} | {n: torch.from_numpy(a) for n, a in labels}
    write_artifact(
        bench_path(tmp_path),
        Artifact(tensors, {"dataset": "digits", "pipelines": 6, "counts": {"pool": 120}, "shared": "this sweep"}),
    )
    for name, mark, count in (("default", 2.0, 6), ("hard", 0.0, 5), ("slices1", 0.0, 3)):
        all_left = left(of, mark)
        for number in range(count):
            arrays = {"signals": all_left.signals, "nearest": all_left.nearest, **all_left.logits}
            seconds = {"generator": 1.0, "student": 2.0}
            info = {"pipeline": number, "identity": name, "shared": "this sweep", "released": 9}
            info |= {"seconds": seconds, "device": {}}
            kept = Artifact({key: torch.from_numpy(value[number].copy()) for key, value in arrays.items()}, info)
            write_artifact(answers_path(tmp_path, name, number), kept)
    text = write_summary(tmp_path)
    found = json.loads((tmp_path / "privacy.json").read_text())
    assert [row["name"] for row in found["variants"]] == ["default", "hard"]
    assert found["unfinished"] == {"slices1": 3} and "Unfinished: slices1 (3 pipelines)" in text
    assert found["variants"][1]["figures"]["release_auc"]["significant"]
    assert not found["variants"][1]["figures"]["student_auc"]["significant"]
    assert found["variants"][0]["as_references"] == {} and "the default attacked by" in text
    difference = found["variants"][1]["as_references"]["student_auc"]["difference"]
    assert difference["value"] == 0 and found["variants"][1]["as_references"]["release_auc"]["value"] > 0.6
    (legend,) = plane(found).legends
    assert [label.get_text() for label in legend.get_texts()] == ["default", "hard"]
    colours = [to_hex(handle.get_color()[0]) for handle in legend.legend_handles]
    assert colours == [series_style(index)["color"].lower() for index in range(2)]
    assert "| hard (5 pipelines) |" in text and (tmp_path / "privacy.png").read_bytes().startswith(b"\x89PNG")
    stale = read_artifact(answers_path(tmp_path, "hard", 0))
    write_artifact(
        answers_path(tmp_path, "hard", 0), Artifact(stale.tensors, stale.info | {"shared": "an earlier one"})
    )
    with pytest.raises(UserError, match="hard: answers of different code, options or images"):
        write_summary(tmp_path)


def test_few_pipelines_are_told_apart_as_seldom_as_the_level_says():
    rng, of = np.random.default_rng(3), subject()
    drawn, count = Resamples(of, 300), 400
    nobody = Figure(0.0, np.zeros(300), PIPELINES)
    values = rng.normal(size=(count, PIPELINES))
    p_values = [drawn.over_pipelines(one, np.tile(one, (300, 1))).less(nobody)[1] for one in values]
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.08


@pytest.mark.parametrize(
    "words", [[], ["out=x", "pipelines=5"], ["out=x", "variant=default"], ["out=x", "seed=-1"], ["out=x", "tail=0"]]
)
def test_a_wrong_word_is_one_line(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        main(words)


def test_a_folder_without_answers_is_told(tmp_path):
    with pytest.raises(UserError, match="no answers"):
        main([f"out={tmp_path}", "summary"])


def test_sizes_are_drawn_by_the_images_of_a_class(tmp_path):
    def sweep(dataset, pool, auc):
        figures = {name: {"value": auc, "low": auc - 0.1, "high": auc + 0.1} for _, name in sizes_module.PANELS}
        return {"dataset": dataset, "counts": {"pool": pool}, "variants": [{"name": "default", "figures": figures}]}

    sweeps = [sweep("digits", 600, 0.7), sweep("digits", 300, 0.8), sweep("pneumoniamnist", 2400, 0.55)]
    assert [sizes_module.per_class(each) for each in sweeps] == [30, 15, 600]
    axes = sizes_module.sizes(sweeps).axes
    assert [ax.get_title(loc="left") for ax in axes] == [title for title, _ in sizes_module.PANELS]
    digits = axes[0].containers[0]
    assert digits.get_label() == "digits" and digits[0].get_xdata().tolist() == [15, 30]
    files = [tmp_path / f"{index}.json" for index in range(len(sweeps))]
    for file, each in zip(files, sweeps, strict=True):
        file.write_text(json.dumps(each))
    assert sizes_module.main([str(tmp_path / "out.png"), *map(str, files)]) == 0
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
