"""Personalised models: they stay stages of the site, made once, and a choice that was stopped goes on."""

import numpy as np
import pytest
import torch

from fedkr.data import SiteData
from fedkr.data.images import Shape
from fedkr.learning.models import build_classifier
from fedkr.progress import SilentProgress
from fedkr.recycle import SitePipeline, aggregate
from fedkr.recycle.personal import Personal
from fedkr.recycle.pipeline import site_job
from fedkr.release import ReleasedSets
from fedkr.stages import StageStore


@pytest.fixture
def personal(pictures, tiny_study, runtime, tmp_path):
    """Return a function that opens a contestant's model of a small site, as a new process would."""
    data = SiteData(pictures((24, 24, 0)), pictures((20, 20, 20), seed=1), None, None)

    def make(contestant="fedkr-dda"):
        job = site_job(tiny_study, "site-0", runtime, SilentProgress())
        return Personal(SitePipeline("site-0", data, tiny_study, StageStore(tmp_path / "stages"), job), contestant)

    return make


@pytest.fixture
def offered(pictures):
    striped = pictures((0, 0, 40), seed=3)
    return {"b": ReleasedSets.of_arrays(striped.images, np.eye(4, dtype=np.float16)[striped.labels], [20, 20])}


def equal(one, other):
    return all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


def test_with_nothing_chosen_the_model_is_the_sites_own(personal):
    model, choice = personal().aggregated({})
    assert choice.chosen == () and equal(model, personal().pipeline.own_model())


def test_a_chosen_release_changes_the_model_and_a_second_asking_trains_nothing(
    personal, offered, monkeypatch, tiny_study
):
    monkeypatch.setattr(aggregate, "LEAST_VAL", 60)
    tiny_study.recycle.search_steps = 12
    model, choice = personal().aggregated(offered)
    assert choice.chosen == ("b",) and not equal(model, personal().pipeline.own_model())
    for where in ("aggregate", "personal"):
        monkeypatch.setattr(f"fedkr.recycle.{where}.distill_student", lambda *_: pytest.fail("trained again"))
    again, known = personal().aggregated(offered)
    assert equal(model, again) and known == choice


def test_a_stopped_choice_goes_on_behind_what_it_had_tried(personal, offered, monkeypatch):
    monkeypatch.setattr(aggregate, "LEAST_VAL", 60)
    judge, judged, stops = aggregate.Aggregation.judge, [], [KeyboardInterrupt]

    def stopped_once(self, chosen):
        if chosen and stops:
            raise stops.pop()
        judged.append(chosen)
        return judge(self, chosen)

    monkeypatch.setattr(aggregate.Aggregation, "judge", stopped_once)
    with pytest.raises(KeyboardInterrupt):
        personal().choose(offered)
    personal().choose(offered)
    assert judged == [(), ("b",)]


def test_other_releases_are_another_choice(personal, offered, monkeypatch):
    monkeypatch.setattr(aggregate, "LEAST_VAL", 60)
    personal().choose(offered)
    darker = {"b": ReleasedSets.of_arrays(offered["b"](0).images // 2, offered["b"](0).soft_labels, [20])}
    monkeypatch.setattr(aggregate.Aggregation, "judge", lambda *_: (_ for _ in ()).throw(LookupError))
    with pytest.raises(LookupError):
        personal().choose(darker)


def test_a_fine_tuned_model_began_as_the_one_that_was_sent_and_is_made_once(personal, tiny_study, monkeypatch):
    sent = build_classifier(tiny_study.student, Shape(1, 8, 4), "server").state_dict()
    before = {name: tensor.clone() for name, tensor in sent.items()}
    tuned = personal("fedkr+ft").fine_tuned(sent)
    moved = [
        float((tuned.tensors[n].double() - t.double()).abs().max()) for n, t in before.items() if t.is_floating_point()
    ]
    assert max(moved) > 0 and all(torch.equal(sent[n], t) for n, t in before.items())
    monkeypatch.setattr("fedkr.recycle.personal.ClassifierTraining", lambda *_: pytest.fail("trained again"))
    assert equal(tuned, personal("fedkr+ft").fine_tuned(sent))
