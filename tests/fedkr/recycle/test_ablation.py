"""Knowledge Recycling at one site: its splits, its variants, and what they share."""

import dataclasses

import numpy as np
import pytest

from fedkr.data import ImageSet
from fedkr.data.registry import Source
from fedkr.progress import SilentProgress
from fedkr.recycle.ablation import ABLATION, FIXED, FULL, SingleSite, SyntheticSource, Variant, figures, official_splits


@pytest.fixture
def source(pictures):
    """A small dataset whose last ten images are the official val split."""
    return Source(pictures((24, 20, 16)), pictures((8, 7, 6), seed=3), val=10)


@pytest.fixture
def site(source, tiny_study, runtime, tmp_path):
    """The site of the small dataset."""
    tiny_study.student.regenerate_every = 1
    return SingleSite(tiny_study, source, tmp_path, runtime, SilentProgress())


def test_the_official_val_split_is_used_where_there_is_one(source):
    data = official_splits(source, 0.1)
    assert np.array_equal(data.val.images, source.pool.images[-10:])
    assert np.array_equal(data.train.images, source.pool.images[:-10])
    assert len(data.test) == len(data.holdout) == 0


def test_without_one_a_stratified_share_is_set_apart_that_never_changes(source):
    first, second = (official_splits(dataclasses.replace(source, val=0), 0.2) for _ in range(2))
    assert np.array_equal(first.val.images, second.val.images)
    assert first.val.class_counts().tolist()[:3] == pytest.approx([5, 4, 3], abs=1)


def test_every_variant_of_the_ablation_trains_a_student_and_runs_only_once(site, monkeypatch):
    rows = [site.student(variant) for variant in ABLATION]
    assert [row["name"] for row in rows] == [variant.name for variant in ABLATION]
    assert all(0 <= row["accuracy"] <= 1 and len(row["recalls"]) == 4 for row in rows)
    monkeypatch.setattr(SingleSite, "_distil", lambda *_: pytest.fail("trained again"))
    assert [site.student(variant) for variant in ABLATION] == rows


def test_a_fixed_set_is_drawn_once_and_a_fresh_one_again_and_again(site):
    fixed, fresh = site.student(FIXED), site.student(FULL)
    assert fixed["sets"] == 1
    assert fresh["sets"] > 1


def test_the_filter_asks_the_teacher_whatever_labels_the_student_learns(site):
    hard = Variant("hard labels", labels="hard")
    assert SyntheticSource(hard, site.pipeline, site.job).drawer.labeller is None
    site.pipeline.study.recycle.filter = 0.5
    assert SyntheticSource(hard, site.pipeline, site.job).drawer.labeller is not None


def test_every_variant_draws_the_same_classes_nearer(site, monkeypatch):
    monkeypatch.setattr(type(site.pipeline), "doubted", lambda _: frozenset({1}))
    for variant in (FULL, Variant("hard labels", labels="hard"), Variant("no tuning", tuned=False)):
        assert SyntheticSource(variant, site.pipeline, site.job).drawer.doubted == {1}


@pytest.mark.parametrize(("ratio", "images"), [(0.5, 25), (1.0, 50), (3.0, 150)])
def test_the_ratio_is_that_of_synthetic_to_training_images(site, ratio, images):
    assert site.student(Variant("ratio", fresh=False, ratio=ratio))["images"] == images


def test_selection_on_test_shares_teacher_and_generator_and_nothing_else(site, monkeypatch):
    site.student(FULL)
    generators = sorted(p.name for p in site.stages.folder.glob("generator-*"))
    site.student(Variant("selected on test", judge="test"))
    assert sorted(p.name for p in site.stages.folder.glob("generator-*")) == generators
    assert len(list(site.stages.folder.glob("teacher-*"))) == 1
    assert len(list(site.stages.folder.glob("choice-*"))) == 2


def test_costs_name_the_choice_every_score_and_the_seconds(site):
    costs = site.costs()
    assert costs["generator_seconds"] > 0
    assert costs["search_seconds"] > 0
    assert costs["checkpoint"] in [row["step"] for row in costs["checkpoints"]]
    assert costs["knobs"] in [row["knobs"] for row in costs["tuning"]]


def test_figures_give_each_class_its_recall_and_none_where_test_has_no_image():
    test = ImageSet(np.zeros((4, 2, 2, 1), np.uint8), np.array([0, 0, 1, 1]), ("a", "b", "c"))
    logits = np.eye(3, dtype=np.float32)[[0, 1, 1, 1]] * 5
    found = figures(logits, test)
    assert found["recalls"] == [0.5, 1.0, None]
    assert found["accuracy"] == 0.75
