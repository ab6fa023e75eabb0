"""The diffusion generator: EDM's equations, its sampler against known answers, and its resume."""

import types

import numpy as np
import pytest
import torch
from diffusers import EDMDPMSolverMultistepScheduler, UNet2DModel

from fedkr.config import GeneratorConfig
from fedkr.data.images import Shape
from fedkr.errors import UserError
from fedkr.generators import build_generator
from fedkr.generators.edm.network import NOISE_SCALE, RawOutput, noise_input, reset_weights
from fedkr.learning.job import Job
from fedkr.learning.runtime import Runtime
from fedkr.seeds import torch_rng
from fedkr.stages import Artifact, read_artifact, write_artifact

SIGMA_DATA = 0.5


@pytest.fixture
def build(runtime):
    """Return a function that builds a small generator."""

    def make(size=8, channels=1, classes=4, flip="none", steps=6, checkpoints=2, **options):
        options = {"width": 8, "steps_sample": 2, **options}
        config = GeneratorConfig(steps=steps, batch=8, checkpoints=checkpoints, options=options)
        return build_generator(config, Shape(channels, size, classes), Job(runtime, flip=flip))

    return make


class Ideal(torch.nn.Module):
    """The network of the perfect denoiser of images that are normal around one mean for each class.

    D(x; sigma) = (s^2 x + sigma^2 mean) / (s^2 + sigma^2), turned into the raw output by EDM's table 1.
    """

    def __init__(self, means, spread=0.0):
        super().__init__()
        self.means, self.spread, self.seen = torch.tensor(means), spread, []

    def forward(self, inputs, noise, class_labels):
        self.seen.append(class_labels.clone())
        sigma = torch.exp(4 * noise / NOISE_SCALE)[:, None, None, None]
        total = sigma**2 + SIGMA_DATA**2
        x = inputs * total.sqrt()
        mean = self.means[class_labels][:, None, None, None]
        denoised = (self.spread**2 * x + sigma**2 * mean) / (self.spread**2 + sigma**2)
        raw = (denoised - SIGMA_DATA**2 / total * x) / (sigma * SIGMA_DATA / total.sqrt())
        return types.SimpleNamespace(sample=raw)


def drawn(generator, labels, *seed, **knobs):
    return np.concatenate(list(generator.sample(np.array(labels), {"steps": 10, "guidance": 1.0, **knobs}, *seed)))


@pytest.mark.parametrize("sigma", [0.002, 0.1, 0.5, 3.0, 80.0])
def test_the_samplers_preconditioning_is_edms_table_1(sigma):
    scheduler = EDMDPMSolverMultistepScheduler(sigma_data=SIGMA_DATA)
    x, raw = torch.tensor([0.7]), torch.tensor([-0.3])
    total = sigma**2 + SIGMA_DATA**2
    assert float(scheduler.precondition_inputs(x, sigma)) == pytest.approx(0.7 / total**0.5, rel=1e-5)
    c_skip, c_out = SIGMA_DATA**2 / total, sigma * SIGMA_DATA / total**0.5
    denoised = float(scheduler.precondition_outputs(x, raw, torch.tensor(sigma)))
    assert denoised == pytest.approx(0.7 * c_skip - 0.3 * c_out, rel=1e-5)
    c_noise = float(scheduler.precondition_noise(torch.tensor(sigma)))
    assert float(noise_input(torch.tensor(sigma))) == pytest.approx(NOISE_SCALE * c_noise, rel=1e-5)


def test_the_training_loss_of_the_perfect_network_is_zero_at_every_noise_level(build):
    generator = build()
    generator.net = Ideal([-0.6, 0.2, 0.9, 0.0])
    labels = torch.arange(64) % 4
    images = generator.net.means[labels][:, None, None, None].expand(-1, 1, 8, 8)
    assert float(generator._edm_loss(RawOutput(generator.net), images, labels, torch_rng("noise"))) < 1e-4
    assert float(generator._edm_loss(RawOutput(generator.net), images + 0.3, labels, torch_rng("noise"))) > 0.01


