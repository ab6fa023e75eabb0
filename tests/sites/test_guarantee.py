"""A site that requires a guarantee: nothing leaves without one, no study weakens it, and all is paid for."""

import dataclasses
import json
import time

import numpy as np
import pytest
import yaml
from flwr.app import Context, Message, Metadata, RecordDict

from fedkr import wire
from fedkr.config import GUARANTEED_GENERATORS, GeneratorConfig, PrivacyConfig, parse_study
from fedkr.data.images import Shape
from fedkr.errors import UserError
from fedkr.learning.models import build_classifier
from fedkr.privacy.accountant import epsilon_of, mu_of
from sites.admission import permit
from sites.app import answer
from sites.approval import approve_study
from sites.check import may_leave
from sites.guard import guard
from sites.handlers import HANDLERS
from sites.ledger import Ledger, epsilon_spent
from sites.policy import GUARANTEED, PolicyError
from sites.promises import check_promises
from sites.workspace import open_site, read_site_file
from tests.hostile import json_text, read_bounded, thorough

REQUIRED = {"epsilon": 9.0, "delta": 1e-5, "required": True}
TIMES = 60.0


@pytest.fixture
def study(study):
    """A study with a guarantee."""
    generator = GeneratorConfig("moments", options={"components": 8})
    return dataclasses.replace(study, generator=generator, privacy=PrivacyConfig("dp", 8.0, 1e-5))


@pytest.fixture
def ask(hospital, study):
    """Send one message through guard and handler of a site that requires a guarantee; return the answer."""

    def send(message_type=wire.RELEASE, study=study, weights=None, privacy=REQUIRED, **settings):
        content = wire.request_content(study.to_json(), weights, **settings)
        names = dict.fromkeys(("reply_to_message_id", "group_id"), "")
        about = {"run_id": 1, "message_id": "m", "src_node_id": 1, "dst_node_id": 2, "ttl": TIMES}
        metadata = Metadata(created_at=time.time(), message_type=message_type, **about, **names)
        context = Context(1, 1, {"site-file": str(hospital(privacy=privacy))}, RecordDict(), {})
        return guard(Message(content, metadata=metadata), context, answer)

    return send


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "site-records")


def images_of(reply):
    assert not reply.has_error()
    return wire.read_release(reply.content).images


def changed(study, group, **options):
    return dataclasses.replace(study, **{group: dataclasses.replace(getattr(study, group), **options)})


@pytest.mark.parametrize(
    ("data", "missing"),
    [
        ({"name": "npz", "path": "images.npz"}, "classes"),
        ({"name": "folder", "path": "x", "classes": ["a", "b"], "channels": 1}, "size"),
        ({"name": "table", "path": "x", "classes": ["a", "b"], "size": 28}, "channels"),
    ],
)
def test_what_one_image_could_change_is_written_out_where_a_guarantee_is_required(hospital, data, missing):
    path = hospital(privacy=REQUIRED)
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"data": data}))
    with pytest.raises(UserError, match=rf"policy.privacy.required: data.{missing} is not set"):
        read_site_file(path)
    path.write_text(path.read_text().replace("required: true", "required: false"))
    assert read_site_file(path).data.name == data["name"]


def test_approving_tells_what_the_ledger_comes_to(hospital, study, tmp_path, ledger):
    site = hospital(privacy=REQUIRED)
    (tmp_path / "study.json").write_text(study.to_json())
    told = approve_study(tmp_path / "study.json", site)
    assert "policy.privacy.epsilon=9 of all studies: spent 0, with this study 8 at most (delta 1e-05)" in told
    assert not any("teacher (" in line or "no release" in line for line in told)
    open_site({"site-file": str(site)}, study).pipeline.generator_job()
    twice = epsilon_of(2**0.5 * mu_of(8.0, 1e-5), 1e-5)
    told = approve_study(tmp_path / "study.json", site)
    assert (
        f"policy.privacy.epsilon=9 of all studies: spent 8, with this study {twice:.3g} at most (delta 1e-05)" in told
    )
    assert any(line.startswith(f"warning: {twice:.3g} is more than policy.privacy.epsilon=9") for line in told)


