"""What a site answers to each message, on its own images and within its policy."""

import dataclasses
import math
import time

import numpy as np
import pytest
import torch
from flwr.app import Message, Metadata

from fedkr import wire
from fedkr.data.images import Shape
from fedkr.documents import DOCUMENTS
from fedkr.errors import UserError
from fedkr.learning.models import build_classifier
from fedkr.learning.prediction import predict_logits
from fedkr.privacy.accountant import mu_of
from fedkr.recycle.pipeline import SitePipeline
from fedkr.release import check_release
from sites.figures import public_count
from sites.handlers import HANDLERS, audited_model
from sites.policy import COUNT_STEP, PolicyError
from sites.workspace import Site, open_site


@pytest.fixture
def site(hospital, study):
    """Return a function that opens the hospital with a policy."""
    return lambda study=study, **policy: open_site({"site-file": str(hospital(**policy))}, study)


def model(study, classes=3, seed="server"):
    return build_classifier(study.student, Shape(1, 8, classes), seed)


@pytest.fixture
def ask(study):
    """Send one request to a handler, through the wire; return the content of the answer."""

    def send(site, message_type, weights=None, **settings):
        content = wire.request_content(study.to_json(), weights, **settings)
        names = dict.fromkeys(("message_id", "reply_to_message_id", "group_id"), "")
        metadata = Metadata(
            run_id=1, src_node_id=1, dst_node_id=2, created_at=time.time(), ttl=9.0, message_type=message_type, **names
        )
        return HANDLERS[message_type](site, wire.read_request(Message(content, metadata=metadata)))

    return send


def one_round(study, classes=3, **settings):
    usual = {"server_round": 1, "local_epochs": 1, "lr": 0.05, "candidate": "c"}
    return {"weights": model(study, classes).state_dict(), **usual, **settings}


@pytest.mark.parametrize(("count", "shown"), [(0, 50), (1, 50), (74, 50), (76, 100), (100, 100), (1234, 1250)])
def test_a_count_that_is_not_exact_is_rounded_and_never_zero(site, count, shown):
    assert public_count(site(exact_counts=False), count) == shown
    assert public_count(site(exact_counts=False), count) % COUNT_STEP == 0


def test_exact_counts_leave_only_where_the_policy_says_so(site, ask):
    assert public_count(site(exact_counts=True), 76) == 76
    card = wire.read_document(ask(site(exact_counts=True, min_class_count=1), wire.DESCRIBE), wire.CARD)
    assert sum(map(sum, card["counts"].values())) == 93
    card = wire.read_document(ask(site(exact_counts=False), wire.DESCRIBE), wire.CARD)
    assert "counts" not in card


def replace_one_pixel(path):
    arrays = dict(np.load(path))
    arrays["train_images"][0, 0, 0] ^= 1
    np.savez(path, **arrays)


def test_a_card_changes_with_the_images_and_its_digest_is_keyed_by_the_sites_secret(site, ask, tmp_path):
    first = wire.read_document(ask(site(), wire.DESCRIBE), wire.CARD)["data"]
    assert wire.read_document(ask(site(), wire.DESCRIBE), wire.CARD)["data"] == first
    secret = tmp_path / "site-records" / "secret"
    assert len(secret.read_bytes()) == 32 and secret.stat().st_mode & 0o777 == 0o600
    replace_one_pixel(tmp_path / "images.npz")
    second = wire.read_document(ask(site(), wire.DESCRIBE), wire.CARD)["data"]
    assert second != first
    # Another site's secret: the same images cannot be recognised by their digest.
    secret.unlink()
    assert site().data_digest == second, "one secret a process"
    assert Site.data_digest.func(site()) not in (first, second)


def test_a_card_names_classes_shape_and_policy(site, ask):
    card = wire.read_document(ask(site(allow=["metrics"]), wire.DESCRIBE), wire.CARD)
    assert (card["site"], card["classes"]) == ("st-mary", ["healthy", "ill", "rare"])
    assert (card["size"], card["channels"], card["allow"], card["recipients"]) == (8, 1, ["metrics"], "server")
    assert set(card) <= DOCUMENTS["card"].model_fields.keys()


