"""Figures of patients as they leave a hospital: rounded as its policy rounds those of images, and of few not at all."""

import numpy as np
import pytest
import yaml

from fedkr import wire
from fedkr.audit.document import AuditQuestion
from fedkr.data.images import Shape
from fedkr.learning.models import build_classifier
from sites.handlers import HANDLERS
from sites.workspace import open_site


@pytest.fixture
def audited(study, tmp_path):
    """Return a function that audits the server's model at a clinic with three images of each of 80 patients."""

    def audit(**policy):
        rng = np.random.default_rng(0)
        np.savez(
            tmp_path / "images.npz",
            train_images=rng.integers(0, 256, (240, 8, 8), dtype=np.uint8),
            train_labels=np.arange(240) // 3 % 2,
            train_groups=np.arange(240) // 3,
        )
        site = {"name": "clinic", "workspace": "work", "data": {"name": "npz", "path": "images.npz"}, "device": "cpu"}
        (tmp_path / "site.yaml").write_text(yaml.safe_dump(site | {"policy": policy}))
        study.audit.attacks, study.audit.headline, study.audit.fprs = ["loss", "confidence"], "loss", [0.1, 0.02]
        opened = open_site({"site-file": str(tmp_path / "site.yaml")}, study)
        weights = build_classifier(study.student, Shape(1, 8, 2), "server").state_dict()
        content = HANDLERS[wire.AUDIT](opened, wire.Request(study.to_json(), {"target": "student"}, weights))
        question = AuditQuestion("student", "student", 2, opened.study.audit)
        return opened, wire.read_document(content, wire.FINDINGS), question

    return audit


def test_counts_of_patients_leave_rounded_and_their_rates_in_steps_worth_five_patients(audited):
    site, document, question = audited(min_evaluated=5)
    question.check(site.name, document, exact=False)
    fewest = min(len(np.unique(part.groups)) for part in (site.data.train, site.data.holdout))
    assert 5 <= fewest < 50
    assert [row["attack"] for row in document["patients"]] == ["loss", "confidence"]
    for row in document["patients"]:
        assert (row["members"], row["nonmembers"], row["unit"]) == (50, 50, "patient")
        for rate in [value for value in row.values() if isinstance(value, float)]:
            steps = rate / 0.02
            assert rate == 1 or abs(steps - round(steps)) < 1e-6
            assert rate in (0, 1) or rate >= 5 / fewest - 1e-6


def test_exact_counts_leave_where_the_policy_says_so(audited):
    site, document, question = audited(min_evaluated=5, exact_counts=True, rate_step=0.0)
    question.check(site.name, document)
    counts = [len(np.unique(part.groups)) for part in (site.data.members, site.data.holdout)]
    assert [[row["members"], row["nonmembers"]] for row in document["patients"]] == [counts] * 2


def test_no_figure_of_fewer_patients_than_the_policy_asks_for_leaves(audited):
    site, document, question = audited(min_evaluated=20, exact_counts=True, rate_step=0.0)
    assert len(np.unique(site.data.holdout.groups)) < 20 <= document["audit"][0]["nonmembers"]
    assert document["patients"] == [] and document["audit"][0]["unit"] == "patient"
    question.check(site.name, document)