def test_no_model_is_taught_a_rare_class_while_the_noisy_counts_see_all_images(hospital, study):
    open_, whole = {"privacy": {"epsilon": 9.0}, "min_class_count": 10}, {"min_class_count": 1}
    site = open_site({"site-file": str(hospital(**open_))}, study)
    assert site.data.rare == (2,) and site.pipeline.data is site.data
    assert 2 not in site.data.train.labels and 2 not in site.data.val.labels and 2 not in site.data.holdout.labels
    measured = site.pipeline.generator_images()
    everything = open_site({"site-file": str(hospital(**open_ | whole))}, study).data.train
    assert np.array_equal(measured.images, everything.images) and 2 in measured.labels


def test_coins_fall_alike_for_what_is_measured_and_what_is_attacked(hospital, study):
    tossing = changed(study, "audit", coins=True)
    path = hospital(split={"coins": True}, privacy={"epsilon": 9.0}, min_class_count=10)
    site = open_site({"site-file": str(path)}, tossing)
    measured = {image.tobytes() for image in site.pipeline.generator_images().images}
    assert {image.tobytes() for image in site.data.train.images} < measured
    assert not measured & {image.tobytes() for image in site.data.holdout.images}


def test_a_site_of_rare_classes_alone_opens_where_only_a_guarantee_may_leave(hospital, study):
    site = open_site({"site-file": str(hospital(privacy=REQUIRED, min_class_count=1000))}, study)
    assert site.data.rare == () and len(site.pipeline.generator_images()) == len(site.data.train)


def test_a_release_leaves_and_tells_its_guarantee(ask, ledger):
    release = wire.read_release(ask(round=1).content)
    assert release.manifest["privacy"] == {"epsilon": 8.0, "delta": 1e-5, "unit": "image", "mechanism": "gaussian"}
    assert set(release.manifest) == {"site", "left_out", "checkpoint", "privacy", "round", "slices", "count"}
    assert epsilon_spent(ledger.entries(), 1e-5) == pytest.approx(8.0, abs=1e-3)


def test_all_that_a_study_can_have_of_one_answer_costs_once(ask, study, ledger):
    first = images_of(ask(round=1))
    assert np.array_equal(first, images_of(ask(round=1)))
    for other in (
        dataclasses.replace(study, seed=5),
        changed(study, "recycle", ratio=2.0),
        changed(study, "student", steps=4),
    ):
        assert len(images_of(ask(study=other, round=1)))
    assert epsilon_spent(ledger.entries(), 1e-5) == pytest.approx(8.0, abs=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        {"group": "privacy", "epsilon": 7.9},
        {"group": "privacy", "epsilon": 100.0},
        {"group": "privacy", "delta": 0.01},
        {"group": "generator", "options": {"components": 9}},
        {"group": "generator", "steps": 3},
    ],
    ids=str,
)
def test_another_answer_of_the_same_images_is_refused_beyond_the_budget(ask, study, ledger, change, caplog):
    images_of(ask(round=1))
    before = ledger.entries()
    assert ask(study=changed(study, **change), round=1).has_error()
    assert "more than policy.privacy.epsilon=9 of all studies" in caplog.text
    assert [entry for entry in ledger.entries() if entry.mechanism] == [e for e in before if e.mechanism]


def test_a_study_of_too_large_an_epsilon_is_refused_before_anything_is_made(ask, study, tmp_path):
    assert ask(study=changed(study, "privacy", epsilon=50.0), round=1).has_error()
    assert not list((tmp_path / "work").glob("stages/generator*"))


WIDE = REQUIRED | {"epsilon": 90.0}
DIFFUSION = {
    "kind": "edm",
    "steps": 2,
    "batch": 1000,
    "checkpoints": 1,
    "options": {"width": 8, "class_power": 1, "private_draws": 1},
}


def test_a_diffusion_model_by_dp_sgd_is_paid_for_by_its_epsilon_and_delta(ask, study, ledger, caplog):
    diffusion = changed(changed(study, "generator", **DIFFUSION), "privacy", epsilon=40.0)
    manifest = wire.read_release(ask(study=diffusion, round=1, privacy=WIDE).content).manifest
    assert manifest["privacy"] == {"epsilon": 40.0, "delta": 1e-5, "unit": "image", "mechanism": "dp-sgd"}
    assert epsilon_spent(ledger.entries(), 1e-5) == 40.0
    assert np.array_equal(*[images_of(ask(study=diffusion, round=1, privacy=WIDE)) for _ in range(2)])
    # Nothing is left of delta, for whatever epsilon.
    again = changed(diffusion, "generator", steps=3)
    assert ask(study=again, round=1, privacy=WIDE).has_error()
    assert "policy.privacy.delta=1e-05 is spent" in caplog.text
    assert epsilon_spent(ledger.entries(), 1e-5) == 40.0
    assert epsilon_spent(ledger.entries(), 1e-6) == np.inf


