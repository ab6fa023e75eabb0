"""Networks side by side compute what they compute apart."""

import pytest
import torch

from fedkr.config import ClassifierConfig
from fedkr.data.images import Shape
from fedkr.learning.classifier import sgd, soft_label_loss
from fedkr.learning.models import build_classifier
from fedkr.learning.models.stacked import CONVOLUTIONS, Stack, saved_bytes, unstack


def networks(count, norm="batch", seed="weights", arch="resnet8"):
    config = ClassifierConfig(arch=arch, width=8, norm=norm)
    return [build_classifier(config, Shape(3, 8, 4), seed, index) for index in range(count)]


def batches(count, steps=1, batch=6):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(steps, batch, count, 3, 8, 8, generator=generator)
    return inputs, torch.randn(steps, batch, count, 4, generator=generator).softmax(3)


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
@pytest.mark.parametrize("training", [True, False])
def test_a_stack_answers_as_its_networks_do(convolution, norm, training):
    models = [model.train(training) for model in networks(3, norm)]
    inputs = batches(3)[0][0]
    found = Stack(models, convolution).train(training)(inputs.flatten(1, 2))
    apart = torch.stack([model(inputs[:, m]) for m, model in enumerate(models)], dim=1)
    assert found.shape == (6, 3, 4)
    torch.testing.assert_close(found, apart, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_steps_on_the_sum_of_the_losses_are_each_network_s_own_steps(convolution):
    config = ClassifierConfig(lr=0.05)
    apart, together = networks(3), networks(3)
    stacked = Stack(together, convolution)
    joint, own = sgd(stacked, config), [sgd(model, config) for model in apart]
    for inputs, targets in zip(*batches(3, steps=4), strict=True):
        joint.zero_grad()
        (3 * soft_label_loss(stacked(inputs.flatten(1, 2)).flatten(0, 1), targets.flatten(0, 1), "kl")).backward()
        joint.step()
        for m, model in enumerate(apart):
            own[m].zero_grad()
            soft_label_loss(model(inputs[:, m]), targets[:, m], "kl").backward()
            own[m].step()
    unstack(stacked, together)
    for one, other in zip(apart, together, strict=True):
        for name, value in one.state_dict().items():
            torch.testing.assert_close(value, other.state_dict()[name], atol=2e-5, rtol=1e-3, msg=name)


def test_unstacking_returns_what_was_stacked_and_leaves_the_networks_alone():
    models = networks(2)
    before = [{name: value.clone() for name, value in model.state_dict().items()} for model in models]
    stacked = Stack(models)
    with torch.no_grad():
        for parameter in stacked.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, models[1].state_dict()[name]) for name, value in before[1].items())
    others = networks(2, seed="other")
    unstack(Stack(models), others)
    for state, model in zip(before, others, strict=True):
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())


def test_the_weight_decay_of_a_stack_spares_what_it_spares_in_one_network():
    stacked = Stack(networks(2))
    decayed = {name for name, parameter in stacked.network.named_parameters() if parameter.ndim > 1}
    assert decayed == {name for name, parameter in networks(1)[0].named_parameters() if parameter.ndim > 1}


def test_the_memory_of_a_stack_grows_with_its_networks_and_its_batch():
    one, two = Stack(networks(1)), Stack(networks(2))
    assert saved_bytes(two, (6, 6, 8, 8)) > 1.9 * saved_bytes(one, (6, 3, 8, 8))
    assert saved_bytes(one, (12, 3, 8, 8)) > 1.5 * saved_bytes(one, (6, 3, 8, 8))
    assert saved_bytes(Stack(networks(1), "matmul"), (6, 3, 8, 8)) > 2 * saved_bytes(one, (6, 3, 8, 8))


def test_counting_the_memory_leaves_the_network_where_it_is():
    stacked = Stack(networks(1)).eval()
    before = {name: value.clone() for name, value in stacked.state_dict().items()}
    saved_bytes(stacked, (6, 3, 8, 8))
    assert all(torch.equal(value, stacked.state_dict()[name]) for name, value in before.items())
    assert not stacked.training
