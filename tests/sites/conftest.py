"""A hospital's site file with its data, and replies as the site's own handlers would make them."""

import hashlib

import numpy as np
import pytest
import yaml

from fedkr import wire
from fedkr.config import Study
from fedkr.release import Release
from sites import audit

CLASSES = ["healthy", "ill", "rare"]
KNOBS = {"guidance": 1.0, "churn": 0.0, "steps": 18.0}


@pytest.fixture
def study(tmp_path):
    """A study whose every stage takes milliseconds, and which a site may release for."""
    study = Study(device="cpu", precision="float32", run_dir=str(tmp_path / "run"))
    for model in (study.teacher, study.student):
        model.arch, model.width, model.steps, model.batch = "resnet8", 4, 3, 16
    study.generator.steps, study.generator.checkpoints = 2, 1
    study.generator.options = {"width": 8, "steps_sample": 5}
    study.recycle.search_steps, study.recycle.tuning_budget, study.recycle.views = 2, 1, 1
    study.recycle.rounds, study.recycle.balance, study.audit.bootstrap = 2, "balanced", 10
    return study


@pytest.fixture(autouse=True)
def same_draws(monkeypatch):
    """Have every hospital's audit draw alike, so that two answers differ by what was asked; return how it really is."""
    real = audit.keyed
    monkeypatch.setattr(audit, "keyed", lambda folder, content: hashlib.sha256(content).digest())
    return real


@pytest.fixture
def hospital(tmp_path):
    """Write a site file; return a function that writes it again with another policy, and its path.

    It has few images, so that it answers for fewer than a hospital would; with exact counts its figures are exact too.
    """

    def write(split=None, **policy):
        exact = {"rate_step": 0.0} if policy.get("exact_counts") else {}
        policy = {"min_evaluated": 1} | exact | policy
        values = {
            "name": "st-mary",
            "workspace": "work",
            "data": {"name": "npz", "path": "images.npz", "classes": CLASSES},
            "device": "cpu",
            "policy": policy,
        } | ({"split": split} if split else {})
        (tmp_path / "site.yaml").write_text(yaml.safe_dump(values))
        return tmp_path / "site.yaml"

    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [40, 50, 3])
    np.savez(
        tmp_path / "images.npz",
        train_images=rng.integers(0, 256, (93, 8, 8), dtype=np.uint8),
        train_labels=labels,
        test_images=rng.integers(0, 256, (12, 8, 8), dtype=np.uint8),
        test_labels=np.arange(12) % 3,
    )
    return write


def make_release(count=6, **manifest):
    rng = np.random.default_rng(1)
    soft = np.full((count, 3), 1 / 3, np.float16)
    values = {
        "site": "st-mary",
        "round": 1,
        "slices": 1,
        "count": count,
        "left_out": ["rare"],
        "knobs": KNOBS,
        "checkpoint": 20,
        "scores": {
            "checkpoints": [{"step": 20, "score": 0.5, "loss": 1.2}],
            "tuning": [{"knobs": KNOBS, "score": 0.5, "loss": 1.2}],
        },
    }
    return Release(rng.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8), soft, values | manifest)


@pytest.fixture
def release_content():
    """Return a function that makes the content of an answer to ``train.release``."""
    return lambda count=6, **manifest: wire.release_reply(make_release(count, **manifest), seconds=60.0)