def test_the_noise_of_a_diffusion_model_is_the_sites_secret(ask, study, hospital):
    diffusion = changed(changed(study, "generator", **DIFFUSION), "privacy", epsilon=40.0)
    images_of(ask(study=diffusion, round=1, privacy=WIDE))
    pipeline = open_site({"site-file": str(hospital(privacy=WIDE))}, diffusion).pipeline
    kept = pipeline.checkpoint(pipeline.last_checkpoint()).tensors
    pipeline.terms = dataclasses.replace(pipeline.terms, secret=None)
    guessed = pipeline.checkpoint(pipeline.last_checkpoint()).tensors
    assert (kept["counts"] - guessed["counts"]).abs().min() > 0
    # Adam's first steps are as long as its rate, whatever the gradient, but for its sign.
    name = "average.mid_block.resnets.0.conv1.weight"
    assert (kept[name] - guessed[name]).abs().mean() > 1e-4


def test_images_that_changed_cost_again(ask, study, tmp_path, ledger):
    images_of(ask(round=1, privacy=REQUIRED | {"epsilon": 20.0}))
    arrays = dict(np.load(tmp_path / "images.npz"))
    arrays["train_images"][:, 0, 0] ^= 1
    np.savez(tmp_path / "images.npz", **arrays)
    images_of(ask(study=dataclasses.replace(study, seed=1), round=1, privacy=REQUIRED | {"epsilon": 20.0}))
    assert epsilon_spent(ledger.entries(), 1e-5) > 11


@pytest.mark.parametrize("message_type", sorted(set(HANDLERS) - GUARANTEED))
def test_no_answer_without_a_guarantee_leaves(ask, study, message_type, caplog):
    weights = build_classifier(study.student, Shape(1, 8, 3), "server").state_dict()
    settings = {"round": 1, "target": "student", "kinds": ["student"], "server_round": 1, "lr": 0.1, "local_epochs": 1}
    reply = ask(message_type, weights=weights, candidate="c", contestant="fedkr-dda", pairs="[]", **settings)
    assert reply.has_error() and ("has no guarantee" in caplog.text or "does not allow" in caplog.text)


@pytest.mark.parametrize("split", ["test", "val"])
def test_of_a_model_no_figure_leaves_but_the_rounded_time(ask, study, split):
    weights = build_classifier(study.student, Shape(1, 8, 3), "server").state_dict()
    metrics = wire.read_metrics(ask(wire.EVALUATE, weights=weights, split=split).content)
    assert metrics == {"seconds": 60.0}


def test_the_card_does_not_tell_whether_images_changed(ask):
    card = wire.read_document(ask(wire.DESCRIBE).content, wire.CARD)
    assert "data" not in card and "counts" not in card


def test_a_study_without_a_guarantee_is_refused(ask, study, caplog):
    off = dataclasses.replace(changed(study, "privacy", mode="off"), generator=GeneratorConfig("edm"))
    for message_type in (wire.DESCRIBE, wire.RELEASE, wire.EVALUATE):
        assert ask(message_type, study=off, round=1).has_error()
    assert caplog.text.count("this site's policy.privacy requires a guarantee; set privacy=dp") == 3


def test_a_study_may_plant_nothing_in_images_that_a_guarantee_is_of(ask, study, caplog):
    planting = changed(study, "audit", canaries=2, canary_kinds=["noise"])
    for privacy in (REQUIRED, REQUIRED | {"required": False}):
        assert ask(study=planting, round=1, privacy=privacy).has_error()
    assert caplog.text.count("audit.canaries=2: with privacy.mode=dp this site plants none") == 2


def test_the_noise_is_not_what_the_studys_seed_gives(ask, study, hospital):
    images_of(ask(round=1))
    site = open_site({"site-file": str(hospital(privacy=REQUIRED))}, study)
    means, pipeline = site.pipeline.checkpoint(1).tensors["means"].numpy(), site.pipeline
    pipeline.terms = dataclasses.replace(pipeline.terms, secret=None)
    pipeline.generator_checkpoints()
    guessed = pipeline.checkpoint(1).tensors["means"].numpy()
    # Were the noise the study's, both would be the same to the last bit.
    assert np.abs(means - guessed).min() > 0


