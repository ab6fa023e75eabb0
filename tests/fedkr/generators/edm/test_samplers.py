"""The samplers against the exact solution for images that are normal around a mean."""

import numpy as np
import pytest
import torch

from fedkr.generators.edm.samplers import SOLVERS, Sampler
from fedkr.seeds import torch_rng

SCHEDULE = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}
MEAN, SPREAD = 0.2, 0.25


class Exact:
    """The raw output of the perfect network (EDM table 1) for images of one pixel, normal around ``MEAN``."""

    def __init__(self):
        self.calls = 0

    def __call__(self, inputs, sigma):
        self.calls += 1
        sigma = sigma[:, None, None, None]
        total = sigma**2 + SCHEDULE["sigma_data"] ** 2
        x = inputs * total.sqrt()
        denoised = (SPREAD**2 * x + sigma**2 * MEAN) / (SPREAD**2 + sigma**2)
        return (denoised - SCHEDULE["sigma_data"] ** 2 / total * x) / (sigma * SCHEDULE["sigma_data"] / total.sqrt())


def drawn(solver, evaluations, churn=0.0, count=4000, seed="s"):
    network, noise = Exact(), torch.randn(count, 1, 1, 1, generator=torch_rng("noise"))
    images = Sampler(solver, evaluations, SCHEDULE, churn).draw(network, noise, torch_rng(seed))
    return images.flatten().numpy(), noise.flatten().numpy(), network.calls


def error(solver, evaluations):
    images, noise, _ = drawn(solver, evaluations)
    return np.abs(images - (MEAN + SPREAD * noise)).max()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("evaluations", [1, 5, 8, 18])
def test_no_solver_evaluates_the_network_more_often_than_asked(solver, evaluations):
    assert evaluations - 1 <= drawn(solver, evaluations)[2] <= evaluations


@pytest.mark.parametrize("solver", SOLVERS)
def test_each_solver_comes_to_the_exact_solution_with_more_evaluations(solver):
    assert error(solver, 160) < error(solver, 40) < error(solver, 10)
    assert error(solver, 160) < 0.02


def test_solvers_of_second_order_are_nearer_to_the_exact_solution():
    assert max(error("heun", 40), error("dpm++2m", 40)) < 0.8 * error("euler", 40)


@pytest.mark.parametrize("solver", SOLVERS)
def test_churn_draws_other_images_of_the_same_distribution(solver):
    plain, churned = drawn(solver, 160)[0], drawn(solver, 160, churn=30.0)[0]
    assert np.corrcoef(plain, churned)[0, 1] < 0.5
    assert churned.mean() == pytest.approx(MEAN, abs=0.02)
    assert churned.std() == pytest.approx(SPREAD, rel=0.1)


def test_the_seed_decides_what_churn_adds():
    one, same, other = (drawn("heun", 9, churn=5.0, seed=seed)[0] for seed in "aab")
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
