"""``biggan_deep``: learns, continues, streams, and refuses what it cannot do."""

import numpy as np
import pytest
import torch
from torch.nn.utils import parametrize

from fedkr.data.images import Shape
from fedkr.errors import UserError
from fedkr.generators.biggan_deep.networks import Discriminator, ImageGenerator, Layout
from fedkr.learning.job import Job
from fedkr.learning.training import DivergedError
from fedkr.stages import read_artifact, write_artifact

TINY = {"width": 4, "latent": 4, "embedding": 4, "d_steps": 2, "ema_start": 1}
LEARNS = TINY | {"width": 16, "latent": 8, "embedding": 8, "lr": 0.002, "ema": 0.8, "ema_start": 10, "attention": 0}
DARK_AND_BRIGHT = np.arange(128) % 2


@pytest.fixture(scope="module")
def learnt(build, fit, two_colours):
    generator = build("biggan_deep", LEARNS, steps=45, batch=16, checkpoints=1)
    generator.load(generator.prune(fit(generator, two_colours)[45]))
    return generator


def test_a_short_training_learns_which_class_is_dark(learnt, draw):
    images = draw(learnt, DARK_AND_BRIGHT)
    assert images.dtype == np.uint8
    assert images.shape == (128, 8, 8, 1)
    assert images[DARK_AND_BRIGHT == 0].mean() + 60 < images[DARK_AND_BRIGHT == 1].mean()


def test_a_wider_latent_draws_more_varied_images(learnt, draw):
    narrow, wide = (draw(learnt, np.zeros(128), sigma=sigma).std(axis=0).mean() for sigma in (1.0, 2.0))
    assert wide > narrow


def test_the_weights_that_draw_have_statistics_and_spectral_norms_of_their_own(learnt):
    net = learnt.net
    measured = {name: m.running_mean.clone() for name, m in net.named_modules() if hasattr(m, "running_mean")}
    layers = [m for m in net.modules() if parametrize.is_parametrized(m, "weight")]
    norms = torch.stack([torch.linalg.matrix_norm(m.weight.detach().flatten(1), 2) for m in layers])
    assert torch.allclose(norms, torch.ones_like(norms), atol=0.05)
    rng = torch.Generator().manual_seed(0)
    seen = {}
    for name, module in net.named_modules():
        if name in measured:
            module.register_forward_pre_hook(lambda m, args, name=name: seen.setdefault(name, args[0]))
    with torch.inference_mode():
        net(torch.randn(1024, 8, generator=rng), torch.arange(1024) % 2)
    for name, mean in measured.items():
        spread = seen[name].std(dim=(0, 2, 3)) + 1e-3
        assert ((seen[name].mean(dim=(0, 2, 3)) - mean).abs() / spread).max() < 0.5, name


def test_a_training_read_from_its_file_goes_on_bit_by_bit(build, fit, two_colours, differing, tmp_path):
    options = TINY | {"augment": ["brightness", "translation", "cutout"]}
    whole = fit(build("biggan_deep", options), two_colours)
    first, last = sorted(whole)
    write_artifact(tmp_path / "state", whole[first])
    resumed = fit(build("biggan_deep", options), two_colours, state=read_artifact(tmp_path / "state"))
    assert list(resumed) == [last]
    assert differing(whole[last], resumed[last]) == []


def test_only_the_seed_decides_the_weights(build, fit, two_colours, differing):
    torch.manual_seed(1)
    one = fit(build("biggan_deep", TINY, steps=1), two_colours)[1]
    torch.manual_seed(2)
    before = torch.get_rng_state()
    same = fit(build("biggan_deep", TINY, steps=1), two_colours)[1]
    assert differing(one, same) == []
    assert torch.equal(torch.get_rng_state(), before)
    assert differing(one, fit(build("biggan_deep", TINY, steps=1), two_colours, seed=(1,))[1]) != []