@pytest.mark.parametrize("steps", [2, 5, 20])
def test_with_a_perfect_denoiser_the_sampler_returns_each_classs_image(build, steps):
    generator = build()
    generator.net = Ideal([-0.6, 0.2, 0.9, 0.0])
    labels = [2, 0, 1, 1]
    expected = [round((m + 1) * 127.5) for m in (0.9, -0.6, 0.2, 0.2)]
    images = drawn(generator, labels, "s", steps=steps)
    assert np.abs(images.astype(int) - np.array(expected)[:, None, None, None]).max() <= 1


def test_with_a_perfect_denoiser_of_a_spread_set_the_samples_have_its_mean_and_spread(build):
    generator = build()
    generator.net = Ideal([0.2] * 5, spread=0.25)
    values = drawn(generator, [0] * 300, "s", steps=80) / 127.5 - 1
    assert values.mean() == pytest.approx(0.2, abs=0.01)
    assert values.std() == pytest.approx(0.25, abs=0.01)


def test_guidance_one_asks_for_the_class_alone_and_more_moves_away_from_the_null_class(build):
    generator = build()
    generator.net = Ideal([0.2, 0.0, 0.0, 0.0, 0.0])
    assert drawn(generator, [0], "s").mean() == pytest.approx((0.2 + 1) * 127.5, abs=1)
    assert {int(k) for seen in generator.net.seen for k in seen} == {0}
    assert drawn(generator, [0], "s", guidance=2.0).mean() == pytest.approx((0.4 + 1) * 127.5, abs=1)
    assert {int(k) for seen in generator.net.seen for k in seen} == {0, 4}


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (8, 3), (28, 3), (16, 1), (9, 1), (30, 3), (50, 1), (64, 3)])
def test_samples_are_uint8_images_of_the_studys_shape(build, size, channels):
    images = drawn(build(size, channels), [0, 1, 2], "s", steps=2)
    assert (images.shape, images.dtype) == ((3, size, size, channels), np.uint8)


def test_folding_keeps_every_pixel_in_its_place(build):
    generator = build(size=28, channels=3)
    images = torch.rand(2, 3, 28, 28)
    assert torch.equal(torch.nn.functional.pixel_shuffle(generator.layout.fold_in(images), 2), images)


def test_samples_depend_on_the_seed_and_not_on_how_many_follow(build, monkeypatch):
    monkeypatch.setattr("fedkr.generators.edm.generator.MOST_SAMPLED", 4)
    generator = build()
    batches = list(generator.sample(np.zeros(10, np.int64), {"steps": 2, "guidance": 1.0}, "s"))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert np.array_equal(np.concatenate(batches)[:8], drawn(generator, [0] * 8, "s", steps=2))
    assert not np.array_equal(drawn(generator, [0] * 4, "s", steps=2), drawn(generator, [0] * 4, "t", steps=2))


def trained(build, data, state=None, kill_at=None, **settings):
    """Fit a generator; return it with what it saved."""
    saved = {}

    def save(step, artifact):
        saved[step] = Artifact({n: t.clone() for n, t in artifact.tensors.items()}, dict(artifact.info))
        if step == kill_at:
            raise KeyboardInterrupt

    generator = build(**settings)
    try:
        generator.fit(data, Job(generator.task.runtime, seed=("seed",)), save, state)
    except KeyboardInterrupt:
        assert kill_at is not None
    return generator, saved


@pytest.mark.parametrize(
    ("size", "third", "options"),
    [(8, 3, {}), (16, 3, {}), (50, 1, {}), (8, 3, {"class_power": 0.5, "scale_shift": True})],
)
def test_training_resumed_from_a_checkpoint_on_disk_gives_the_same_weights_bit_by_bit(
    build, pictures, tmp_path, size, third, options
):
    data = pictures((9, 8, 7), size=size)
    settings = {"steps": 3 * third, "checkpoints": 3, "size": size, "flip": "horizontal", **options}
    _, whole = trained(build, data, **settings)
    _, first = trained(build, data, kill_at=2 * third, **settings)
    assert sorted(first) == [third, 2 * third]
    write_artifact(tmp_path / "state", first[2 * third])
    _, rest = trained(build, data, state=read_artifact(tmp_path / "state"), **settings)
    assert sorted(rest) == [3 * third]
    end, resumed = whole[3 * third].tensors, rest[3 * third].tensors
    assert end.keys() == resumed.keys()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in end.items())


