"""``mixture``: equal shares whatever the batches, members trained as if alone, and one state for all."""

import sys
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pytest

from fedkr.errors import UserError
from fedkr.generators.mixture import shares, split
from fedkr.learning.training import DivergedError
from fedkr.stages import read_artifact, write_artifact

TINY = {"width": 4, "latent": 4, "embedding": 4, "d_steps": 1, "attention": 0}


@dataclass
class Options:
    grey: int = 0
    batch: int = 7
    knob: str = "grey"


class Counting:
    """Draws images of one grey whose first pixel counts on, in batches of a set size."""

    def __init__(self, task, options):
        self.options = options

    def default_knobs(self):
        return {self.options.knob: 0.0}

    def knob_candidates(self):
        return [{self.options.knob: value} for value in (0.0, 1.0)]

    def firmer_knobs(self, knobs):
        return {name: value + 2.0 for name, value in knobs.items()}

    def sample(self, labels, knobs, *seed):
        assert list(knobs) == [self.options.knob]
        images = np.full((len(labels), 2, 2, 1), self.options.grey, np.uint8)
        images[:, 0, 0, 0], images[:, 0, 1, 0] = np.arange(len(labels)) % 256, labels
        for start in range(0, len(labels), self.options.batch):
            yield images[start : start + self.options.batch]


@pytest.fixture
def counting(monkeypatch):
    """The kind ``elsewhere.counting``, as a user's own generator would be named."""
    module = ModuleType("elsewhere.counting")
    module.Options, module.Generator = Options, Counting
    monkeypatch.setitem(sys.modules, "elsewhere", ModuleType("elsewhere"))
    monkeypatch.setitem(sys.modules, "elsewhere.counting", module)

    def members(*options):
        return {"members": [{"kind": "elsewhere.counting", "options": o} for o in options]}

    return members


@pytest.fixture
def two_gans(build):
    return lambda: build("mixture", {"kind": "biggan_deep", "copies": 2, "options": TINY})


def test_members_draw_equally_many_images_of_each_class():
    labels = np.random.default_rng(0).integers(0, 3, 200)
    owners = shares(labels, 3)
    assert set(np.bincount(owners)) <= {66, 67}
    for label in range(3):
        counts = np.bincount(owners[labels == label], minlength=3)
        assert counts.max() - counts.min() <= 1


def test_members_take_turns_within_a_class():
    assert shares(np.array([0, 0, 1, 0, 1, 1]), 2).tolist() == [0, 1, 1, 0, 0, 1]


def test_what_is_drawn_does_not_depend_on_the_members_batches(build, draw, counting):
    labels = np.arange(600) % 5
    one, other = (
        draw(build("mixture", counting({"grey": 10, "batch": a}, {"grey": 20, "batch": b})), labels)
        for a, b in ((7, 300), (64, 1))
    )
    assert np.array_equal(one, other)
    assert np.array_equal(one[:, 0, 1, 0], labels)
    assert np.array_equal(np.where(one[:, 1, 1, 0] == 10, 0, 1), shares(labels, 2))
    assert np.array_equal(one[one[:, 1, 1, 0] == 20][:, 0, 0, 0], np.arange(300) % 256)


def test_images_come_in_batches_however_many_are_asked_for(build, counting):
    mixture = build("mixture", counting({}, {}))
    batches = mixture.sample(np.zeros(100_000, np.int64), mixture.default_knobs(), 0)
    assert [len(next(batches)) for _ in range(3)] == [256, 256, 256]


def test_fewer_images_than_members_are_drawn_too(build, draw, counting):
    assert len(draw(build("mixture", counting({}, {}, {})), [1])) == 1
    assert list(build("mixture", counting({}, {})).sample(np.zeros(0, np.int64), {"grey": 0.0}, 0)) == []


