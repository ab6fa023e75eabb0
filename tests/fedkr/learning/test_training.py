"""The training loop: its schedules, its average, its error when a loss is no number, and its resume."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import fedkr.learning.prediction as prediction_module
from fedkr.environment import hardware
from fedkr.errors import UserError
from fedkr.learning.prediction import forward_batch, predict_logits, to_model_input
from fedkr.learning.runtime import Runtime
from fedkr.learning.training import CHECK_EVERY, Average, DivergedError, Training, cosine, flat_warmup
from fedkr.progress import SilentProgress
from fedkr.seeds import torch_rng

CPU = Runtime(torch.device("cpu"), None)


def a_model():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    generator = torch_rng("weights")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def a_training(kind="sgd", **settings):
    model = a_model()
    optimizer = {
        "sgd": lambda: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True),
        "adamw": lambda: torch.optim.AdamW(model.parameters(), lr=0.01, fused=True),
    }[kind]()
    training = Training(model, optimizer, lambda step: cosine(step, 60, 5), CPU, **settings)

    def loss_at(step):
        inputs = torch.randn(16, 4, generator=torch_rng("inputs", step))
        return model(inputs).square().mean()

    return training, loss_at


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("stop", [1, 17, 59])
def test_a_training_continued_from_its_state_gives_the_same_weights_bit_by_bit(kind, stop):
    settings = {"average": Average(0.9), "clip": 1.0}
    whole, loss_at = a_training(kind, **settings)
    whole.advance(loss_at, 60, SilentProgress(), "stage")
    first, loss_at = a_training(kind, **settings)
    first.advance(loss_at, stop, SilentProgress(), "stage")
    kept = copy.deepcopy(first.state())
    second, loss_at = a_training(kind, **settings)
    second.restore(kept, stop)
    second.advance(loss_at, 60, SilentProgress(), "stage")
    assert whole.state().keys() == second.state().keys()
    assert all(torch.equal(value, second.state()[name]) for name, value in whole.state().items())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_training_in_one_line_that_names_stage_step_and_rate(value):
    training, loss_at = a_training()
    with pytest.raises(
        DivergedError, match=rf"^teacher: the loss is {value} at step {CHECK_EVERY}; lower its lr \(now"
    ):
        training.advance(
            lambda step: loss_at(step) * (value if step == CHECK_EVERY - 1 else 1), 60, SilentProgress(), "teacher"
        )


def test_a_loss_that_is_no_number_at_the_last_step_is_noticed_too():
    training, loss_at = a_training()
    with pytest.raises(DivergedError, match=r"at step 3; lower its lr \(now 0.1\)"):
        training.advance(lambda step: loss_at(step) * math.nan, 3, SilentProgress(), "student")


def test_weights_that_became_nan_between_two_looks_are_noticed_at_the_next():
    training, loss_at = a_training()
    with pytest.raises(DivergedError):
        training.advance(lambda step: loss_at(step) * (math.nan if step == 2 else 1), 60, SilentProgress(), "student")


def test_the_average_follows_the_weights_with_the_ramp_of_its_first_steps():
    training, loss_at = a_training(average=Average(0.5))
    expected = training.model.state_dict()["0.weight"].clone()
    for step in range(1, 20):
        training.advance(loss_at, step, SilentProgress(), "stage")
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * training.model.state_dict()["0.weight"]
    assert torch.allclose(training.average["0.weight"], expected, atol=1e-6)


def test_gradients_are_clipped_where_that_is_asked():
    training, loss_at = a_training(clip=1e-4)
    before = [p.detach().clone() for p in training.model.parameters()]
    training.advance(lambda step: 1e6 * loss_at(step), 1, SilentProgress(), "stage")
    moved = sum((p - b).square().sum() for p, b in zip(training.model.parameters(), before, strict=True)).sqrt()
    assert float(moved.detach()) <= 0.1 * 2 * 1e-4


def test_progress_hears_of_every_step_and_of_the_whole_length():
    heard = []

    class Listener(SilentProgress):
        def update(self, stage, done, total, unit="step", **numbers):
            heard.append((stage, done, total, set(numbers)))

    training, loss_at = a_training()
    training.advance(loss_at, 3, Listener(), "teacher", total=60)
    assert heard == [("teacher", 1, 60, set()), ("teacher", 2, 60, set()), ("teacher", 3, 60, {"loss"})]


def test_cosine_warms_up_linearly_and_ends_near_zero():
    factors = [cosine(step, 100, 10) for step in range(100)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert 0 < factors[-1] < 0.001
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))


def test_the_generators_schedule_is_flat_between_warm_up_and_the_last_fifth():
    factors = [flat_warmup(step, 1000, decay=0.2) for step in range(1000)]
    assert factors[0] == pytest.approx(1 / 50)
    assert set(factors[49:801]) == {1.0}
    assert factors[900] == pytest.approx(0.5)
    assert min(flat_warmup(step, 1, decay=0.2) for step in range(1)) > 0


def test_the_generators_schedule_can_fall_all_the_way():
    factors = [flat_warmup(step, 1000, decay=1.0) for step in range(1000)]
    assert max(factors) == factors[47] == pytest.approx(0.953)
    assert factors[500] == pytest.approx(0.5)
    assert all(a > b > 0 for a, b in itertools.pairwise(factors[50:]))


def test_pixels_become_numbers_between_minus_one_and_one():
    pixels = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 2, 1)
    assert to_model_input(pixels).flatten().tolist() == [-1.0, 1.0]
    assert to_model_input(torch.zeros(2, 5, 7, 3, dtype=torch.uint8)).shape == (2, 3, 5, 7)


def test_logits_do_not_depend_on_how_images_are_batched_and_leave_the_model_in_evaluation_mode(monkeypatch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).train()
    images = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 1), dtype=np.uint8)
    whole = predict_logits(model, images, CPU)
    monkeypatch.setattr(prediction_module, "MOST_AT_ONCE", 0)
    assert np.allclose(predict_logits(model, images, CPU), whole, atol=1e-6)
    assert not model.training
    assert predict_logits(model, images, CPU).dtype == np.float32


def test_the_runtime_names_what_results_depend_on(runtime):
    assert runtime.describe() == {"device": "cpu", "precision": "float32"}
    assert torch.get_num_threads() == 1
    assert Runtime.choose("cpu", "bfloat16", 1).describe()["precision"] == "bfloat16"


def test_a_pytorch_that_cannot_be_asked_for_its_processor_computes_in_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert Runtime.choose("cpu", "auto", 1).describe()["precision"] == "float32"
    assert hardware()["processor"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_device_that_is_not_there_is_one_line():
    with pytest.raises(UserError, match=r"device='cuda:1': this machine has no CUDA GPU; use device=cpu"):
        Runtime.choose("cuda:1")


@pytest.fixture
def one_old_gpu(monkeypatch):
    """A machine with one GPU that does not compute in bfloat16."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: including_emulation)


@pytest.mark.parametrize("device", ["cuda:1", "cuda:", "cuda:one"])
def test_a_gpu_that_is_not_there_is_answered_with_those_that_are(one_old_gpu, device):
    with pytest.raises(UserError, match=f"^device='{device}': no GPU of this machine; one of: cuda, cuda:0$"):
        Runtime.choose(device)


def test_a_gpu_that_only_emulates_bfloat16_computes_in_float32(one_old_gpu):
    assert Runtime.choose("auto").describe() == {"device": "cuda", "precision": "float32"}
    assert Runtime.choose("cuda:0", "bfloat16").describe()["precision"] == "bfloat16"


@pytest.mark.parametrize(("size", "most"), [(8, 512), (64, 512), (128, 128), (224, 41)])
def test_fewer_large_images_go_through_a_classifier_at_once(size, most):
    assert forward_batch(size) == most