@pytest.mark.parametrize(("size", "precision"), [(64, "bfloat16"), (96, "float32"), (128, "float32")])
def test_larger_images_are_learnt_and_drawn_in_either_precision(pictures, size, precision):
    runtime = Runtime.choose("cpu", precision, 1)
    options = {"width": 8, "steps_sample": 1}
    config = GeneratorConfig(steps=2, batch=2, checkpoints=1, options=options)
    generator = build_generator(config, Shape(1, size, 4), Job(runtime))
    saved = {}
    generator.fit(pictures((2, 2), size=size), Job(runtime, seed=("seed",)), saved.__setitem__, None)
    generator.load(saved[2])
    untrained = build_generator(config, Shape(1, size, 4), Job(runtime)).net
    reset_weights(untrained, "seed")
    # Attention is the same whatever is added to all keys, so its loss says nothing of this one.
    weights = {n: w for n, w in untrained.state_dict().items() if ".attentions." in n and "to_k.bias" not in n}
    assert weights
    for name, before in weights.items():
        after = saved[2].tensors[f"model.{name}"]
        assert after.dtype == torch.float32 and not torch.equal(after, before), name
    assert drawn(generator, [0, 1], "s", steps=1).shape == (2, size, size, 1)


def test_rare_classes_are_met_by_a_power_of_their_counts(build, pictures, monkeypatch):
    met, data = [], pictures((36, 4))

    def partly_dropped(self, labels, rng):
        met.append(labels)
        return labels

    monkeypatch.setattr("fedkr.generators.edm.generator.Generator.partly_dropped", partly_dropped)
    for power, share in ((1.0, 4 / 40), (0.5, 12 / 48), (0.0, 36 / 72)):
        met.clear()
        trained(build, data, steps=60, checkpoints=1, class_power=power)
        assert float(torch.cat(met).float().mean()) == pytest.approx(share, abs=0.03)


def test_a_class_may_scale_features_as_well_as_shift_them(build, pictures):
    generator, saved = trained(build, pictures((9, 8, 7)), scale_shift=True)
    shifted, scaled = build().net, generator.net
    name = "down_blocks.0.resnets.0.time_emb_proj"
    assert scaled.get_submodule(name).out_features == 2 * shifted.get_submodule(name).out_features
    fresh = build(scale_shift=True)
    fresh.load(saved[6])
    assert drawn(fresh, [0, 1], "s", steps=2).shape == (2, 8, 8, 1)


def test_a_pruned_checkpoint_samples_as_the_generator_that_saved_it(build, pictures):
    generator, saved = trained(build, pictures((9, 8, 7)))
    pruned = generator.prune(saved[6])
    assert sum(t.numel() for t in pruned.tensors.values()) < sum(t.numel() for t in saved[6].tensors.values()) / 3
    images = []
    for artifact in (saved[6], pruned):
        fresh = build()
        fresh.load(artifact)
        images.append(drawn(fresh, [0, 1], "s", steps=2))
    assert np.array_equal(*images)


def test_training_learns_to_draw_what_it_was_shown(build, pictures):
    generator, saved = trained(build, pictures((30, 30)), steps=120, checkpoints=1, drop_class=0.0, ema=0.9)
    generator.load(saved[120])
    dark, bright = (drawn(generator, [k] * 20, "s").mean() for k in (0, 1))
    assert bright - dark > 60


def test_new_weights_depend_on_the_seed_alone_and_the_output_starts_at_zero(build):
    one, two, other = build().net, build().net, build().net
    before = torch.random.get_rng_state()
    for net, seed in ((one, "a"), (two, "a"), (other, "b")):
        reset_weights(net, seed)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))
    assert not one.conv_out.weight.any()
    assert torch.equal(before, torch.random.get_rng_state())