def test_the_sites_own_model_stays_and_its_figures_leave(site, ask):
    content = ask(site(exact_counts=True), wire.LOCAL)
    assert set(content) == {wire.METRICS}
    metrics = wire.read_metrics(content)
    assert wire.read_utility(metrics, "test")["accuracy"] >= 0
    assert wire.read_utility(metrics, "global")["count"] == 12


def test_how_the_sites_own_model_was_tuned_leaves_where_figures_leave_as_they_are(site, ask):
    found = wire.read_tuning(
        wire.read_metrics(ask(site(exact_counts=True, rate_step=0.0, min_evaluated=1), wire.LOCAL))
    )
    assert (found["lr"], found["by_val"], found["looks"]) == (0.1, 0, 0)
    assert found["step"] == found["steps"] > 0


def test_a_received_model_of_a_norm_that_the_study_does_not_say_is_refused(site, ask, study):
    group = build_classifier(dataclasses.replace(study.student, norm="group"), Shape(1, 8, 3), "server").state_dict()
    assert wire.read_metrics(ask(site(), wire.EVALUATE, group))
    study.strategy.norms = ["batch"]
    with pytest.raises(UserError, match="has group norms; the study says batch"):
        ask(site(), wire.EVALUATE, group)


def test_without_exact_counts_no_confusion_of_the_sites_own_images_leaves(site, ask):
    metrics = wire.read_metrics(ask(site(exact_counts=False), wire.LOCAL))
    assert not [name for name in metrics if "confusion" in name]
    assert (metrics["test/count"], metrics["global/count"]) == (COUNT_STEP, COUNT_STEP)
    metrics = wire.read_metrics(ask(site(exact_counts=True), wire.LOCAL))
    assert (sum(metrics["global/confusion"]), len(metrics["global/confusion"])) == (12, 9)


def test_a_release_holds_images_of_the_sites_shape_and_its_left_out_classes_by_name(site, ask):
    release = wire.read_release(ask(site(min_class_count=5), wire.RELEASE, round=1))
    check_release(release, Shape(1, 8, 3))
    assert release.manifest["left_out"] == ["rare"]


def test_the_sites_cap_holds_for_a_release(site, ask):
    assert len(wire.read_release(ask(site(max_images=11), wire.RELEASE, round=1))) == 10


def test_a_released_set_shares_no_image_with_the_site(site, ask):
    opened = site()
    real = {
        image.tobytes() for split in ("train", "val", "test", "holdout") for image in getattr(opened.data, split).images
    }
    release = wire.read_release(ask(opened, wire.RELEASE, round=1))
    assert not real & {image.tobytes() for image in release.images}


@pytest.mark.parametrize(("balance", "tuned"), [("histogram", []), ("balanced", ["tempered"])])
def test_the_classes_own_proportions_are_refused_where_exact_counts_may_not_leave(site, ask, study, balance, tuned):
    study.recycle.balance, study.recycle.tune_balances = balance, tuned
    with pytest.raises(PolicyError, match=r"set recycle\.balance=balanced and recycle\.tune_balances"):
        ask(site(exact_counts=False), wire.RELEASE, round=1)
    assert wire.read_release(ask(site(exact_counts=True), wire.RELEASE, round=1))


def test_without_exact_counts_neither_recalls_nor_quality_leave_with_a_release(site, ask, study):
    study.recycle.balance = "balanced"
    exact, rounded = (
        wire.read_release(ask(site(exact_counts=exact), wire.RELEASE, round=1)).manifest for exact in (True, False)
    )
    assert exact.keys() >= {"recalls", "quality"} and not rounded.keys() & {"recalls", "quality"}


def test_a_site_is_told_of_its_poor_release_before_it_sends_it(site, ask, caplog, monkeypatch):
    opened = site(exact_counts=True)
    poor = {"precision": 0.5, "recall": 0.5, "recognised": [0.1, 1.0, None]}
    monkeypatch.setattr(type(opened.pipeline), "quality", lambda *_: poor)
    assert wire.read_release(ask(opened, wire.RELEASE, round=1)).manifest["quality"] == poor
    assert f"of the images drawn for {opened.data.train.classes[0]!r} your teacher takes fewer than half" in caplog.text
    assert "recycle.doubt=0.5 or generator=edm-rare may" in caplog.text
    caplog.clear()
    opened.study.recycle.doubt = 0.5
    ask(opened, wire.RELEASE, round=1)
    assert "where they are few, generator=edm-rare may" in caplog.text
    caplog.clear()
    opened.study.recycle.doubt = 0.0
    opened.study.generator.options |= {"scale_shift": True, "guidance": 2.0}
    ask(opened, wire.RELEASE, round=1)
    assert "your teacher takes" in caplog.text and "may draw them better" not in caplog.text


