"""A server that asks with models of its own making: no figure that leaves a hospital tells of a single image."""

import itertools
import math
import time

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, Metadata, RecordDict

from fedkr import wire
from fedkr.data.images import Shape
from fedkr.learning.models import build_classifier
from sites.app import app
from sites.coarse import LARGEST_LOSS, Grid, robust_rates, step_for
from sites.figures import grid_of
from sites.naming import model_name
from sites.workspace import open_site

SIZE, GAIN, COUNT = 8, 16.0, 400
STEP = step_for(50, 0.02)
HOSPITAL = {"min_evaluated": 50, "allow": ["metrics", "release", "weights"]}


def test_the_figures_of_a_hospitals_own_sets_are_worth_five_images_a_step():
    assert [step_for(count, 0.02) for count in (50, 100, 249, 250, 1000)] == [0.1, 0.06, 0.04, 0.02, 0.02]


def spoiled(rng, labels, logits):
    """Return labels and logits with one image replaced, by one that is as wrong or as sure as can be."""
    classes = logits.shape[1]
    rare = np.flatnonzero(labels == labels[np.argmin(np.bincount(labels, minlength=classes)[labels])])
    one = rng.choice(rare) if rng.random() < 0.7 else rng.integers(len(labels))
    labels, logits = labels.copy(), logits.copy()
    labels[one] = rng.integers(classes)
    logits[one] = rng.choice([-60, 60, np.nan, np.inf], classes)
    return labels, logits


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("count", [50, 100, 250, 500])
def test_replacing_one_image_moves_no_figure_by_more_than_one_step(classes, count):
    rng, step = np.random.default_rng(classes * count), step_for(count, 0.02)
    for _ in range(150):
        labels = rng.choice(classes, count, p=rng.dirichlet(np.full(classes, rng.choice([0.05, 0.3, 2.0]))))
        logits = (np.eye(classes)[labels] * rng.choice([5, 0]) + rng.normal(size=(count, classes))).astype(np.float32)
        before = robust_rates(logits, labels, classes, step)
        labels, logits = spoiled(rng, labels, logits)
        after = robust_rates(logits, labels, classes, step)
        grid = Grid(step, rng.random())
        for name in ("accuracy", "balanced_accuracy", "auc"):
            assert abs(grid.rate(before[name]) - grid.rate(after[name])) <= step + 1e-6, name
        assert abs(grid.loss(before["loss"]) - grid.loss(after["loss"])) <= step * LARGEST_LOSS + 1e-6


def test_large_classes_have_the_figures_that_everybody_reports():
    rng = np.random.default_rng(0)
    labels = np.arange(2000) % 2
    logits = (np.eye(2)[labels] + rng.normal(size=(2000, 2))).astype(np.float32)
    found = robust_rates(logits, labels, 2, 0.02)
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score

    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, logits.argmax(1)))
    assert found["auc"] == pytest.approx(roc_auc_score(labels, logits[:, 1] - logits[:, 0]))


@pytest.fixture
def hospital(hospital, tmp_path):
    """Write a hospital with enough images to answer for; return a function that replaces some of them."""
    rng = np.random.default_rng(5)
    arrays = {
        "train_images": rng.integers(0, 256, (COUNT, SIZE, SIZE), dtype=np.uint8),
        "train_labels": np.arange(COUNT) % 3,
        "test_images": rng.integers(0, 256, (60, SIZE, SIZE), dtype=np.uint8),
        "test_labels": np.arange(60) % 3,
    }

    def write(kept=None, replace=(), policy=HOSPITAL):
        own = {name: array.copy() for name, array in arrays.items()}
        for index, image in replace:
            own["train_images"][index] = image
        if kept is not None:
            own |= {name: own[name][kept] for name in ("train_images", "train_labels")}
        np.savez(tmp_path / "images.npz", **own)
        # Another hospital, or a study that started again: in the middle of one, other images are refused.
        (tmp_path / "site-records" / "data.json").unlink(missing_ok=True)
        return hospital(**policy)

    write.arrays = arrays
    write()
    return write


@pytest.fixture
def ask(hospital, study, tmp_path):
    """Send a message to the installed ClientApp; return its metrics, None for a refusal."""

    def ask(message_type, weights=None, **settings):
        names = dict.fromkeys(("message_id", "reply_to_message_id", "group_id"), "m")
        metadata = Metadata(
            run_id=1, src_node_id=1, dst_node_id=2, created_at=time.time(), ttl=60.0, message_type=message_type, **names
        )
        content = wire.request_content(study.to_json(), weights, **settings)
        config = {"site-file": str(tmp_path / "site.yaml")}
        reply = app(Message(content, metadata=metadata), Context(1, 1, config, RecordDict(), {}))
        return None if reply.has_error() else wire.read_metrics(reply.content)

    return ask


