import json

import numpy as np
import pytest
import torch

from fedkr.audit.challenge import build_challenge
from fedkr.audit.run import Knowledge, audit_model
from fedkr.audit.subject import Subject
from fedkr.config import QUERY_ATTACKS, AuditConfig
from fedkr.data.images import ImageSet
from fedkr.errors import UserError

CONFIG = AuditConfig(attacks=["loss", "modified-entropy", "confidence", "logit-margin"], bootstrap=200)
CLASSES = ("a", "b", "c")


def random_images(rng, n):
    return ImageSet(rng.integers(0, 256, (n, 6, 6, 1), dtype=np.uint8), rng.integers(0, 3, n), CLASSES)


def fit_mlp(images, labels, seed, steps=250):
    """Train a small network until it knows its images by heart; return its predict function."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(36, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)

    def logits(batch):
        return model(torch.from_numpy(batch.reshape(len(batch), -1)).float() / 128 - 1)

    for _ in range(steps):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(logits(images), torch.from_numpy(labels)).backward()
        optimiser.step()
    return lambda batch: logits(batch).detach().numpy()


def audit(predict, challenge, seed=0, config=CONFIG):
    return audit_model(predict, Subject("student", "site-1", challenge, config, seed))


@pytest.fixture(scope="module")
def overfitted():
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    challenge = build_challenge(random_images(rng, 150), random_images(rng, 120))
    return audit(fit_mlp(challenge.members.images, challenge.members.labels, 0), challenge)


def test_a_model_that_learnt_random_labels_by_heart_is_detected_by_every_attack(overfitted):
    for row in overfitted.rows:
        assert row["auc"] > 0.65, row["attack"]
        assert row["auc_low"] > 0.5, row["attack"]


def test_attacks_by_further_queries_need_no_references_and_detect_it_too():
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    challenge, population = build_challenge(random_images(rng, 150), random_images(rng, 120)), random_images(rng, 200)
    config = AuditConfig(attacks=["loss", *QUERY_ATTACKS], headline="loss", bootstrap=50)
    predict = fit_mlp(challenge.members.images, challenge.members.labels, 0)
    subject = Subject("student", "site-1", challenge, config, 0)
    rows = audit_model(predict, subject, Knowledge(population=population)).rows
    assert [row["attack"] for row in rows] == config.attacks
    assert all(row["auc"] > 0.65 for row in rows)
    with pytest.raises(UserError, match="student at site-1: references and quantile: no population"):
        audit_model(predict, subject)


def test_each_attack_is_told_as_it_ends_and_then_that_all_are_over():
    told = []

    class Told:
        def update(self, stage, done, total, unit="step", **numbers):
            told.append((stage, done, total, unit))

        def finish(self, stage):
            told.append(stage)

    rng = np.random.default_rng(0)
    challenge = build_challenge(random_images(rng, 30), random_images(rng, 30))
    config = AuditConfig(attacks=["loss", "confidence"], headline="loss", bootstrap=5)
    subject = Subject("student", "site-1", challenge, config, 0)
    audit_model(lambda batch: rng.normal(size=(len(batch), 3)), subject, progress=Told())
    stage = "attacks on student"
    assert told == [(stage, 1, 2, "attack"), (stage, 2, 2, "attack"), stage]


def test_a_model_trained_on_other_data_gives_intervals_that_cover_one_half():
    torch.set_num_threads(1)
    rng = np.random.default_rng(1)
    other = random_images(rng, 100)
    predict = fit_mlp(other.images, other.labels, 1, steps=60)
    config = AuditConfig(attacks=["modified-entropy"], bootstrap=200)
    covered = 0
    for seed in range(60):
        challenge = build_challenge(random_images(rng, 80), random_images(rng, 60))
        row = audit(predict, challenge, seed, config).rows[0]
        covered += row["auc_low"] <= 0.5 <= row["auc_high"]
    assert covered >= 53


def test_a_row_holds_exactly_the_published_keys_and_no_value_of_one_example(overfitted):
    row = overfitted.rows[1]
    tpr_keys = {f"tpr_at_fpr_{fpr}{end}" for fpr in ("0.01", "0.001") for end in ("", "_low", "_high")}
    tpr_keys |= {f"unresolved_tpr_at_fpr_0.001{end}" for end in ("", "_low", "_high")}
    plain = {"target", "site", "attack", "auc", "auc_low", "auc_high"}
    plain |= {f"balanced_accuracy{end}" for end in ("", "_low", "_high")}
    plain |= {"references", "kind", "adversary", "others", "unit"}
    counts = {"members", "nonmembers", "duplicates", "headline", "roc"}
    assert set(row) == plain | tpr_keys | counts
    assert (row["attack"], row["headline"], row["members"], row["nonmembers"]) == ("modified-entropy", 1, 150, 120)
    assert row["tpr_at_fpr_0.01"] is not None and row["tpr_at_fpr_0.001"] is None
    assert len(row["roc"]) <= 60
    assert json.loads(json.dumps(row)) == row


def test_a_diverged_model_is_named_by_target_and_site():
    rng = np.random.default_rng(3)
    challenge = build_challenge(random_images(rng, 5), random_images(rng, 5))
    with pytest.raises(UserError, match="audit of student at site-1: logits"):
        audit(lambda images: np.full((len(images), 3), np.nan, np.float32), challenge)
