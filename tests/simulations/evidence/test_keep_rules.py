"""Rules for the evaluation to keep, compared without the test images."""

import dataclasses
import json

import numpy as np
import pytest

from fedkr.config import KEEP_RULES, DataConfig, Study, TeacherConfig
from fedkr.data import load_source
from fedkr.errors import UserError
from fedkr.learning.job import Job
from fedkr.learning.runtime import Runtime
from simulations.evidence import keep_rules
from simulations.evidence.keep_rules import FIGURES, FOLDS, RESULT_FILE, compare, deal_folds, look, main

IMAGES, EVALUATIONS = 150, 3
SMALL = {"arch": "resnet8", "width": 4, "steps": 6, "batch": 16, "evaluations": EVALUATIONS}
STUDY = Study(data=DataConfig(limit=IMAGES), teacher=TeacherConfig(**SMALL))


class Unreadable:
    """Test images that nobody may look at."""

    def __getattr__(self, name):
        raise AssertionError(f"the test images' {name} was read")


@pytest.fixture(scope="module")
def source():
    return dataclasses.replace(load_source(STUDY.data), test=Unreadable())


def contents(images):
    return {image.tobytes() for image in images.images}


def test_the_quarters_set_apart_cover_all_images_once_and_no_fold_trains_or_chooses_by_its_own(source):
    folds = deal_folds(STUDY, source)
    assert len(folds) == FOLDS
    assert sum(len(fold.apart) for fold in folds) == len(source.pool)
    assert set.union(*(contents(fold.apart) for fold in folds)) == contents(source.pool)
    for fold in folds:
        assert len(fold.train) + len(fold.val) + len(fold.apart) == len(source.pool)
        assert not contents(fold.train) & contents(fold.val)
        assert not contents(fold.apart) & (contents(fold.train) | contents(fold.val))


def test_a_fold_is_looked_at_as_often_as_a_teacher_is(source):
    fold = deal_folds(STUDY, source)[0]
    found = list(look(STUDY, fold, 0, Job(Runtime.choose("cpu", "float32", 1))))
    assert [evaluation["step"] for evaluation in found] == [2, 4, 6]
    assert all(set(evaluation["apart"]) == set(FIGURES) for evaluation in found)


def evaluation(step, accuracy, loss, apart):
    return {"step": step, "accuracy": accuracy, "loss": loss, "apart": {"accuracy": apart, "auc": apart}}


def test_each_rule_keeps_what_it_says_and_is_worth_what_that_is_on_images_set_apart():
    first = [evaluation(1, 0.9, 0.5, 0.6), evaluation(2, 0.8, 0.2, 0.7), evaluation(3, 0.7, 0.3, 0.8)]
    # Accuracies tie and the loss decides; losses tie and the later one is kept.
    second = [evaluation(1, 0.9, 0.4, 0.1), evaluation(2, 0.9, 0.3, 0.2), evaluation(3, 0.5, 0.3, 0.4)]
    rules = compare([first, second])
    assert {name: rule["steps"] for name, rule in rules.items()} == {
        "accuracy": [1, 2],
        "loss": [2, 3],
        "last": [3, 3],
    }
    assert rules["accuracy"]["accuracy"]["values"] == [0.6, 0.2]
    assert rules["loss"]["auc"]["mean"] == pytest.approx(0.55)


def test_the_command_writes_its_figures_and_a_table_and_repeats_no_fold(tmp_path, capsys, monkeypatch):
    # The student is not trained, but checked.
    overrides = [f"{who}.{name}={SMALL[name]}" for who in ("teacher", "student") for name in ("arch", "width", "steps")]
    command = [f"data.limit={IMAGES}", f"run_dir={tmp_path}", "device=cpu", "teacher.evaluations=2", *overrides]
    assert main(command) == 0
    kept = json.loads((tmp_path / RESULT_FILE).read_text())
    assert list(kept["rules"]) == list(KEEP_RULES)
    assert kept["study"]["teacher"]["steps"] == SMALL["steps"]
    assert "teacher.keep_by" in capsys.readouterr().out
    monkeypatch.setattr(keep_rules, "look", lambda *_: pytest.fail("trained again"))
    assert main(command) == 0
    assert json.loads((tmp_path / RESULT_FILE).read_text())["evaluations"] == kept["evaluations"]


@pytest.mark.parametrize("labels", [[0, 0, 1], [0] * 40])
def test_too_few_images_or_classes_are_one_line(labels, source):
    pool = source.pool.subset(np.arange(len(labels)))
    pool = dataclasses.replace(pool, labels=np.array(labels))
    with pytest.raises(UserError, match=r"^digits: \d+ training and val images are too few for 4 folds"):
        deal_folds(STUDY, dataclasses.replace(source, pool=pool, val=0))