def one_pixel_network(study, row, column, label, gain=GAIN):
    """Return weights whose logit of ``label`` falls by one pixel of an 8x8 image, ``gain`` times its share of 255."""
    state = build_classifier(study.student, Shape(1, SIZE, 3), "any").state_dict()
    state = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    for name in state:
        if name.endswith("running_var") or (name.endswith("weight") and state[name].ndim == 1):
            state[name] = torch.ones_like(state[name])
    state["stem.0.weight"][0, 0, 1, 1] = 1.0
    state["stem.1.bias"][0] = 1.0
    for stage, shift in ((1, 0), (2, 1)):
        state[f"stages.{stage}.conv1.weight"][0, 0, 1 + (row >> shift & 1), 1 + (column >> shift & 1)] = 1.0
    state["stages.1.conv2.weight"][0, 0, 1, 1] = 1.0
    state["stages.2.conv2.weight"][0, 0, 2 * (row >> 2), 2 * (column >> 2)] = gain * 2
    state["head.weight"][label, 0] = -1.0
    return state


def places(site, split, arrays):
    """Return the indices in the file of a split's images."""
    known = {image.tobytes(): i for i, image in enumerate(arrays["train_images"])}
    return [known[image.tobytes()] for image in getattr(site.data, split).images]


def test_the_difference_of_two_shares_does_not_show_the_image_that_they_differ_by(hospital, ask, study, tmp_path):
    opened = open_site({"site-file": str(tmp_path / "site.yaml")}, study)
    victim = places(opened, "test", hospital.arrays)[7]
    image, label = hospital.arrays["train_images"][victim], int(hospital.arrays["train_labels"][victim])
    cells = list(itertools.product(range(0, SIZE, 2), range(0, SIZE, 2)))

    def losses():
        answers = [ask(wire.EVALUATE, one_pixel_network(study, *cell, label)) for cell in cells]
        return np.array([np.nan if found is None else found["test/loss"] for found in answers])

    hospital(replace=[(victim, np.zeros((SIZE, SIZE), np.uint8))])
    without = losses()
    hospital()
    differences = (losses() - without) * len(opened.data.test)
    # What the exact loss rises by with a pixel, log(2 + exp(gain * share)) - log 3, turned round.
    read = np.log(np.maximum(3 * np.exp(np.nan_to_num(differences)) - 2, 1)) / GAIN * 255
    true = np.array([image[cell] for cell in cells], float)
    assert (np.abs(read - true) < 8).mean() < 0.5
    assert abs(np.corrcoef(read, true)[0, 1]) < 0.9 or not read.any()


def test_a_split_is_not_read_one_query_at_a_time_beyond_what_the_policy_allows(hospital, ask, study, tmp_path):
    hospital(policy=HOSPITAL | {"max_models": 10})
    cells = list(itertools.product(range(SIZE), range(2)))
    answers = [ask(wire.EVALUATE, one_pixel_network(study, *cell, 0)) for cell in cells]
    assert [answer is not None for answer in answers] == 10 * [True] + 6 * [False]
    # A new workspace, and the same models again, change nothing.
    hospital(policy=HOSPITAL | {"max_models": 10})
    (tmp_path / "work").rename(tmp_path / "gone")
    again = [ask(wire.EVALUATE, one_pixel_network(study, *cell, 0)) for cell in cells]
    assert [found and figures(found) for found in again] == [found and figures(found) for found in answers]


def test_each_split_of_a_model_and_changed_images_cost_an_answer(hospital, ask, study):
    policy = HOSPITAL | {"max_models": 3}
    hospital(policy=policy)
    model = build_classifier(study.student, Shape(1, SIZE, 3), "server").state_dict()
    asked = [ask(wire.EVALUATE, model, split=split) for split in ("test", "val", "val", "test")]
    hospital(policy=policy, replace=[(0, np.zeros((SIZE, SIZE), np.uint8))])
    asked += [ask(wire.EVALUATE, model, split=split) for split in ("test", "val")]
    assert [answer is not None for answer in asked] == [True] * 5 + [False]


