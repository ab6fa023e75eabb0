"""The noise: standard normal in every direction, the same for one seed, another for any other."""

import numpy as np
import pytest
import scipy

from fedkr.privacy.noise import gaussian, symmetric_gaussian


def test_it_is_standard_normal_and_repeats_by_its_seed_alone():
    drawn = gaussian(b"secret", (200, 100))
    assert np.array_equal(drawn, gaussian(b"secret", (200, 100)))
    assert scipy.stats.kstest(drawn.ravel(), "norm").pvalue > 0.001
    other = gaussian(b"secret.", (200, 100))
    assert abs(np.corrcoef(drawn.ravel(), other.ravel())[0, 1]) < 0.03
    assert np.isfinite(gaussian(b"", (100_000,))).all()


@pytest.mark.parametrize(
    "direction", [np.eye(3) / np.sqrt(3), np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]]) / np.sqrt(2)]
)
def test_symmetric_noise_has_unit_variance_in_the_frobenius_norm(direction):
    drawn = symmetric_gaussian(b"secret", 20_000, 3)
    assert np.array_equal(drawn, drawn.transpose(0, 2, 1))
    assert np.linalg.norm(direction) == pytest.approx(1)
    assert (drawn * direction).sum(axis=(1, 2)).std() == pytest.approx(1, rel=0.02)
