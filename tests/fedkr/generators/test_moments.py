"""The generator ``moments``: public components, queries that no unit moves by more than one, images of each class."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkr.config import GeneratorConfig, PrivacyConfig
from fedkr.data.components import Components
from fedkr.data.images import ImageSet, Shape
from fedkr.errors import UserError
from fedkr.generators import build_generator
from fedkr.generators.moments.gaussians import told_from_one
from fedkr.generators.moments.statistics import (
    BY_CLASS,
    CLIP,
    OF_BY_CLASS,
    OF_CENTRE,
    OF_CLASSES,
    OF_POOLED,
    OF_SPREAD,
    POOLED,
    SPREAD,
    Classes,
    Query,
    Units,
    ask_by_class,
    ask_centre,
    ask_classes,
    ask_pooled,
    ask_spread,
    measure,
    told_apart,
)
from fedkr.learning.job import Job
from fedkr.privacy.accountant import mu_of
from fedkr.privacy.noise import symmetric_gaussian
from tests.fedkr.conftest import pictures
from tests.hostile import CASES

LIMIT = 1.5
# The first case imports what the others have: no deadline for each.
FEW = settings(max_examples=CASES, deadline=None, database=None)


class Recorded(Query):
    """A query that keeps what a unit added to it, in units of its noise."""

    def __init__(self, parts):
        super().__init__(1.0, parts, b"")
        self.totals = {}

    def answer(self, part, limit, total):
        self.totals[part] = np.asarray(total) / self.noise_in(part, limit)
        return super().answer(part, limit, total)

    answer_symmetric = answer


def classes_of(count, side=5, kinds=3):
    """Return an answer to the query on classes, with so many units in each."""
    counts = np.full(kinds, float(count))
    return Classes(counts, 0.0, np.zeros((kinds, side)), np.zeros(kinds), LIMIT / CLIP)


ASKED = {
    "centre": (lambda units, query: ask_centre(units, LIMIT, query), OF_CENTRE),
    "classes": (lambda units, query: ask_classes(units, LIMIT, query), OF_CLASSES),
    "spread": (lambda units, query: ask_spread(units, classes_of(3), query), OF_SPREAD),
    "pooled": (lambda units, query: ask_pooled(units, classes_of(3), query), OF_POOLED),
    "by class": (lambda units, query: ask_by_class(units, np.eye(5), classes_of(3), query), OF_BY_CLASS),
}


@pytest.mark.parametrize(("ask", "parts"), ASKED.values(), ids=ASKED)
@FEW
@given(seed=st.integers(0, 10**6), size=st.integers(1, 4), scale=st.sampled_from([0.1, 1.0, 30.0]))
def test_no_patient_moves_a_query_by_more_than_its_noise_allows(ask, parts, seed, size, scale):
    rng = np.random.default_rng(seed)
    values, labels, groups = rng.normal(0, scale, (9, 5)), rng.integers(0, 3, 9), np.repeat([0, 1, 2], 3)
    groups[:size] = 7
    if parts is OF_CENTRE:
        # What images are, their pixels taken as -1 to 1.
        values /= np.maximum(1, np.linalg.norm(values, axis=1, keepdims=True) / LIMIT)
    with_patient, without = Recorded(parts), Recorded(parts)
    ask(Units.of(values, labels, 3, groups), with_patient)
    ask(Units.of(values[size:], labels[size:], 3, groups[size:]), without)
    moved = sum(((with_patient.totals[part] - without.totals[part]) ** 2).sum() for part in parts)
    assert moved <= 1 + 1e-9 and sum(parts.values()) == pytest.approx(1)


def test_one_image_far_from_the_others_moves_a_query_by_all_that_its_noise_allows():
    values = np.zeros((4, 5))
    values[0, 0] = LIMIT
    with_image, without = Recorded(OF_CLASSES), Recorded(OF_CLASSES)
    ask_classes(Units.of(values, np.zeros(4, int), 2, None), LIMIT, with_image)
    ask_classes(Units.of(values[1:], np.zeros(3, int), 2, None), LIMIT, without)
    moved = sum(((with_image.totals[part] - without.totals[part]) ** 2).sum() for part in OF_CLASSES)
    assert moved == pytest.approx(1), "less noise would break the promise"


@pytest.mark.parametrize("channels", [1, 3])
def test_all_components_give_an_image_back_and_none_is_longer_than_they_say(channels):
    images = np.random.default_rng(0).choice([0, 255, 77], (5, 6, 6, channels)).astype(np.uint8)
    images[0] = 255
    components = Components(Shape(channels, 6, 2), 36)
    values = components.of_images(images)
    longest = components.longest
    assert np.linalg.norm(values, axis=1).max() <= longest + 1e-9
    if channels == 1:
        assert np.array_equal(components.to_images(values), images)
        assert np.linalg.norm(values[0]) == pytest.approx(longest)
    else:
        flat = np.broadcast_to(np.array([200, 90, 30], np.uint8), (1, 6, 6, 3))
        assert np.array_equal(components.to_images(components.of_images(flat)), flat)


def test_which_components_there_are_is_public():
    assert Components(Shape(3, 28, 9), 48).size == 48 + 2 * 12
    assert Components(Shape(1, 28, 9), 4).chosen.tolist() == [0, 1, 28, 29]


def test_without_noise_the_moments_are_those_of_the_images():
    data = pictures((30, 20, 10))
    components = Components(Shape.of(data), 10)
    values = components.of_images(data.images)
    found = measure(Units.of(values, data.labels, 4, None), components.longest, None, b"")
    assert found.counts.tolist() == [30, 20, 10, 1], "a class without images counts as one, which draws none"
    for k in range(3):
        assert np.abs(found.means[k] - values[data.labels == k].mean(axis=0)).max() < 0.6, "clipped a little"
    assert found.count_noise == 0


def striped(count, side=6, kinds=2, seed=0):
    """Return units of classes that differ in their covariances alone, of directions that differ by a hundred."""
    rng, scales = np.random.default_rng(seed), np.geomspace(1, 0.01, side)
    labels = np.arange(count) % kinds
    factors = np.where(np.arange(side) % kinds == labels[:, None], 1.0, 0.3)
    return Units.of(rng.normal(size=(count, side)) * scales * factors, labels, kinds, None), scales


def test_many_images_tell_small_variances_of_a_class_that_one_query_would_drown():
    units, scales = striped(20_000)
    # Beside a class's own variances 0.09 of the other's: what is told of the smallest direction, in its own unit.
    four = measure(units, 6.0, 1.0, b"noise").covariances
    three = measure(units, 6.0, 1.0, b"noise", most_moved=0.0).covariances

    def smallest(found):
        return [found[k, 5, 5] / scales[5] ** 2 for k in range(2)]

    assert smallest(four)[1] == pytest.approx(1.0, rel=0.3) and smallest(four)[0] < 0.3
    assert min(smallest(three)) > 3, "all that one query says of it is the noise"


def test_whether_there_is_a_fourth_query_follows_from_the_noisy_counts_and_the_noise():
    def asked(count, mu):
        return told_apart(classes_of(count, side=72), 72, mu)

    # Of BloodMNIST's 940 images a class and epsilon 10, and of 79 digits.
    assert asked(940, mu_of(10.0, 1e-5)) and not asked(79, mu_of(8.0, 1e-5))
    assert not asked(940, mu_of(1.0, 1e-5)) and not asked(940, None)
    assert pytest.approx(SPREAD) == POOLED + BY_CLASS


def test_a_matrix_of_noise_is_the_identity():
    found = told_from_one(np.eye(30) + 0.1 * symmetric_gaussian(b"seed", 1, 30)[0], 0.1)
    assert np.abs(found - np.eye(30)).max() < 0.02


@pytest.fixture
def fitted(runtime):
    """Return a function that fits a generator and returns it with its checkpoint."""

    def fit(data, privacy, seed="secret"):
        config = GeneratorConfig("moments", options={"components": 12})
        generator, saved = build_generator(config, Shape.of(data), Job(runtime), privacy), []
        generator.fit(data, Job(runtime, seed=(seed,)), lambda step, artifact: saved.append(artifact), None)
        generator.load(generator.prune(saved[0]))
        return generator, saved[0].tensors

    return fit


def test_it_draws_images_of_the_class_asked_for_the_same_for_the_same_seed(fitted):
    data = pictures((60, 60, 60))
    generator, _ = fitted(data, PrivacyConfig("dp", 8.0, 1e-5))
    labels = np.repeat([0, 1, 2], 100)
    images = np.concatenate(list(generator.sample(labels, {}, "draw")))
    assert images.shape == (300, 8, 8, 1) and images.dtype == np.uint8
    means = [images[labels == k].mean() for k in range(3)]
    assert means[0] < means[2] < means[1], "dark, striped, bright"
    again = np.concatenate(list(generator.sample(labels, {}, "draw")))
    assert np.array_equal(images, again)


def test_the_noise_is_as_the_guarantee_says_and_another_for_another_seed(fitted):
    data, strict = pictures((40, 40, 40)), PrivacyConfig("dp", 1.0, 1e-5)
    counts = np.array([fitted(data, strict, seed)[1]["counts"].numpy()[:3] for seed in range(40)])
    noise = 1 / (mu_of(1.0, 1e-5) * np.sqrt(0.4 * OF_CLASSES["count"]))
    # Counts below one are one, which a few of these are.
    assert 0.75 * noise < counts.std() < 1.25 * noise
    same = fitted(data, strict, 3)[1]
    assert np.array_equal(same["means"].numpy(), fitted(data, strict, 3)[1]["means"].numpy())


def test_groups_count_as_one_each(fitted):
    data = pictures((40, 40, 40))
    grouped = ImageSet(data.images, data.labels, data.classes, np.arange(120, dtype=np.int64) // 4)
    _, tensors = fitted(grouped, PrivacyConfig())
    assert tensors["counts"].numpy()[:3].sum() == pytest.approx(30)


def test_a_class_without_images_spoils_no_other():
    rng, labels = np.random.default_rng(0), np.repeat([0, 1], 150)
    values = rng.normal(0, 0.1, (300, 6)) + np.where(labels, 1.0, -1.0)[:, None]
    spread = {}
    for classes in (2, 12):
        found = measure(Units.of(values, labels, classes, None), 8.0, mu_of(8.0, 1e-5), b"seed")
        spread[classes] = np.trace(found.covariances[0])
    assert spread[12] < 3 * spread[2], "noise grows with the square of where the last query clips"


@pytest.mark.parametrize("count", [0, 129])
def test_no_components_or_too_many_are_refused(count, runtime):
    with pytest.raises(UserError, match=f"generator.options.components={count}"):
        build_generator(GeneratorConfig("moments", options={"components": count}), Shape(1, 8, 2), Job(runtime))