def test_images_come_in_batches_however_many_are_asked_for(build):
    generator = build("biggan_deep", TINY)
    first = next(generator.sample(np.zeros(1_000_000, np.int64), {"sigma": 1.0}, 0))
    assert first.shape == (256, 8, 8, 1)


def test_a_pruned_checkpoint_holds_no_discriminator_and_draws_the_same(build, fit, two_colours, draw):
    generator = build("biggan_deep", TINY)
    checkpoint = fit(generator, two_colours)[4]
    pruned = generator.prune(checkpoint)
    assert not [name for name in pruned.tensors if not name.startswith("generator.average.")]
    generator.load(checkpoint)
    expected = draw(generator, [0, 1, 1])
    other = build("biggan_deep", TINY)
    other.load(pruned)
    assert np.array_equal(draw(other, [0, 1, 1]), expected)


def test_a_diverging_training_is_reported_and_saves_nothing(build, two_colours):
    saved = {}
    generator = build("biggan_deep", TINY | {"lr": 1e38})
    with pytest.raises(DivergedError, match=r"generator: the loss is nan at step \d+; lower its lr"):
        generator.fit(two_colours, Job(generator.task.runtime, seed=(0,)), saved.__setitem__, None)
    assert saved == {}


def test_tuning_tries_sigma_from_one_to_two_the_options_own_first(build):
    tried = [knobs["sigma"] for knobs in build("biggan_deep", TINY | {"sigma": 1.15}).knob_candidates()]
    assert tried[:4] == [1.15, 1.0, 1.2, 1.4]
    assert len(tried) == len(set(tried)) == 21
    assert (min(tried), max(tried)) == (1.0, 2.0)


@pytest.mark.parametrize("size", [8, 12, 20, 28, 32, 64, 96, 128])
@pytest.mark.parametrize("blocks", [1, 2])
def test_both_networks_fit_each_size_that_four_divides(size, blocks):
    layout = Layout(Shape(3, size, 2), width=4, multiplier=2, blocks=blocks, attention=16)
    labels = torch.tensor([0, 1])
    images = ImageGenerator(layout, latent=3, embedding=2)(torch.randn(2, 3), labels)
    assert images.shape == (2, 3, size, size)
    assert images.abs().max() <= 1
    assert Discriminator(layout)(images, labels).shape == (2,)


def test_attention_stands_at_the_largest_side_that_is_not_above_the_options():
    sides = {size: Layout(Shape(1, size, 2), 4, 2, 1, attention=16).attention_side() for size in (8, 28, 32, 64)}
    assert sides == {8: 8, 28: 14, 32: 16, 64: 16}
    assert Layout(Shape(1, 28, 2), 4, 2, 1, attention=0).attention_side() == 0


@pytest.mark.parametrize(
    ("options", "size", "line"),
    [
        ({"widht": 8}, 8, "generator.options.widht: no such option; did you mean 'width'?"),
        ({}, 30, "data.size=30: the biggan_deep generator needs a side of 8 to 128 pixels that 4 divides"),
        ({}, 132, "data.size=132: the biggan_deep generator needs a side of 8 to 128 pixels that 4 divides"),
        ({"width": 6}, 8, "generator.options.width=6: must be a multiple of 4"),
        ({"d_steps": 0}, 8, "generator.options.d_steps=0: must be at least 1"),
        ({"attention": -1}, 8, "generator.options.attention=-1: must not be negative"),
        ({"lr": 0.0}, 8, "generator.options.lr=0.0: must be above 0"),
        ({"ema": 1.0}, 8, "generator.options.ema=1.0: a decay between 0 and 1, such as 0.999"),
        (
            {"augment": ["cutuot"]},
            8,
            "generator.options.augment='cutuot': unknown augmentation; did you mean 'cutout'?",
        ),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(build, options, size, line):
    with pytest.raises(UserError) as caught:
        build("biggan_deep", options, size=size)
    assert str(caught.value) == line