def test_knobs_are_shared_and_those_of_other_kinds_added(build, counting):
    mixture = build("mixture", counting({}, {}, {"knob": "other"}))
    assert mixture.default_knobs() == {"grey": 0.0, "other": 0.0}
    candidates = [{"grey": 0.0, "other": 0.0}, {"grey": 1.0, "other": 0.0}, {"grey": 0.0, "other": 1.0}]
    assert mixture.knob_candidates() == candidates


def test_firmer_knobs_of_a_mixture_are_those_that_every_member_has(build, counting):
    mixture = build("mixture", counting({}, {}, {"knob": "other"}))
    assert mixture.firmer_knobs({"grey": 0.0, "other": 0.5}) == {"grey": 2.0, "other": 2.5}
    assert mixture.firmer_knobs({"grey": 0.0}) == {"grey": 2.0, "other": 2.0}
    members = [{"kind": "edm", "options": {"drop_class": 0.0}}, {"kind": "edm"}]
    assert build("mixture", {"members": members}).firmer_knobs({"guidance": 1.0})["guidance"] == 1.0
    assert build("mixture", {"members": members[1:] * 2}).firmer_knobs({"guidance": 1.0})["guidance"] == 2.0


def test_a_checkpoint_holds_the_corresponding_ones_of_members_trained_alone(
    build, fit, two_colours, two_gans, differing
):
    together = fit(two_gans(), two_colours)
    for index in range(2):
        alone = fit(build("biggan_deep", TINY), two_colours, seed=(0, "member", index))
        assert list(alone) == list(together) == [2, 4]
        for step in alone:
            assert differing(split(together[step])[index], alone[step]) == []


def test_a_mixture_read_from_its_file_goes_on_bit_by_bit(fit, two_colours, two_gans, differing, tmp_path):
    whole = fit(two_gans(), two_colours)
    write_artifact(tmp_path / "state", whole[2])
    resumed = fit(two_gans(), two_colours, state=read_artifact(tmp_path / "state"))
    assert list(resumed) == [4]
    assert differing(whole[4], resumed[4]) == []


def test_a_pruned_checkpoint_draws_with_every_member(fit, two_colours, two_gans, draw):
    mixture, other = two_gans(), two_gans()
    checkpoint = fit(mixture, two_colours)[4]
    pruned = mixture.prune(checkpoint)
    assert len(pruned.tensors) < len(checkpoint.tensors) / 2
    mixture.load(checkpoint)
    other.load(pruned)
    assert np.array_equal(draw(mixture, [0, 0, 1, 1]), draw(other, [0, 0, 1, 1]))


def test_progress_counts_the_steps_of_all_members(fit, two_colours, two_gans):
    told = []

    class Notes:
        def update(self, stage, done, total, unit="step", **numbers):
            told.append((stage, done, total))

        def finish(self, stage):
            told.append((stage, "finished"))

    fit(two_gans(), two_colours, progress=Notes())
    assert told == [*(("generator", done, 8) for done in range(1, 9)), ("generator", "finished")]


def test_a_diverging_member_is_named(build, fit, two_colours):
    members = [{"kind": "biggan_deep", "options": TINY | {"lr": lr}} for lr in (1e-4, 1e38)]
    with pytest.raises(DivergedError, match="member 2 of 2: generator: the loss is nan"):
        fit(build("mixture", {"members": members}), two_colours)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"copeis": 2}, "generator.options.copeis: no such option; did you mean 'copies'?"),
        ({"copies": 0}, "generator.options.copies=0: must be at least 1"),
        ({"kind": "edn"}, "generator.options.kind='edn': unknown generator; did you mean 'edm'?"),
        ({"options": {"widht": 8}}, "generator.options.options.widht: no such option; did you mean 'width'?"),
        ({"members": [{"knid": "edm"}]}, "generator.options.members[0].knid: no such option; did you mean 'kind'?"),
        (
            {"members": [{}, {"kind": "biggan_deep", "options": {"d_step": 1}}]},
            "generator.options.members[1].options.d_step: no such option; did you mean 'd_steps'?",
        ),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(build, options, line):
    with pytest.raises(UserError) as caught:
        build("mixture", options)
    assert str(caught.value) == line
