"""A study that tries to move a hospital's images between train, val, test and holdout, by honest messages alone."""

import dataclasses
import itertools
import math
import time

import numpy as np
import pytest
import torch
import yaml
from flwr.app import Context, Message, Metadata, RecordDict

from fedkr import wire
from fedkr.data.images import Shape
from fedkr.errors import UserError
from fedkr.learning.models import build_classifier
from sites.app import app
from sites.guard import REFUSED
from sites.workspace import open_site, read_site_file

SIZE, GAIN = 8, 16.0


@pytest.fixture
def ask(hospital, study):
    """Send a message to the installed ClientApp of a hospital; return its reply."""
    config = {"site-file": str(hospital())}

    def ask(message_type, weights=None, asked=study, **settings):
        names = dict.fromkeys(("message_id", "reply_to_message_id", "group_id"), "m")
        metadata = Metadata(
            run_id=1, src_node_id=1, dst_node_id=2, created_at=time.time(), ttl=60.0, message_type=message_type, **names
        )
        content = wire.request_content(asked.to_json(), weights, **settings)
        return app(Message(content, metadata=metadata), Context(1, 1, config, RecordDict(), {}))

    return ask


def own_split(hospital, **split):
    """Write the hospital's site file with a split of its own; return the file."""
    path = hospital()
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"split": split}))
    return path


def sets(site):
    data = site.data
    return [sorted(i.tobytes() for i in part.images) for part in (data.train, data.val, data.test, data.holdout)]


def one_pixel_network(study, row, column):
    """Return weights whose first pooled feature is one pixel of an 8x8 image, ``GAIN`` times its share of 255.

    The strided convolutions pick the pixel's parity; of the four that are left, padding drops all but one.
    """
    state = build_classifier(study.student, Shape(1, SIZE, 3), "any").state_dict()
    for name, tensor in state.items():
        tensor.fill_(1.0 if name.endswith(("bn1.weight", "bn2.weight", "stem.1.weight", "running_var")) else 0.0)
    state["stem.0.weight"][0, 0, 1, 1] = 1.0
    state["stem.1.bias"][0] = 1.0
    for stage, shift in ((1, 0), (2, 1)):
        state[f"stages.{stage}.conv1.weight"][0, 0, 1 + (row >> shift & 1), 1 + (column >> shift & 1)] = 1.0
    state["stages.1.conv2.weight"][0, 0, 1, 1] = 1.0
    state["stages.2.conv2.weight"][0, 0, 2 * (row >> 2), 2 * (column >> 2)] = GAIN * 2
    return state


def read_image(ask, study, split):
    """Return the one image of a split as figures of 65 hand-made networks give it away; None where they do not."""

    def loss(weights, *logits):
        weights = weights | {"head.bias": torch.tensor(logits)}
        reply = ask(wire.EVALUATE, weights, study, split=split)
        return None if reply.has_error() else wire.read_metrics(reply.content).get(f"{split}/loss")

    blind = {name: torch.zeros_like(tensor) for name, tensor in one_pixel_network(study, 0, 0).items()}
    label_loss = loss(blind, 0.0, 3.0, 7.0)
    if label_loss is None:
        return None
    losses = [math.log(sum(map(math.exp, (0.0, 3.0, 7.0)))) - logit for logit in (0.0, 3.0, 7.0)]
    label = int(np.argmin(np.abs(np.array(losses) - label_loss)))
    pixels = []
    for row, column in itertools.product(range(SIZE), range(SIZE)):
        weights = one_pixel_network(study, row, column)
        weights["head.weight"][label, 0] = -1.0
        found = loss(weights, *(0.0 if k in (label, (label + 1) % 3) else -99.0 for k in range(3)))
        if found is None:
            return None
        pixels.append(math.log(max(math.expm1(found), 1e-9)) / GAIN * 255)
    return np.rint(pixels).clip(0, 255).astype(np.uint8).tobytes()


