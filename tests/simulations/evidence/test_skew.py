"""Cuts of development sets, ways to a student, and what their rows say."""

import json

import numpy as np
import pytest
import torch

from fedkr.data import ImageSet, load_source, partition_sites, prepare_site
from fedkr.disk import write_json
from fedkr.errors import UserError
from fedkr.learning.evaluation import Utility
from server.targets import FIGURES
from simulations.evidence.skew import opponents, summary
from simulations.evidence.skew.cuts import CUTS, Cut
from simulations.evidence.skew.federation import Federation, study_of
from simulations.evidence.skew.labels import KNOWN, LABELS
from simulations.evidence.skew.recognised import by_number, judge_of, recognised
from simulations.evidence.skew.recognised import main as recognised_main
from simulations.evidence.skew.rows import Request
from simulations.evidence.skew.summary import (
    against,
    against_the_usual,
    by_generator,
    by_seed,
    check,
    chosen_without,
    differences,
    leave_one_set_out,
)
from simulations.evidence.skew.ways import WAYS, Draw, Way


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """Return five sites of few digits whose classifiers train for two steps."""
    found = Federation(
        "digits-60", study_of("digits-60", 0, "nowhere", "quick"), False, tmp_path_factory.mktemp("none")
    )
    found.study.teacher.steps = found.study.student.steps = 2
    return found


def pool(count=400, classes=4):
    rng = np.random.default_rng(0)
    names = tuple(map(str, range(classes)))
    return ImageSet(rng.integers(0, 256, (count, 4, 4, 1), dtype=np.uint8), np.arange(count) % classes, names)


def test_a_tail_falls_from_the_first_class_to_the_last():
    assert Cut("any", tail=50).of(pool(), 0).class_counts().tolist() == [100, 27, 7, 2]


def test_noise_gives_so_many_labels_to_other_classes_and_leaves_images_alone():
    cut = Cut("any", noise=0.25).of(pool(), 0)
    np.testing.assert_array_equal(cut.images, pool().images)
    wrong = (cut.labels != pool().labels).mean()
    assert abs(wrong - 0.25) < 0.07 and set(cut.labels) == {0, 1, 2, 3}
    assert len(Cut("any", images=60).of(pool(), 0)) == 60


def test_labels_trust_the_teacher_as_far_as_it_met_the_class(federation):
    site = federation.sites[0]
    asked, soft = site.drawn(Draw())[0], site.soft_labels("plain", Draw())
    known = LABELS["known"](federation, Way())[site.name]
    rare = int(np.argmin(np.where(site.counts > 1, site.counts, np.inf)))
    share = site.counts[rare] / (site.counts[rare] + KNOWN)
    np.testing.assert_allclose(known[asked == rare, rare], share * soft[asked == rare, rare] + 1 - share, rtol=1e-5)
    assert len(asked) == federation.study.recycle.rounds * len(site.data.train)


def test_the_union_gives_labels_of_adjusted_teachers_the_shares_of_all_sites(federation):
    released = LABELS["released"](federation, Way())
    found = LABELS["union"](federation, Way())
    shares = np.sum([site.counts for site in federation.sites], axis=0) + 1.0
    odds = [labels["site-0"][:, 0] / labels["site-0"][:, 1] for labels in (found, released)]
    np.testing.assert_allclose(odds[0], odds[1] * shares[0] / shares[1], rtol=0.02)


def test_a_class_of_few_images_is_not_drawn_where_others_have_enough(federation):
    site = federation.sites[0]
    least = int(np.sort(site.counts)[-2])
    asked = site.drawn(Draw(least=least))[0]
    assert set(asked) == set(np.flatnonzero(site.counts >= least))
    assert len(asked) == len(site.drawn(Draw())[0])
    assert set(site.drawn(Draw(least=10**6))[0]) == set(np.flatnonzero(site.counts == site.counts.max()))


