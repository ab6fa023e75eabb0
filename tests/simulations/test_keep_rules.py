"""Rules for the evaluation to keep, compared without the test images."""

import dataclasses
import json
import statistics

import pytest

from fedkr.config import ClassifierConfig, DataConfig, Study, TeacherConfig
from fedkr.data import load_source
from fedkr.errors import UserError
from fedkr.progress import SilentProgress
from fedkr.training import Runtime
from simulations.keep_rules import FIGURES, FOLDS, RULES, compare_rules, main

IMAGES, EVALUATIONS = 150, 3
SMALL = {"arch": "resnet8", "width": 4, "steps": 6, "batch": 16, "evaluations": EVALUATIONS}


class Unreadable:
    """Test images that nobody may look at."""

    def __getattr__(self, name):
        raise AssertionError(f"the test images' {name} was read")


@pytest.fixture(scope="module")
def compared():
    study = Study(data=DataConfig(limit=IMAGES), teacher=TeacherConfig(**SMALL), student=ClassifierConfig())
    source = dataclasses.replace(load_source(study.data), test=Unreadable())
    return compare_rules(study, source, Runtime.choose("cpu", "float32", 1), SilentProgress())


def test_every_rule_chooses_among_the_same_evaluations_and_is_scored_on_images_set_apart(compared):
    assert list(compared["rules"]) == list(RULES)
    assert [len(fold) for fold in compared["evaluations"]] == [EVALUATIONS] * FOLDS
    for figures in compared["rules"].values():
        for fold, (step, accuracy) in enumerate(zip(figures["steps"], figures["accuracy"]["values"], strict=True)):
            known = {e["step"]: e["apart"]["accuracy"] for e in compared["evaluations"][fold]}
            assert known[step] == accuracy
        assert figures["accuracy"]["mean"] == pytest.approx(statistics.fmean(figures["accuracy"]["values"]))


def test_each_rule_keeps_what_it_says(compared):
    for fold, evaluations in enumerate(compared["evaluations"]):
        kept = {name: figures["steps"][fold] for name, figures in compared["rules"].items()}
        chosen = next(e for e in evaluations if e["step"] == kept["accuracy"])
        assert chosen["accuracy"] == max(evaluation["accuracy"] for evaluation in evaluations)
        assert kept["loss"] == min(evaluations, key=lambda e: e["loss"])["step"]
        assert kept["last"] == SMALL["steps"]


def test_the_command_writes_its_figures_and_a_table(tmp_path, capsys):
    overrides = [f"teacher.{name}={value}" for name, value in SMALL.items()]
    overrides += [f"student.{name}={value}" for name, value in SMALL.items() if name != "evaluations"]
    out = tmp_path / "rules.json"
    assert main([str(out), f"data.limit={IMAGES}", f"out={tmp_path}", "device=cpu", *overrides]) == 0
    kept = json.loads(out.read_text())
    assert kept["teacher"]["steps"] == SMALL["steps"]
    assert set(kept["rules"]["last"]) == {*FIGURES, "steps"}
    assert "teacher.keep_by" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["seed=1"], ["--help"]])
def test_a_command_without_a_file_is_answered_with_its_usage(arguments):
    with pytest.raises(UserError, match=r"^usage: python -m simulations\.keep_rules OUT\.json"):
        main(arguments)