def test_a_site_alone_is_told_which_classes_are_drawn_nearer(site, ask, caplog, monkeypatch):
    opened = site(exact_counts=True)
    before = wire.read_release(ask(opened, wire.RELEASE, round=1))
    assert "nearer" not in caplog.text
    monkeypatch.setattr(SitePipeline, "doubted", lambda _: frozenset({1}))
    # Of a release that was made before, too.
    after = wire.read_release(ask(opened, wire.RELEASE, round=1))
    assert f"draws {opened.data.train.classes[1]!r} nearer" in caplog.text
    assert after.manifest == before.manifest
    assert wire.read_release(ask(opened, wire.RELEASE, round=2)).manifest.keys() == before.manifest.keys()
    caplog.clear()
    opened.study.generator.options |= {"guidance": 2.0}
    ask(opened, wire.RELEASE, round=1)
    assert "nearer" not in caplog.text, "all classes are drawn so"


def test_a_weights_round_scores_the_received_model_and_returns_one_of_the_same_shape(site, ask, study):
    opened = site(exact_counts=True)
    content = ask(opened, wire.TRAIN, **one_round(study))
    metrics, weights = wire.read_metrics(content), wire.read_weights(content[wire.ARRAYS])
    sent = model(study)
    right = (
        predict_logits(sent, opened.data.val.images, opened.runtime).argmax(axis=1) == opened.data.val.labels
    ).sum()
    assert metrics["val-correct"] == pytest.approx(right)
    assert metrics["val-count"] == len(opened.data.val)
    assert metrics["num-examples"] == len(opened.data.train)
    assert {n: t.shape for n, t in weights.items()} == {n: t.shape for n, t in sent.state_dict().items()}
    assert any(not torch.equal(weights[n], t) for n, t in sent.state_dict().items())
    steps = math.ceil(len(opened.data.train) / study.student.batch)
    assert next(t for n, t in weights.items() if n.endswith("num_batches_tracked")) == steps


def test_a_weights_round_is_a_function_of_model_settings_and_round(site, ask, study):
    opened = site(exact_counts=True)
    first, again, later, other = (
        wire.read_weights(ask(opened, wire.TRAIN, **one_round(study, **settings))[wire.ARRAYS])
        for settings in ({}, {}, {"server_round": 2}, {"candidate": "d"})
    )
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert any(not torch.equal(first[n], later[n]) for n in first)
    assert any(not torch.equal(first[n], other[n]) for n in first)


def test_a_proximal_term_that_the_server_asks_for_holds_the_weights_back(site, ask, study):
    opened, moved = site(exact_counts=True), []
    for mu in (0.0, 20.0):
        settings = one_round(study, local_epochs=3, proximal_mu=mu)
        weights = wire.read_weights(ask(opened, wire.TRAIN, **settings)[wire.ARRAYS])
        moved.append(sum(float((weights[n] - p.detach()).square().sum()) for n, p in model(study).named_parameters()))
    assert moved[1] < moved[0] / 2


def test_shared_weights_are_never_trained_behind_class_shares(site, ask, study):
    plain = weights_in(ask(site(), wire.TRAIN, **one_round(study)))
    study.student.logit_adjustment = 1.0
    behind = weights_in(ask(site(), wire.TRAIN, **one_round(study)))
    assert all(torch.equal(plain[name], behind[name]) for name in plain)


def test_averaged_weights_in_float64_are_taken(site, ask, study):
    weights = {name: value.double() for name, value in model(study).state_dict().items()}
    assert wire.read_metrics(ask(site(), wire.EVALUATE, weights))["test/accuracy"] >= 0


def test_a_model_of_nan_is_refused_before_it_is_used(site, ask, study):
    weights = {name: value.double() * math.nan for name, value in model(study).state_dict().items()}
    for message_type in (wire.EVALUATE, wire.TRAIN):
        with pytest.raises(UserError, match="NaN or infinity"):
            ask(site(), message_type, **one_round(study, weights=weights))


