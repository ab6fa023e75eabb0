"""An attack of one's own: one module and one YAML file, from the audit of a model to the document that leaves."""

import json
import sys

import numpy as np
import pytest

from fedkr.audit.challenge import build_challenge
from fedkr.audit.run import audit_model
from fedkr.audit.subject import Subject
from fedkr.config import AuditConfig
from fedkr.data.images import ImageSet
from fedkr.errors import UserError
from simulations.study.application import main

MODULE = """
def score(logits, labels):
    return logits.max(axis=1).astype(float)
"""
PRESET = """
attacks: [loss, mypackage.largest]
headline: mypackage.largest
"""
TINY = """
    backend=inline device=cpu data.limit=150 federation.sites=2 partition.alpha=100 strategy.compare=[local]
    student.arch=resnet8 student.width=4 student.steps=4 audit.targets=[local] audit.bootstrap=20
"""


@pytest.fixture
def own_attack(tmp_path, monkeypatch):
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage" / "largest.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "mypackage.largest"
    for name in [name for name in sys.modules if name.partition(".")[0] == "mypackage"]:
        del sys.modules[name]


def images(count, seed):
    rng = np.random.default_rng(seed)
    return ImageSet(rng.integers(0, 256, (count, 4, 4, 1), dtype=np.uint8), rng.integers(0, 2, count), ("a", "b"))


def test_a_module_with_a_score_is_an_attack_like_any_other(own_attack):
    members = images(60, 0)
    known = {image.tobytes() for image in members.images}
    predict = lambda batch: np.array([[9.0, 0.0] if i.tobytes() in known else [1.0, 0.0] for i in batch])  # noqa: E731
    config = AuditConfig(attacks=["loss", own_attack], headline=own_attack, bootstrap=20)
    report = audit_model(predict, Subject("student", "site-0", build_challenge(members, images(60, 1)), config, 0))
    assert report.headline["attack"] == own_attack and report.headline["auc"] == 1.0


def test_its_rows_come_from_the_sites_to_the_results(own_attack, tmp_path):
    (tmp_path / "own" / "audit").mkdir(parents=True)
    (tmp_path / "own" / "audit" / "mine.yaml").write_text(PRESET)
    own = ["--config-dir", str(tmp_path / "own"), "audit=mine", f"run_dir={tmp_path / 'run'}"]
    assert main([*own, *TINY.split()]) == 0
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["audit"]
    assert {(row["attack"], row["site"]) for row in rows} >= {(own_attack, "site-0"), (own_attack, "site-1")}


@pytest.mark.parametrize("name", ["mypackage.missing", "json.decoder"])
def test_a_module_without_a_score_is_named(own_attack, name):
    with pytest.raises(UserError, match=rf"audit\.attacks='{name}': .*; install a module with a function score here"):
        predict = lambda batch: np.zeros((len(batch), 2))  # noqa: E731
        config = AuditConfig(attacks=[name], headline=name)
        audit_model(predict, Subject("student", "site-0", build_challenge(images(9, 0), images(9, 1)), config, 0))
