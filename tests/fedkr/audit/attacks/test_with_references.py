import math

import numpy as np
import pytest

from fedkr.audit.attacks.bavaria import bavaria, bavaria_offline
from fedkr.audit.attacks.lira import lira_offline, lira_online
from fedkr.audit.attacks.observed import Observed
from fedkr.audit.attacks.queries import Queries
from fedkr.audit.attacks.rmia import Population, choose_offline_a, rmia_offline, rmia_online
from fedkr.audit.attacks.with_references import Answers, ReferenceSignals, reference_attack_score, reference_signals
from fedkr.audit.challenge import candidates, site_challenge, site_population
from fedkr.config import REFERENCE_ATTACKS
from fedkr.data.images import ImageSet
from fedkr.errors import UserError

MODELS, VIEWS, IMAGES, POPULATION, K = 6, 2, 7, 5, 3


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    labels, population_labels = rng.integers(0, K, IMAGES), rng.integers(0, K, POPULATION)
    membership = rng.permuted(np.repeat(np.arange(MODELS)[:, None] < 3, IMAGES, axis=1), axis=0)
    shapes = (VIEWS, IMAGES, K), (VIEWS, POPULATION, K), (MODELS, VIEWS, IMAGES, K), (MODELS, VIEWS, POPULATION, K)
    target, population, *references = (rng.normal(0, 2, shape).astype(np.float32) for shape in shapes)
    signals = ReferenceSignals("direct", *references, membership, False)
    return Answers(target, labels), Answers(population, population_labels), signals


def probability(logits, label):
    exponentials = [math.exp(float(z)) for z in logits]
    return exponentials[label] / sum(exponentials)


def loop_probabilities(logits, labels):
    """[N, A] for logits [A, N, K], one number at a time."""
    return np.array([[probability(view[i], label) for view in logits] for i, label in enumerate(labels)])


@pytest.mark.parametrize("name", REFERENCE_ATTACKS)
def test_every_attack_reads_its_signal_of_the_true_class_on_every_view(case, name):
    target, population, signals = case
    p, z = (loop_probabilities(answers.logits, answers.labels) for answers in (target, population))
    p_refs = np.array([loop_probabilities(model, target.labels) for model in signals.logits])
    z_refs = np.array([loop_probabilities(model, population.labels) for model in signals.population])
    odds = Observed(np.log(p / (1 - p)), np.log(p_refs / (1 - p_refs)), signals.membership)
    images, others = Observed(p, p_refs, signals.membership), Population(z, z_refs)
    expected = {
        "lira-online": lambda: lira_online(odds),
        "lira-online-fixed": lambda: lira_online(odds, fixed_variance=True),
        "lira-offline": lambda: lira_offline(odds),
        "lira-offline-fixed": lambda: lira_offline(odds, fixed_variance=True),
        "bavaria": lambda: bavaria(odds),
        "bavaria-offline": lambda: bavaria_offline(odds),
        "rmia": lambda: rmia_online(images, others, gamma=1.5),
        "rmia-offline": lambda: rmia_offline(images, others, gamma=1.5, a=choose_offline_a(images, others)),
    }[name]()
    found = reference_attack_score(name, target, population, signals, 1.5)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_signals_are_asked_for_on_the_same_views_of_candidates_and_population(make_world):
    world = make_world(canaries=6)
    challenge = site_challenge(world.data)
    images, population = candidates(challenge), site_population(world.data, challenge)
    signals = reference_signals(world.references(4), images, population, Queries(3, "horizontal"), "pipeline", True)
    assert (signals.logits.shape, signals.population.shape) == ((4, 3, 136, 3), (4, 3, 60, 3))
    assert (signals.kind, signals.others) == ("pipeline", True)


class Brightness:
    membership = np.array([[True, False]])

    def logits(self, images):
        return images.reshape(1, len(images), -1)[:, :, :2].astype(np.float32)


def test_references_see_the_mirror_image_as_the_second_view():
    image = np.arange(16, dtype=np.uint8).reshape(2, 2, 4, 1)
    data = ImageSet(image, np.zeros(2, np.int64), ("a", "b"))
    signals = reference_signals(Brightness(), data, data, Queries(2, "horizontal"), "direct", False)
    assert signals.logits[0, :, 0].tolist() == [[0, 1], [3, 2]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "rmja"}, "did you mean 'rmia"),
        ({"target": np.zeros((1, IMAGES, K), np.float32)}, "answered on views"),
        ({"population": np.zeros((VIEWS, 1, K), np.float32)}, "population images"),
        ({"target": np.full((VIEWS, IMAGES, K), np.nan, np.float32)}, "diverged"),
    ],
)
def test_what_does_not_fit_is_named(case, change, words):
    target, population, signals = case
    target = Answers(change.get("target", target.logits), target.labels)
    population = Answers(change.get("population", population.logits), population.labels)
    with pytest.raises(UserError, match=words):
        reference_attack_score(change.get("name", "rmia"), target, population, signals, 1.0)


def test_signals_of_an_unknown_kind_or_of_other_shapes_are_refused(case):
    signals = case[-1]
    with pytest.raises(UserError, match="kind 'indirect'"):
        ReferenceSignals("indirect", signals.logits, signals.population, signals.membership, False)
    with pytest.raises(UserError, match="do not fit"):
        ReferenceSignals("direct", signals.logits, signals.population, signals.membership[:, 1:], False)