@pytest.mark.parametrize("split", ["test", "val"])
def test_a_split_of_one_image_cannot_be_read_pixel_by_pixel(ask, study, split, tmp_path):
    setattr(study.split, split, 1e-9)
    with np.load(tmp_path / "images.npz") as arrays:
        private = {image.tobytes() for image in arrays["train_images"]}
    assert read_image(ask, study, split) not in private


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 7},
        {"split": {"val": 1e-9, "test": 1e-9}},
        {"split": {"test": 0.4, "holdout": 0.01, "min_images": 0}},
        {"data": {"limit": 40}},
        {"data": {"test_fraction": 0.9}},
        {"audit": {"canaries": 3, "canary_kinds": ["noise"]}},
    ],
)
def test_studies_with_other_seeds_and_splits_see_the_same_four_sets(hospital, study, change):
    other = dataclasses.replace(study)
    for name, value in change.items():
        options = getattr(study, name)
        setattr(other, name, dataclasses.replace(options, **value) if isinstance(value, dict) else value)
    config = {"site-file": str(hospital())}
    one, two = open_site(config, study), open_site(config, other)
    planted = 0 if two.data.canaries is None else two.data.canaries.planted
    assert planted or sets(one) == sets(two)
    assert sets(one)[1:] == sets(two)[1:]
    assert {i.tobytes() for i in two.data.members.images} == set(sets(one)[0])


@pytest.mark.parametrize(
    ("audit", "option"),
    [
        ({"coins": True}, "audit.coins"),
        ({"canaries": 2}, "audit.canary_kinds"),
        ({"canaries": 2, "canary_kinds": ["mislabelled"]}, "audit.canary_kinds"),
        ({"canaries": 2, "canary_kinds": ["outlier"]}, "audit.canary_kinds"),
        ({"canaries": 2, "canary_kinds": ["noise"], "canary_toss": 1}, "audit.canary_toss"),
    ],
)
def test_an_audit_that_would_move_images_is_refused_before_data_are_opened(ask, study, audit, option, tmp_path):
    study.audit = dataclasses.replace(study.audit, **audit)
    (tmp_path / "images.npz").unlink()
    assert ask(wire.DESCRIBE).error.reason == REFUSED
    assert option in (tmp_path / "work" / "failure.json").read_text()


def test_a_site_that_deals_by_coins_takes_studies_with_and_without_them(hospital, study):
    config = {"site-file": str(own_split(hospital, coins=True))}
    asked = dataclasses.replace(study, seed=5, audit=dataclasses.replace(study.audit, coins=True))
    assert sets(open_site(config, study)) == sets(open_site(config, asked))


def test_patients_stay_together_in_the_sites_own_split(hospital, study, tmp_path):
    with np.load(tmp_path / "images.npz") as arrays:
        values = dict(arrays) | {"train_groups": np.arange(93) // 3}
    np.savez(tmp_path / "images.npz", **values)
    data = open_site({"site-file": str(hospital(min_class_count=1))}, study).data
    patients = [set(part.groups.tolist()) for part in (data.train, data.val, data.test, data.holdout)]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 31


def test_the_split_is_fixed_for_the_life_of_the_data(ask, hospital, study, tmp_path):
    own_split(hospital, seed=1)
    assert not ask(wire.DESCRIBE).has_error()
    own_split(hospital, seed=2)
    assert ask(wire.DESCRIBE).has_error()
    assert "a holdout would become training images" in (tmp_path / "work" / "failure.json").read_text()
    own_split(hospital, seed=1)
    assert not ask(wire.DESCRIBE).has_error()


@pytest.mark.parametrize(
    ("split", "line"),
    [
        ({"test": 0.0}, "split.test=0.0"),
        ({"val": 0.5, "test": 0.5}, "nothing to train on"),
        ({"canary_kinds": ["ghost"]}, "split.canary_kinds='ghost'"),
        ({"sede": 1}, "did you mean 'seed'"),
    ],
)
def test_a_split_that_no_site_can_have_is_one_line(hospital, split, line):
    with pytest.raises(UserError, match=line):
        read_site_file(own_split(hospital, **split))