def test_models_that_are_one_function_have_offsets_that_no_image_decides(hospital, study, tmp_path):
    """Else answers that differ would show an image: that of two models that differ by what it alone sets off."""
    opened = open_site({"site-file": str(tmp_path / "site.yaml")}, study)
    state = build_classifier(study.student, Shape(1, SIZE, 3), "server").state_dict()
    names = [model_name(study, state | {"head.bias": torch.tensor([bias, 0.0, 0.0])}) for bias in (50.0, 51.0, 50.0)]
    offsets = [grid_of(opened, 60, "test", name).offset for name in names]
    hospital(replace=[(i, np.zeros((SIZE, SIZE), np.uint8)) for i in range(COUNT)])
    changed = open_site({"site-file": str(tmp_path / "site.yaml")}, study)
    assert offsets == [grid_of(changed, 60, "test", name).offset for name in names]
    assert offsets[0] == offsets[2] != offsets[1]


def test_answers_of_k_models_know_a_rate_no_better_than_a_step_over_twice_the_root_of_k():
    rng = np.random.default_rng(0)
    rates = rng.integers(15, 30, 2000) / 60
    means = [np.mean([Grid(0.1, offset).rate(rate) for offset in rng.random(40)]) for rate in rates]
    assert 0.03 / math.sqrt(40) < np.std(means - rates) <= 0.05 / math.sqrt(40)


def test_whether_an_answer_comes_depends_on_no_pixel(hospital, ask, study):
    for gain in (1.6e38, 1e38):
        overflowing = one_pixel_network(study, 0, 0, 0, gain)
        overflowing["head.weight"][1, 0] = -100.0
        found = ask(wire.EVALUATE, overflowing)
        assert found is not None and all(map(math.isfinite, found.values()))


def figures(answer):
    return {name: value for name, value in answer.items() if name != "seconds"}


def within_a_step(one, two):
    assert one.keys() == two.keys()
    for name in one:
        counted = two.get("val-count", 1) if name in ("val-correct", "val-loss") else 1
        step = STEP * counted * (LARGEST_LOSS if "loss" in name else 1)
        assert abs(one[name] - two[name]) <= step + 1e-6, name


QUESTIONS = [
    (wire.LOCAL, {}),
    (wire.EVALUATE, {"split": "test"}),
    (wire.EVALUATE, {"split": "val"}),
    (wire.TRAIN, {"server_round": 1, "local_epochs": 1, "lr": 0.05, "candidate": "c"}),
]


def test_changing_one_private_image_changes_no_figure_of_a_given_model_by_more_than_a_step(
    hospital, ask, study, tmp_path
):
    opened = open_site({"site-file": str(tmp_path / "site.yaml")}, study)
    model = build_classifier(study.student, Shape(1, SIZE, 3), "server").state_dict()
    asked = [(kind, None if kind == wire.LOCAL else model, settings) for kind, settings in QUESTIONS]
    before = [figures(ask(kind, weights, **settings)) for kind, weights, settings in asked]
    assert all(before)
    for split in ("train", "val", "test"):
        hospital(replace=[(places(opened, split, hospital.arrays)[3], np.full((SIZE, SIZE), 255, np.uint8))])
        for (kind, weights, settings), was in zip(asked, before, strict=True):
            # The site's own model is another one once it was trained on another image.
            if kind != wire.LOCAL or split == "test":
                within_a_step(was, figures(ask(kind, weights, **settings)))


def test_hospitals_that_differ_by_an_image_or_two_of_a_class_give_equal_counts_and_rates_within_a_step(
    hospital, ask, study
):
    model = build_classifier(study.student, Shape(1, SIZE, 3), "server").state_dict()

    def answers():
        counts = {name: value for name, value in figures(ask(wire.LOCAL)).items() if "count" in name}
        return counts, [figures(ask(wire.EVALUATE, model, split=split)) for split in ("test", "val")]

    counts, rates = answers()
    assert counts and all(rates)
    for dropped in ([4], [4, 7], [5, 8]):
        hospital(kept=np.setdiff1d(np.arange(COUNT), dropped))
        fewer_counts, fewer_rates = answers()
        assert fewer_counts == counts
        for whole, less in zip(rates, fewer_rates, strict=True):
            within_a_step(whole, less)


def test_fewer_images_than_the_policy_asks_for_give_no_figure_and_lose_no_site(hospital, ask, study):
    hospital(policy=HOSPITAL | {"min_evaluated": 61})
    model = build_classifier(study.student, Shape(1, SIZE, 3), "server").state_dict()
    assert set(ask(wire.LOCAL)) == {"seconds"}
    found = ask(wire.EVALUATE, model, split="val")
    assert set(found) == {"seconds"} and set(wire.read_utility(found, "val").values()) == {None}
    found = ask(wire.TRAIN, model, **QUESTIONS[3][1])
    assert (found["val-count"], found["val-correct"], found["val-loss"]) == (0, 0, 0)


def test_times_leave_in_whole_minutes(ask):
    assert ask(wire.LOCAL)["seconds"] % 60 == 0
