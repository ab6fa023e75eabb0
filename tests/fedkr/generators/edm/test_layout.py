"""How the diffusion network follows from the side of the images: what sides up to 32 keep, and what others get."""

import hashlib
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkr.config import GeneratorConfig
from fedkr.data.images import Shape
from fedkr.errors import UserError
from fedkr.generators import build_generator
from fedkr.generators.edm.layout import layout_for
from fedkr.generators.edm.network import reset_weights
from fedkr.learning.job import Job

SIDES = st.integers(2, 600)


@pytest.fixture
def net(runtime):
    """Return a function that builds the network for images of a side, its first weights drawn."""

    def make(size, channels=1, **options):
        shape, config = Shape(channels, size, 4), GeneratorConfig(options=options)
        generator = build_generator(config, shape, Job(runtime))
        reset_weights(generator.net, "facts")
        return generator.net

    return make


def digest(values):
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("size", "channels", "weights", "names"),
    [
        (8, 1, 634_913, "b4b5386cebd327bb"),
        (28, 1, 636_644, "3d369185392a2625"),
        (32, 3, 641_260, "1105371de46db9b6"),
    ],
)
def test_up_to_32_pixels_the_network_is_the_one_of_the_published_figures(net, size, channels, weights, names):
    built = net(size, channels)
    assert sum(p.numel() for p in built.parameters()) == weights
    assert digest([(name, list(value.shape)) for name, value in built.state_dict().items()]) == names


@pytest.mark.parametrize(
    ("size", "channels", "first", "last", "total"),
    [
        (8, 1, 0.2415705919265747, -0.05533213913440704, 17145.30938070842),
        (28, 1, 0.12078529596328735, -0.03158260136842728, 17188.371247113344),
        (32, 3, 0.06973542273044586, -0.05453430488705635, 17275.472560258095),
    ],
)
def test_up_to_32_pixels_its_first_weights_are_those_of_the_published_figures(net, size, channels, first, last, total):
    state = net(size, channels).state_dict()
    assert float(state["conv_in.weight"][0, 0, 0, 0]) == first
    assert float(state["up_blocks.1.resnets.1.conv2.weight"][-1, -1, -1, -1]) == last
    assert sum(value.double().abs().sum().item() for value in state.values()) == pytest.approx(total, rel=1e-12)


@given(size=SIDES)
def test_the_levels_divide_the_input_and_little_is_added(size):
    layout = layout_for(size)
    assert layout.side % 2 ** (layout.levels - 1) == 0
    assert size <= layout.side * layout.fold < size + layout.fold * 2 ** (layout.levels - 1)
    assert all(below * 2 == side for side, below in zip(layout.sides(), layout.sides()[1:], strict=False))


@given(size=SIDES)
def test_by_the_side_the_lowest_level_is_small_and_alone_has_attention(size):
    layout = layout_for(size)
    *higher, lowest = layout.sides()
    assert lowest <= 12
    assert layout.levels == 2 or (size >= 48 and lowest >= 6)
    assert layout.attends() == [*(False for _ in higher), size >= 48]


@given(size=SIDES, levels=st.integers(1, 9), attention=st.integers(1, 64))
def test_what_is_set_wins_over_the_side(size, levels, attention):
    if (size // (2 if size >= 14 else 1)).bit_length() < levels:
        with pytest.raises(UserError, match=f"generator.options.levels={levels}: images of {size} pixels fit"):
            layout_for(size, levels, attention)
        return
    layout = layout_for(size, levels, attention)
    assert (layout.levels, layout.attention) == (levels, attention)
    assert layout.attends() == [side <= attention for side in layout.sides()]


@given(size=st.integers(2, 140), seed=st.integers(0, 9))
def test_folding_out_gives_back_what_was_folded_in(size, seed):
    layout = layout_for(size)
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed))
    folded = layout.fold_in(images)
    assert folded.shape == (2, 3 * layout.fold**2, layout.side, layout.side)
    assert torch.equal(layout.fold_out(folded), images)


def test_what_is_added_to_a_side_repeats_its_last_row_and_column():
    layout, images = layout_for(9), torch.rand(1, 1, 9, 9)
    folded = layout.fold_in(images)
    assert torch.equal(folded[:, :, 9, :9], images[:, :, 8]) and torch.equal(folded[:, :, :9, 9], images[:, :, :, 8])


def test_from_48_pixels_on_the_lowest_level_and_the_middle_attend(net):
    with_attention = {name.split(".attentions")[0] for name in net(64, width=8).state_dict() if ".attentions." in name}
    assert with_attention == {"down_blocks.2", "mid_block", "up_blocks.0"}
    assert not [name for name in net(64, width=8, attention=1).state_dict() if ".attentions." in name]


@pytest.mark.parametrize(("width", "multiplier", "heads"), [(8, 1, 1), (24, 1, 3), (64, 2, 4), (8, 3, 9)])
def test_the_heads_of_attention_share_all_channels(net, width, multiplier, heads):
    attention = net(64, width=width, multiplier=multiplier).mid_block.attentions[0]
    assert attention.heads == heads
    assert attention.to_q.weight.shape == (width * multiplier**2, width * multiplier**2)


@pytest.mark.parametrize(
    ("size", "options"),
    [(2, {"width": 16}), (2, {"width": 8, "levels": 1}), (4, {"width": 8, "levels": 3}), (3, {"width": 8})],
)
def test_a_single_small_image_passes_every_network_that_is_allowed(net, size, options):
    given, noise, label = torch.zeros(1, 1, size + size % 2, size + size % 2), torch.zeros(1), torch.zeros(1).long()
    assert net(size, **options)(given, noise, class_labels=label).sample.isfinite().all()


def test_channels_stop_to_grow_at_the_third_level(net):
    assert tuple(net(128, width=8).config.block_out_channels) == (8, 16, 32, 32)


@pytest.mark.parametrize(
    ("size", "options", "line"),
    [
        (1, {}, "data.size=1: the edm generator needs a side of 2 pixels or more"),
        (28, {"levels": 5}, "generator.options.levels=5: images of 28 pixels fit 4 at most"),
        (28, {"levels": -1}, "generator.options.levels=-1: must not be negative"),
        (28, {"attention": 65}, "generator.options.attention=65: must be at most 64"),
        (
            64,
            {"width": 1024, "multiplier": 64},
            "generator.options.multiplier=64: makes 4194304 channels of width=1024; 65536 at most",
        ),
        (
            2,
            {"width": 8},
            "generator.options.width=8: at 2 levels images of 2 pixels end in one position, which 8 channels in as many"
            " groups cannot be normalised at; 16 or more, or fewer levels",
        ),
        (
            4,
            {"width": 8, "multiplier": 1, "levels": 3},
            "generator.options.width=8: at 3 levels images of 4 pixels end in one position, which 8 channels in as many"
            " groups cannot be normalised at; 16 or more, or fewer levels",
        ),
    ],
)
def test_a_network_that_cannot_be_is_one_line(runtime, size, options, line):
    with pytest.raises(UserError) as caught:
        build_generator(GeneratorConfig(options=options), Shape(1, size, 2), Job(runtime))
    assert str(caught.value) == line


def test_features_that_a_class_scales_leave_attention_as_it_is(net):
    usual, scaled = ({n for n in net(64, **o).state_dict() if "attentions" in n} for o in ({}, {"scale_shift": True}))
    assert any("mid_block" in name and "group_norm" in name for name in usual) and usual == scaled