def test_a_model_of_another_shape_is_refused(site, ask, study):
    with pytest.raises(UserError, match=r"'head\.weight' has shape \[5, 16\], expected \[3, 16\]"):
        ask(site(), wire.EVALUATE, model(study, classes=5).state_dict())


def test_a_learning_rate_that_is_too_high_ends_in_one_line_or_in_numbers_never_in_nan(site, ask, study):
    try:
        content = ask(site(), wire.TRAIN, **one_round(study, lr=1e9))
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert all(np.isfinite(v) for v in wire.read_metrics(content).values())


@pytest.mark.parametrize("split", ["test", "val"])
def test_an_evaluation_is_of_the_split_that_is_asked_for(site, ask, study, split):
    opened = site(exact_counts=True)
    metrics = wire.read_metrics(ask(opened, wire.EVALUATE, model(study).state_dict(), split=split))
    assert metrics[f"{split}/count"] == len(getattr(opened.data, split))


@pytest.mark.parametrize("split", ["train", "holdout", "../val"])
def test_no_other_split_is_evaluated(site, ask, study, split):
    with pytest.raises(PolicyError, match="is not answered; one of: test, val"):
        ask(site(), wire.EVALUATE, model(study).state_dict(), split=split)


def test_an_evaluation_without_a_model_is_refused(site, ask):
    with pytest.raises(UserError, match="holds no model"):
        ask(site(), wire.EVALUATE)


def test_an_audit_returns_figures_only(site, ask, study):
    content = ask(site(), wire.AUDIT, model(study).state_dict(), target="student")
    assert set(content) == {wire.METRICS, wire.FINDINGS}
    assert set(wire.read_metrics(content)) == {"seconds"}
    assert 0 <= wire.read_document(content, wire.FINDINGS)["audit"][0]["auc"] <= 1


def test_the_audited_model_is_the_received_one_else_the_sites_own(site, study):
    opened = site()
    received = audited_model(opened, wire.Request("", {}, dict(model(study).state_dict())), "teacher")
    assert torch.equal(received.state_dict()["head.weight"], model(study).state_dict()["head.weight"])
    none = wire.Request("", {}, None)
    teacher, local = audited_model(opened, none, "teacher"), audited_model(opened, none, "local")
    assert not torch.equal(teacher.state_dict()["head.weight"], local.state_dict()["head.weight"])
    with pytest.raises(UserError, match=r"kind='student' came without a model"):
        audited_model(opened, none, "student")


def test_a_site_makes_its_controls_once(site, study, monkeypatch):
    opened, none = site(), wire.Request("", {}, None)
    models = [audited_model(opened, none, kind) for kind in ("control", "control-student")]
    for trained in ("train_control", "train_planted"):
        monkeypatch.setattr(f"sites.audit.{trained}", lambda *a: pytest.fail("trained again"))
    again = [audited_model(opened, none, kind) for kind in ("control", "control-student")]
    for first, second in zip(models, again, strict=True):
        assert torch.equal(first.state_dict()["head.weight"], second.state_dict()["head.weight"])


def test_a_restarted_site_trains_its_own_model_no_second_time(site, ask, study, monkeypatch):
    first = wire.read_metrics(ask(site(), wire.LOCAL))
    monkeypatch.setattr("fedkr.recycle.pipeline.train_tuned", lambda *a, **k: pytest.fail("trained again"))
    reopened = site(dataclasses.replace(study, out="elsewhere"))
    again = wire.read_metrics(ask(reopened, wire.LOCAL))
    assert {n: v for n, v in first.items() if n != "seconds"} == {n: v for n, v in again.items() if n != "seconds"}


def test_every_message_type_of_the_wire_has_a_handler():
    assert set(HANDLERS) == set(wire.REPLIES)


@pytest.mark.parametrize(
    ("message_type", "settings"),
    [
        (wire.RELEASE, {}),
        (wire.TRAIN, {"server_round": 1, "local_epochs": 1, "candidate": "c"}),
        (wire.REFERENCES, {}),
        (wire.REFERENCES, {"kinds": ["student"], "shared": True}),
        (wire.REFERENCES, {"kinds": ["student"], "shared": True, "sizes": [6]}),
        (wire.REFERENCES, {"kinds": ["student"], "shared": True, "sizes": 6, "sites": 1}),
        (wire.REFERENCES, {"kinds": ["student"], "shared": True, "sizes": [True] * 6, "sites": 1}),
    ],
)
def test_a_request_without_what_its_answer_needs_is_refused_in_one_line(site, ask, study, message_type, settings):
    if settings.get("shared"):
        settings = settings | {"shared": (np.zeros((6, 8, 8, 1), np.uint8), np.full((6, 3), 1 / 3, np.float16))}
    weights = model(study).state_dict() if message_type == wire.TRAIN else None
    with pytest.raises(UserError, match=r"lacks the setting|sizes="):
        ask(site(allow=["metrics", "release", "weights"], exact_counts=True), message_type, weights, **settings)