def test_students_of_other_seeds_are_averaged_where_a_way_has_several(federation, monkeypatch):
    said = iter(np.log([[0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])[:, None, :])
    monkeypatch.setattr("simulations.evidence.skew.federation.predict", lambda *given: next(said))
    seeds = []
    monkeypatch.setattr(
        "simulations.evidence.skew.federation.train_student", lambda *given: seeds.append(given[2].seed)
    )
    seen = []
    monkeypatch.setattr(
        "simulations.evidence.skew.federation.measure_utility",
        lambda logits, labels, classes: seen.append(logits) or Utility(0.5, 0.5, 0.5, 0.5, [1], 1),
    )
    federation.figures(Way(students=3), LABELS["released"](federation, Way()))
    np.testing.assert_allclose(np.exp(seen[0]), [[1.7, 1.3]], rtol=1e-6)
    assert len(set(seeds)) == 3 and seeds[0][-1] == "student", "the first is the student of every other way"


def test_a_draw_that_doubts_asks_the_plain_teacher(federation, monkeypatch):
    site, told = federation.sites[0], []
    monkeypatch.setattr(site, "_drawn", {})
    monkeypatch.setattr(site, "_drawers", {})
    usual = site.generator.sample
    monkeypatch.setattr(site.generator, "firmer_knobs", lambda knobs: knobs | {"firm": 1.0}, raising=False)
    monkeypatch.setattr(site.generator, "sample", lambda *given: told.append(given[1]) or usual(*given))
    # Whatever the teacher is shown, it is of the class that the site has least of.
    rare = torch.eye(len(site.counts))[int(site.counts.argmin())]
    monkeypatch.setattr(site, "plain", lambda inputs: rare.repeat(len(inputs), 1))
    site.drawn(Draw(doubt=0.5))
    assert told[:3] == [{}, {"firm": 1.0}, {"firm": 1.0}]
    told.clear()
    site.drawn(Draw(balance="tempered"))
    assert told == [{}]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_ends_in_a_student(federation, way):
    labels = LABELS[WAYS[way].labels](federation, WAYS[way])
    assert all(0 <= federation.figures(WAYS[way], labels)[name] <= 1 for name in FIGURES)


def row(cut, way, balanced, seed=0):
    of = {"digits": "digits-0.1", "breastmnist": "breast-0.5", "bloodmnist": "blood-0.5"}
    known = {cut: name for name, cut in of.items()}
    return {"cut": cut, "set": known[cut], "seed": seed, "way": way, "accuracy": 0.9, "auc": 0.9} | {
        "balanced_accuracy": balanced
    }


def test_differences_are_paired_and_a_way_is_chosen_without_the_set_that_it_is_scored_on(tmp_path, capsys):
    gains = {"digits-0.1": (0.0, 0.3), "breast-0.5": (0.1, 0.0), "blood-0.5": (0.1, 0.0)}
    rows = [
        row(cut, way, 0.5 + 0.1 * seed + gain, seed)
        for cut, by_way in gains.items()
        for way, gain in zip(("default", "first", "second"), (0.0, *by_way), strict=True)
        for seed in (0, 1)
    ]
    found = differences(rows)["second"]["digits-0.1"]
    assert [own["balanced_accuracy"] for own in found.values()] == pytest.approx([0.3, 0.3]), "whatever the seed"
    lines = leave_one_set_out(rows).splitlines()[2:]
    assert [line.split(" | ")[1] for line in lines[:3]] == ["first", "second", "second"]
    assert [line.split(" | ")[3] for line in lines] == ["+0.0", "+0.0", "+0.0", "+0.0 (+0.0 to +0.0)"]
    assert "+10.0 (-33.0 to +53.0)" in next(line for line in against(rows).splitlines() if "second" in line)
    (tmp_path / "rows.json").write_text(json.dumps({"rows": rows}))
    assert summary.main([str(tmp_path / "rows.json")]) == 0
    assert "| digits-0.1 | 2 | 55.0 | 55.0 | 85.0 |" in capsys.readouterr().out


def test_opponents_are_compared_with_and_never_chosen():
    gains = {"digits-0.1": 0.1, "breast-0.5": 0.2, "blood-0.5": 0.3}
    rows = [
        row(cut, way, value) | ({"opponent": True} if way == "fedprox" else {})
        for cut, gain in gains.items()
        for way, value in (("default", 0.5), ("better", 0.5 + gain), ("fedprox", 0.9))
    ]
    assert set(differences(rows)) == {"better"}
    assert "| better | +0.0 (+0.0 to +0.0) | -20.0 (-44.8 to +4.8) |" in against(rows, "fedprox")
    lines = leave_one_set_out(rows).splitlines()
    assert lines[2] == "| digits | better | +0.0 | +10.0 | +0.0 | +0.0 | -30.0 | +0.0 |"


def test_cuts_are_of_development_sets_alone():
    assert {cut.dataset for cut in CUTS.values()} == {"digits", "breastmnist", "pneumoniamnist", "bloodmnist"}


def test_seeds_are_paired_by_their_numbers_and_count_where_every_cut_has_them():
    values = {("digits-0.1", 0): 0.1, ("digits-0.1", 1): 0.3, ("breast-0.5", 1): 0.5, ("breast-0.5", 2): 0.7}
    rows = [
        row(cut, way, 0.2 + gain, seed)
        for (cut, seed), more in values.items()
        for way, gain in (("default", 0.0), ("other", more))
    ]
    assert by_seed(differences(rows)["other"], "balanced_accuracy") == pytest.approx([0.4])
    assert by_seed(differences(rows[::-1])["other"], "balanced_accuracy") == pytest.approx([0.4])


def test_a_set_counts_once_however_many_cuts_it_has_and_a_way_that_misses_a_cut_is_not_chosen():
    gains = {"a": (0.1, 0.0, 0.9), "b": (0.1, 0.0, 0.9), "c": (0.0, 0.15, 0.9), "d": (0.0, 0.15, None)}
    set_of = {"a": "digits", "b": "digits", "c": "breastmnist", "d": "bloodmnist"}
    rows = [
        row("digits-0.1", way, 0.5 + gain) | {"cut": cut, "set": set_of[cut]}
        for cut, by_way in gains.items()
        for way, gain in zip(("default", "many", "few", "partial"), (0.0, *by_way), strict=True)
        if gain is not None
    ]
    assert set(chosen_without(rows).values()) == {"few"}


@pytest.mark.parametrize(
    ("more", "said"),
    [({}, "measured twice"), ({"seed": 1, "budget": "standard"}, "budget: rows of quick and standard; a table is of")],
)
def test_rows_that_cannot_stand_in_one_table_are_refused(more, said):
    first = row("digits-0.1", "default", 0.5) | {"budget": "quick"}
    with pytest.raises(UserError, match=said):
        check([first, first | more])


def test_rows_without_the_default_compare_with_nothing():
    with pytest.raises(UserError, match="no row of the way 'default'"):
        check([row("digits-0.1", "five", 0.5)])


def test_ways_of_another_generator_are_compared_with_the_first_ones_default():
    rows = [
        row("digits-0.1", "default", 0.5) | {"generator": "edm"},
        row("digits-0.1", "default", 0.75) | {"generator": "edm-rare"},
        row("digits-0.1", "fedavg", 0.9) | {"opponent": True},
    ]
    named = by_generator(rows)
    assert [one["way"] for one in named] == ["default", "default of edm-rare", "fedavg"]
    assert [one["way"] for one in by_generator(rows[::-1])] == ["fedavg", "default", "default of edm"]
    (table,) = against_the_usual(named)
    assert "less default" in table and "+25.0" in table
    found = differences(named)["default of edm-rare"]["digits-0.1"][0]
    assert found["balanced_accuracy"] == pytest.approx(0.25)


@pytest.mark.parametrize("word", ["seed=1", "cuts=digits-6"])
def test_a_word_that_is_not_known_is_refused(word, tmp_path):
    with pytest.raises(UserError, match=r"digits-60|seeds"):
        Request.read([str(tmp_path / "rows.json"), word])


def test_centralised_training_takes_no_student_in_full_again(tmp_path):
    with pytest.raises(UserError, match=r"^longer=5: centralised may take all"):
        opponents.main([str(tmp_path / "rows.json"), "longer=5"])


def test_a_cut_that_cannot_be_dealt_is_told_and_costs_itself_alone(tmp_path, capsys, monkeypatch):
    def refusing(cut, *rest):
        if cut == "breast-0.5":
            raise UserError("no file is there")
        return study_of(cut, *rest)

    monkeypatch.setattr(opponents, "study_of", refusing)
    monkeypatch.setattr(
        opponents, "measured", lambda cut, study, folder, names, longer: [{"way": names, "longer": longer}]
    )
    out = tmp_path / "rows.json"
    assert opponents.main([str(out), "seeds=3", "cuts=breast-0.5,digits-60", "contestants=local", "longer=5"]) == 0
    assert "breast-0.5 3 no file is there" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert found["rows"] == [{"cut": "digits-60", "set": "digits", "seed": 3, "way": "local", "longer": 5}]
    assert found["lost"] == [{"cut": "breast-0.5", "seed": 3, "why": "no file is there"}]


def test_opponents_train_on_the_very_sites_of_the_ways(tmp_path, federation, monkeypatch):
    studies = []

    def run(study):
        studies.append(study)
        write_json(tmp_path / "results.json", {})
        return tmp_path

    rows = {"strategies": [{"name": "local", "accuracy": 0.5, "balanced_accuracy": 0.4, "auc": 0.6, "seconds": 3.0}]}
    monkeypatch.setattr(opponents, "run_study", run)
    monkeypatch.setattr(opponents, "load_results", lambda folder: rows)
    usual = study_of("digits-60", 0, "nowhere", "quick")
    found = opponents.measured("digits-60", usual, tmp_path, "local", 5)
    known = {"opponent": True, "budget": "quick", "longer": 5, "way": "local"}
    assert found == [known | {"accuracy": 0.5, "balanced_accuracy": 0.4, "auc": 0.6}]
    (study,) = studies
    assert (study.student.steps, study.teacher.steps) == (5 * usual.student.steps, usual.teacher.steps)
    pool = load_source(study.data).pool
    for number, held in enumerate(partition_sites(pool, study)):
        own = prepare_site(pool.subset(held), study, f"site-{number}").train
        np.testing.assert_array_equal(own.images, federation.sites[number].data.train.images)
        np.testing.assert_array_equal(own.labels, federation.sites[number].data.train.labels)
    assert (study.student.arch, study.student.width) == ("resnet8", 8)


def test_trained_generators_draw_and_are_trained_once(tmp_path):
    study = study_of("digits-60", 0, "nowhere", "quick", "edm")
    study.generator.steps = 3
    drawn, written = [], []
    for _ in range(2):
        federation = Federation("digits-60", study, True, tmp_path)
        federation.sites[0].study.recycle.rounds = 1
        drawn.append(federation.sites[0].drawn(Draw())[1])
        written.append({path: path.stat().st_mtime_ns for path in tmp_path.rglob("generator-*")})
    np.testing.assert_array_equal(*drawn)
    assert written[0] == written[1] and len(written[0]) >= len(federation.sites)


class Drawing:
    """A generator that draws an image of class 1 where it is asked for class 0."""

    def __init__(self, images):
        self.images = images

    def default_knobs(self):
        return {}

    def sample(self, labels, knobs, *seed):
        yield np.stack([self.images[max(label, 1)] for label in labels])


def test_a_drawn_image_counts_for_a_class_where_a_model_of_all_real_images_sees_that_class(tmp_path):
    study = study_of("digits-60", 0, "", "quick")
    federation = Federation("digits-60", study, False, tmp_path)
    study.student.steps = 40
    site = federation.sites[0]
    real = site.data.train
    site.generator = Drawing({k: real.images[real.labels == k][0] for k in range(1, 10) if (real.labels == k).any()})
    site.counts = np.array([3, *(2 if k in site.generator.images else 0 for k in range(1, 10))])
    rows = recognised(site, judge_of(federation))
    shares = {row["class"]: row["recognised"] for row in rows}
    assert len(rows) == 1 + len(site.generator.images) and rows[0]["images"] == 3
    assert shares.pop("0") < 0.5 < np.mean(list(shares.values()))


def test_each_class_of_a_site_is_a_row_beside_what_the_judge_reaches(tmp_path, capsys, monkeypatch):
    def short(*words):
        study = study_of(*words)
        study.student.steps = 2
        return study

    monkeypatch.setattr("simulations.evidence.skew.recognised.study_of", short)
    out = tmp_path / "rows.json"
    assert recognised_main([str(out), "cuts=digits-60", "generator=neighbours", "budget=quick"]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert {row["site"] for row in rows} == {f"site-{number}" for number in range(5)}
    assert all(0 < row["judge"] < 1 and row["images"] >= 2 for row in rows)
    assert all(0 <= row[share] <= 1 for row in rows for share in ("recognised", "teacher"))
    assert "images: " in capsys.readouterr().out


def test_classes_are_grouped_by_their_numbers_of_images():
    rows = [{"images": n, "recognised": share, "teacher": 1 - share} for n, share in ((2, 0.0), (4, 0.5), (30, 1.0))]
    assert by_number(rows) == [
        "1 to 4 images: 2 classes of sites, recognised 25 %, by teachers 75 %",
        "20 and more images: 1 classes of sites, recognised 100 %, by teachers 0 %",
    ]
