import math

import numpy as np
import pytest

from fedkr.audit.attacks.on_releases import closest_distance_score, copy_check, domias_kde_score, monte_carlo_score
from fedkr.audit.statistics.membership import auc, membership_figures
from fedkr.data.distances import nearest, pixels, principal_components
from fedkr.errors import UserError


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return rng.normal(0, 1, (150, 3)), rng.normal(0.2, 1, (140, 3)), rng.normal(0, 1.3, (60, 3))


def distance(x, y):
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)))


def test_closest_distance_equals_a_loop_over_all_pairs(rows):
    images, released, _ = rows
    expected = [-min(distance(x, y) for y in released) for x in images]
    np.testing.assert_allclose(closest_distance_score(images, released), expected, atol=1e-6)


def test_monte_carlo_density_equals_a_loop_with_the_median_heuristic(rows):
    images, released, _ = rows
    radius = np.median([min(distance(x, y) for y in released) for x in images])
    expected = [sum(distance(x, y) <= radius for y in released) / len(released) for x in images]
    # The median of an even number lies between two distances, so no pair sits on the radius itself.
    np.testing.assert_allclose(monte_carlo_score(images, released), expected, atol=1e-6)


def loop_density(x, sample):
    n, d = len(sample), len(x)
    widths = []
    for j in range(d):
        mean = sum(y[j] for y in sample) / n
        variance = sum((y[j] - mean) ** 2 for y in sample) / (n - 1)
        widths.append(math.sqrt(variance) * n ** (-1 / (d + 4)))
    total = 0.0
    for y in sample:
        kernel = 1.0
        for j, h in enumerate(widths):
            kernel *= math.exp(-0.5 * ((x[j] - y[j]) / h) ** 2) / (h * math.sqrt(2 * math.pi))
        total += kernel
    return total / n


def test_domias_by_kernel_density_equals_the_ratio_of_densities_in_a_loop(rows):
    images, released, reference = (part[:40] for part in rows)
    expected = [math.log(loop_density(x, released) / loop_density(x, reference)) for x in images]
    np.testing.assert_allclose(domias_kde_score(images, released, reference), expected, atol=1e-6)


def test_domias_reads_the_density_that_members_added():
    rng = np.random.default_rng(1)
    members, nonmembers, reference = (rng.normal(0, 1, (n, 2)) for n in (150, 150, 1000))
    released = np.repeat(members, 5, axis=0) + rng.normal(0, 0.1, (750, 2))
    scores = domias_kde_score(np.concatenate([members, nonmembers]), released, reference)
    assert auc(scores[:150], scores[150:]) > 0.55


@pytest.fixture
def five_percent_copies():
    rng = np.random.default_rng(2)
    members, nonmembers, fresh = (rng.integers(0, 256, (n, 8, 8, 1), dtype=np.uint8) for n in (400, 400, 380))
    return pixels(members), pixels(nonmembers), pixels(np.concatenate([fresh, members[:20]]))


def test_verbatim_copies_of_members_show_in_the_tpr_at_one_percent_and_hardly_in_the_auc(five_percent_copies):
    members, nonmembers, released = five_percent_copies
    scores = (closest_distance_score(members, released), closest_distance_score(nonmembers, released))
    figures = membership_figures(*scores, fprs=[0.01], bootstrap=200, seed=0)
    assert figures["tpr_at_fpr_0.01"] >= 0.05
    assert figures["tpr_at_fpr_0.01_low"] > 0.01
    assert abs(figures["auc"] - 0.5) < 0.07
    assert (scores[0][:20] == 0).all()


def test_the_copy_check_names_the_copies_and_their_members(five_percent_copies):
    members, nonmembers, released = five_percent_copies
    check = copy_check(members, released)
    assert check.released[:20].tolist() == list(range(380, 400))
    assert check.members[:20].tolist() == list(range(20))
    assert (check.distances[:20] == 0).all() and (np.diff(check.distances) >= 0).all()
    assert check.share >= 0.05
    assert copy_check(members, nonmembers).share < 0.03


def test_the_copy_checks_threshold_is_a_quantile_of_the_members_own_neighbour_distances():
    members = np.array([[0.0], [1.0], [3.0], [6.0]])
    check = copy_check(members, np.array([[0.4], [10.0], [5.8]]), quantile=0.5)
    # Nearest others: 1, 1, 2, 3; the median is 1.5. Only 0.4 and 5.8 lie that close to a member.
    assert check.threshold == 1.5
    assert (check.released.tolist(), check.members.tolist(), check.share) == ([2, 0], [3, 0], 2 / 3)


def test_the_distance_to_a_copy_is_exactly_zero():
    rows = np.random.default_rng(3).normal(1e3, 1, (300, 50))
    index, distances = nearest(rows[::-1], rows)
    assert index.tolist() == list(range(300))[::-1]
    assert (distances == 0).all()


def test_principal_components_have_unit_variance_and_no_empty_directions(rows):
    fit_on = np.concatenate([rows[0], rows[0][:, :1]], axis=1)
    (projected,) = principal_components(fit_on, [fit_on], components=10)
    assert projected.shape == (150, 3)
    np.testing.assert_allclose(projected.T @ projected / 150, np.eye(3), atol=1e-9)


def test_what_does_not_fit_is_named(rows):
    images, released, _ = rows
    with pytest.raises(UserError, match="rows of one length"):
        closest_distance_score(images, released[:, :2])
    with pytest.raises(UserError, match="empty"):
        monte_carlo_score(images, released[:0])
    with pytest.raises(UserError, match="at least 2"):
        domias_kde_score(images, released[:1], released)
    with pytest.raises(UserError, match="at least 2"):
        copy_check(images[:1], released)
    with pytest.raises(UserError, match="principal components"):
        principal_components(np.ones((5, 3)), [images], 2)