@pytest.fixture
def simulated(study, tmp_path):
    """Return a function that opens a simulated site of digits whose classifier has group norms."""
    study.student.norm = "group"
    study.run_dir = str(tmp_path / "run")
    return lambda: open_site({"partition-id": 0}, study)


def private_round(study, start, **settings):
    return one_round(study, classes=10, contestant="dp-fedavg", **settings) | {"weights": start}


@pytest.fixture
def privately(study):
    """Return a function that has a study compare ``dp-fedavg`` and returns the weights that its rounds begin with."""

    def compare(**options):
        own = {"kind": "dp_fedavg", "lrs": [0.05], "local_epochs": [1], "norms": ["group"], "rounds": 3, **options}
        study.strategy.compare, study.strategy.options = ["dp-fedavg"], {"dp-fedavg": own}
        return model(study, 10).state_dict()

    return compare


def weights_in(content):
    return wire.read_weights(content[wire.ARRAYS])


def test_a_private_round_is_the_same_when_asked_again_and_any_other_has_other_noise(simulated, ask, study, privately):
    start, site = privately(), simulated()

    def head(start=start, **settings):
        return weights_in(ask(site, wire.TRAIN, **private_round(study, start, **settings)))["head.weight"]

    assert torch.equal(head(), head())
    assert not torch.allclose(head(), head(server_round=2))
    # Next to no other weights: with the same noise the difference would show what the images say.
    near = {name: value + 1e-6 for name, value in start.items()}
    assert float((head() - head(near)).norm()) > 0.1 * float((head() - start["head.weight"]).norm())


def test_the_noise_of_a_private_round_is_that_of_all_rounds(simulated, ask, study, privately):
    # Where next to nothing is left of an image's gradient, what moves the weights is the noise; the rate of SGD with
    # Nesterov's momentum 0.9 is 1.9 times that of its first step.
    units = len(simulated().data.train)
    for rounds in (100, 400):
        start = privately(rounds=rounds)
        study.student.weight_decay = 0.0
        opened = open_site({"partition-id": 0}, study)
        content = ask(opened, wire.TRAIN, **private_round(study, start, lr=0.1))
        moved = torch.cat([(w - start[name]).flatten() for name, w in weights_in(content).items()])
        noise = math.sqrt(rounds) / mu_of(8.0, 1e-5)
        # Beside it, the mean of gradients no longer than 1.
        assert float(moved.std()) == pytest.approx(0.1 * 1.9 * noise / units, rel=0.15)


def test_a_sampled_private_round_runs_as_many_steps_as_batches(simulated, ask, study, privately, monkeypatch):
    asked = []
    monkeypatch.setattr("sites.handlers.noise_for", lambda *given: asked.append(given) or 1.0)
    site, start = simulated(), privately(batch=50, rounds=7)
    units = len(site.data.train)
    ask(open_site({"partition-id": 0}, study), wire.TRAIN, **private_round(study, start))
    assert asked == [(8.0, 1e-5, 50 / units, 7 * math.ceil(units / 50))]


def test_a_private_round_takes_no_norms_over_a_batch(simulated, ask, study, privately):
    privately()
    study.student.norm = "batch"
    site = simulated()
    with pytest.raises(UserError, match="would make one gradient of all its images"):
        ask(site, wire.TRAIN, **private_round(study, model(study, 10).state_dict()))


@pytest.mark.parametrize("options", [{"kind": "fedavg"}, {"kind": "my.own"}])
def test_no_round_is_private_but_of_the_contestant_that_the_study_says_is(simulated, ask, study, privately, options):
    start, site = privately(**options), simulated()
    with pytest.raises(UserError, match=r"contestant='dp-fedavg': the study compares no dp-fedavg of this name"):
        ask(site, wire.TRAIN, **private_round(study, start))