@pytest.mark.parametrize(
    "lie",
    [
        {"privacy": {"epsilon": 1.0, "delta": 1e-5, "unit": "image", "mechanism": "gaussian"}},
        {"privacy": {"epsilon": 8.0, "delta": 1e-5, "unit": "patient", "mechanism": "gaussian"}},
        {"teacher": {"step": 3, "val_accuracy": 0.5}},
        {"recalls": [0.5, 0.5, None]},
        {"by_val": 1},
        {"quality": {"precision": 0.5, "recall": 0.5, "recognised": [0.5, 0.5, None]}},
    ],
    ids=lambda lie: next(iter(lie)),
)
def test_a_manifest_that_says_more_than_the_release_has_does_not_leave(ask, study, hospital, lie):
    content = ask(round=1).content
    site = open_site({"site-file": str(hospital(privacy=REQUIRED))}, study)
    check_promises(site, wire.RELEASE, content)
    content[wire.MANIFEST] = wire.document(wire.read_document(content, wire.MANIFEST) | lie)
    with pytest.raises(PolicyError, match="manifest: "):
        check_promises(site, wire.RELEASE, content)


@pytest.mark.parametrize(("name", "value"), [("exact_counts", True), ("allow", ["release", "weights"])])
def test_a_policy_that_contradicts_its_guarantee_is_refused(hospital, study, name, value):
    path = hospital(privacy=REQUIRED, **{name: value})
    with pytest.raises(UserError, match=r"policy.privacy.required: exact_counts and weights have no guarantee"):
        open_site({"site-file": str(path)}, study)


@pytest.mark.parametrize("option", ["epsilon: 0", "epsilon: 101", "delta: 0.5", "delta: 0", "required: 1", "mode: dp"])
def test_a_budget_that_is_none_is_refused_by_name(hospital, study, option):
    name, value = option.split(": ")
    path = hospital(privacy={name: json.loads(value) if value != "dp" else value})
    with pytest.raises(UserError, match=f"policy.privacy.{name}"):
        open_site({"site-file": str(path)}, study)


@pytest.fixture
def place(hospital):
    return {"site-file": str(hospital(privacy=REQUIRED))}


@thorough
def test_whatever_a_study_says_a_message_that_is_let_in_is_one_with_a_guarantee(rng, study, place):
    values = json.loads(study.to_json())
    message_type = rng.choice(sorted(HANDLERS))
    accepted, _ = read_bounded("guarantee", permit, place, message_type, text := json_text(rng, values))
    if accepted:
        taken = parse_study(text)
        assert (
            message_type in GUARANTEED and taken.privacy.mode == "dp" and taken.generator.kind in GUARANTEED_GENERATORS
        )
        assert not taken.audit.canaries


def test_the_sites_engineer_reads_what_a_guarantee_is_of_before_joining_and_approving(hospital, study, tmp_path):
    lines = may_leave(read_site_file(hospital(privacy=REQUIRED)))
    assert "at most epsilon 9 at delta 1e-05 of all studies together" in lines[0] and len(lines) == 2
    (tmp_path / "study.json").write_text(study.to_json())
    told = approve_study(tmp_path / "study.json", tmp_path / "site.yaml")
    assert any("releases only what is differentially private, epsilon 8 at delta 1e-05" in line for line in told)
    off = dataclasses.replace(changed(study, "privacy", mode="off"), generator=GeneratorConfig("edm"))
    (tmp_path / "study.json").write_text(off.to_json())
    told = approve_study(tmp_path / "study.json", tmp_path / "site.yaml")
    assert any(line.startswith("refused until changed: privacy.mode=off") for line in told)


def test_a_hospital_takes_no_part_in_dp_fedavg(hospital, study):
    own = {"kind": "server.strategies.dp_fedavg"}
    compared = changed(study, "strategy", compare=["fedkr", "private"], options={"private": own})
    for privacy in (REQUIRED, {**REQUIRED, "required": False}):
        site = {"site-file": str(hospital(privacy=privacy))}
        for message_type in (wire.DESCRIBE, wire.RELEASE):
            with pytest.raises(UserError, match="private is of simulations: its noise comes from the study's seed"):
                permit(site, message_type, compared.to_json())
    assert permit({"partition-id": 0}, wire.TRAIN, compared.to_json())[1] is None
