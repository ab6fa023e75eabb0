"""The measurement of attacks on releases: what pipelines leave a mark is found, by the attacks that read the mark."""

import numpy as np
import pytest

from fedkr.audit.references.direct import balanced_membership
from simulations.evidence.released import attacked, summary


def test_each_pipeline_is_attacked_by_all_others_and_a_mark_is_found_in_its_own_signal():
    rng, images = np.random.default_rng(0), 300
    membership, labels = balanced_membership(6, images, rng), rng.integers(0, 3, images)
    difficulty = rng.normal(0, 3, (images, 4))
    signals = difficulty + rng.normal(size=(6, images, 4))
    signals[:, :, 0] += 1.5 * membership
    rows = attacked(signals, membership, labels, difficulty[:, :3])
    assert [row["pipeline"] for row in rows] == list(range(6))
    mean = summary([{"rows": rows}])
    for name in ("calibrated-pixels@pipeline", "calibrated-pixels@released", "fused@pipeline"):
        assert mean[name]["auc"] > 0.7
    for name in ("calibrated-features@pipeline", "soft-label-neighbours@released", "classifier@pipeline"):
        assert mean[name]["auc"] == pytest.approx(0.5, abs=0.05)
    assert "calibrated-pixels@released" not in attacked(signals, membership, labels, None)[0]