def test_tuning_begins_with_the_default_knobs_and_tries_each_setting_once(build):
    generator = build(guidance=3.0, steps_sample=5)
    tried = generator.knob_candidates()
    assert tried[0] == generator.default_knobs()
    assert all(knobs not in tried[:i] for i, knobs in enumerate(tried))
    assert {5, 8, 18} <= {knobs["steps"] for knobs in tried}
    assert any(knobs["churn"] for knobs in tried)


def test_firmer_knobs_guide_more_where_there_is_something_to_guide_away_from(build):
    assert build().firmer_knobs({"steps": 5, "guidance": 1.5}) == {"steps": 5, "guidance": 2.0}
    assert build().firmer_knobs({"steps": 5}) == {"steps": 5, "guidance": 2.0}
    assert build().firmer_knobs({"guidance": 3.0}) == {"guidance": 3.0}
    assert build(drop_class=0.0).firmer_knobs({"guidance": 1.0}) == {"guidance": 1.0}


def test_a_knob_that_is_not_named_has_its_default(build):
    generator = build(steps_sample=3)
    some, every = ({"guidance": 1.0}, {"guidance": 1.0, "steps": 3, "churn": 0.0})
    one, other = (next(generator.sample(np.zeros(2, np.int64), knobs, "s")) for knobs in (some, every))
    assert np.array_equal(one, other)


@pytest.mark.parametrize(("size", "side"), [(16, 8), (64, 32)])
def test_the_network_computes_the_numbers_of_diffusers_own(build, size, side):
    net = build(size=size).net
    reset_weights(net, "a")
    torch.nn.init.normal_(net.conv_out.weight, std=0.01)
    own = UNet2DModel.from_config(net.config)
    own.load_state_dict(net.state_dict())
    x, noise, labels = torch.randn(64, 4, side, side, generator=torch_rng("x")), torch.zeros(64), torch.zeros(64).long()
    expected = own.train()(x, noise, class_labels=labels).sample
    assert torch.allclose(net(x, noise, class_labels=labels).sample, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"size": 1}, "data.size=1: the edm generator needs a side of 2 pixels or more"),
        ({"width": 12}, "generator.options.width=12: must be a multiple of 8"),
        ({"solver": "huen"}, "generator.options.solver='huen': unknown solver; did you mean 'heun'"),
        ({"augment": 1.5}, "generator.options.augment=1.5: a probability, from 0 to below 1"),
        ({"class_power": -1.0}, "generator.options.class_power=-1.0: a power from 0 to 1"),
        ({"lr_decay": 0.0}, "generator.options.lr_decay=0.0: a share of the steps, above 0 and up to 1"),
        ({"lr_decay": 1.5}, "generator.options.lr_decay=1.5: a share"),
        ({"drop_class": 1.0}, "generator.options.drop_class=1.0: a probability, from 0 to below 1"),
        ({"lr": 0}, "generator.options.lr=0.0: must be above 0"),
        ({"ema": 0}, "generator.options.ema=0.0: a decay between 0 and 1, such as 0.999"),
        ({"sigma_max": 0.001}, "generator.options.sigma_max=0.001: must be above sigma_min=0.002"),
        ({"churn": -1}, "generator.options.churn=-1.0: must not be negative"),
        ({"steps_sample": 0}, "generator.options.steps_sample=0: must be at least 1"),
        ({"wdith": 8}, r"generator\.options\.wdith: no such option; did you mean 'width'"),
        ({"width": "8"}, r"generator\.options\.width='8': expected int"),
    ],
)
def test_settings_that_cannot_work_are_one_line(build, settings, named):
    with pytest.raises(UserError, match=named):
        build(**settings)


@pytest.mark.parametrize("kind", ["emd", "no.such.module", "json.decoder"])
def test_an_unknown_generator_is_named(runtime, kind):
    with pytest.raises(UserError, match=f"generator.kind='{kind}'"):
        build_generator(GeneratorConfig(kind=kind), Shape(1, 8, 2), Job(runtime))
