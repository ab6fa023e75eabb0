"""Cuts of development sets, ways to a student, and what their rows say."""

import json

import numpy as np
import pytest

from fedkr.data import ImageSet
from server.targets import FIGURES
from simulations.evidence import skew, skew_summary
from simulations.evidence.skew import CUTS, LABELS, WAYS, Cut, Federation, Way
from simulations.evidence.skew_summary import against_default, differences, leave_one_set_out


@pytest.fixture(scope="module")
def federation():
    """Return five sites of few digits whose classifiers train for two steps."""
    found = Federation("digits-60", 0, "nowhere")
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
    asked, soft = site.drawn("histogram")[0], site.soft_labels("plain", "histogram")
    known = LABELS["known"](federation, Way())[site.name]
    rare = int(np.argmin(np.where(site.counts > 1, site.counts, np.inf)))
    share = site.counts[rare] / (site.counts[rare] + skew.KNOWN)
    np.testing.assert_allclose(known[asked == rare, rare], share * soft[asked == rare, rare] + 1 - share, rtol=1e-5)
    assert len(asked) == federation.study.recycle.rounds * len(site.data.train)


def test_the_union_gives_labels_of_adjusted_teachers_the_shares_of_all_sites(federation):
    released = LABELS["released"](federation, Way())
    found = LABELS["union"](federation, Way())
    shares = np.sum([site.counts for site in federation.sites], axis=0) + 1.0
    odds = [labels["site-0"][:, 0] / labels["site-0"][:, 1] for labels in (found, released)]
    np.testing.assert_allclose(odds[0], odds[1] * shares[0] / shares[1], rtol=0.02)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_ends_in_a_student(federation, way):
    assert all(0 <= federation.figures(WAYS[way])[name] <= 1 for name in FIGURES)


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
    assert [seed["balanced_accuracy"] for seed in found] == pytest.approx([0.3, 0.3]), "whatever the seed"
    lines = leave_one_set_out(rows).splitlines()[2:]
    assert [line.split(" | ")[1] for line in lines[:3]] == ["first", "second", "second"]
    assert [line.split(" | ")[3] for line in lines] == ["+0.0", "+0.0", "+0.0", "+0.0 (+0.0 to +0.0)"]
    assert "+10.0 (-33.0 to +53.0)" in next(line for line in against_default(rows).splitlines() if "second" in line)
    (tmp_path / "rows.json").write_text(json.dumps({"rows": rows}))
    assert skew_summary.main([str(tmp_path / "rows.json")]) == 0
    assert "| digits-0.1 | 2 | 90.0 | 55.0 | 0.900 |" in capsys.readouterr().out


def test_cuts_are_of_development_sets_alone():
    assert {cut.dataset for cut in CUTS.values()} == {"digits", "breastmnist", "pneumoniamnist", "bloodmnist"}
