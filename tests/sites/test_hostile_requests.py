"""Whatever a server asks is read in one line or refused in one, and nothing is worked on that the rules below forbid.

Handlers run up to where they would train or attack, which is cut out.
"""

import dataclasses
import json
import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Context, Message, Metadata, RecordDict

from fedkr import wire
from fedkr.audit.document import Pair
from fedkr.config import parse_study
from fedkr.data.images import Shape
from fedkr.errors import UserError
from fedkr.learning.models import build_classifier, load_classifier
from fedkr.release import ReleasedSets
from sites import handlers, personal
from sites.admission import permit
from sites.asked import check_settings
from sites.guard import answer_check
from sites.handlers import HANDLERS, received_others
from sites.policy import weight_shapes
from sites.workspace import open_site
from tests.hostile import contents, json_text, mutated, read_bounded, thorough

KINDS = ["student", "weights", "oracle", "teacher", "local", "site-student", "update", "release"]


class CutError(UserError):
    """Where training or an attack would begin."""


def cut(*arguments, **keywords):
    raise CutError("as far as a request is read")


class NoWork:
    """In the place of the site's audit."""

    challenge, keep_others = SimpleNamespace(smaller_side=0), staticmethod(lambda others: None)
    challenge_of = staticmethod(lambda kind: NoWork.challenge)
    attack = attack_releases = compare = blind = train_references = staticmethod(cut)

    def __init__(self, site):
        pass


class NoTraining:
    """In the place of personalised models."""

    aggregated = staticmethod(cut)

    def __init__(self, pipeline, contestant):
        self.pipeline = pipeline

    def fine_tuned(self, weights):
        load_classifier(self.pipeline.study.student, Shape(1, 8, 3), weights, self.pipeline.job.runtime)
        cut()


@pytest.fixture
def asked(hospital, study, monkeypatch):
    """A hospital that answers everything, for a study that asks for everything; return the function that reads."""
    study.strategy.compare = ["local", "fedavg", "fedprox", "fedkr", "fedkr-dda", "fedkr+ft"]
    kinds = {"fedkr-dda": {"kind": "fedkr_dda"}, "fedkr+ft": {"kind": "fedkr_ft"}}
    study.strategy.options = {"fedprox": {"proximal_mu": 0.01}} | kinds
    study.audit.targets, study.federation.sites = ["student", "weights", "teacher"], 3
    path = hospital(allow=["metrics", "release", "weights"])
    context = Context(1, 1, {"site-file": str(path)}, RecordDict(), {})
    for place, name in ((handlers, "figures_of"), (handlers.LocalTraining, "advance"), (handlers, "utility_of")):
        monkeypatch.setattr(place, name, cut if name != "utility_of" else lambda *arguments: None)
    monkeypatch.setattr(handlers, "SiteAudit", NoWork)
    monkeypatch.setattr(personal, "Personal", NoTraining)
    monkeypatch.setattr(handlers, "check_enough", lambda *arguments: None)

    def read(message):
        """Do all that the guard and a handler do with a request before work begins."""
        message_type, study_json = message.metadata.message_type, wire.study_of(message)
        permit(context.node_config, message_type, study_json)
        check_settings(message_type, wire.settings_of(message), parse_study(study_json))
        weight_shapes(message.content)
        answer_check(message, context)
        request = wire.read_request(message)
        site = open_site(context.node_config, parse_study(request.study))
        if message_type == wire.REFERENCES:
            received_others(site, request)
        pipeline = type(
            "Pipeline",
            (),
            {"release": cut, "own_model": cut, "labeller": cut, "job": site.pipeline.job, "study": site.study},
        )()
        try:
            HANDLERS[message_type](dataclasses.replace(site, pipeline=pipeline), request)
        except CutError:
            return request
        return request

    read.study, read.usual = study, messages(study)
    # What is imported, or opened once, is not of a case.
    for kind, content in read.usual.items():
        read(arrived(content, kind))
    return read


def messages(study):
    """Return each kind of message that a server sends, as it sends it."""
    model = build_classifier(study.student, Shape(1, 8, 3), "any").state_dict()
    images, labels = np.zeros((6, 8, 8, 1), np.uint8), np.full((6, 3), 1 / 3, np.float16)
    round_settings = {"server-round": 2, "local_epochs": 2, "lr": 0.03, "candidate": "lr0.03-e2", "proximal_mu": 0.01}
    pairs = wire.pairs_setting([Pair("loss", "none", "student", "0a", "weights", "1b")])
    sent = {
        wire.DESCRIBE: {},
        wire.LOCAL: {},
        wire.RELEASE: {"round": 1},
        wire.TRAIN: {"weights": model} | round_settings,
        wire.EVALUATE: {"weights": model, "split": "val"},
        wire.REFERENCES: {"kinds": ["student", "teacher"], "shared": (images, labels), "sizes": [4, 2], "sites": 2},
        wire.AUDIT: {"weights": model, "target": "student", "kind": "student"},
        wire.COMPARE: {"pairs": pairs},
        wire.FINETUNE: {"weights": model, "contestant": "fedkr+ft"},
    }
    offered = {"lakeside": ReleasedSets.of_arrays(images, labels, [4, 2])}
    return {kind: wire.request_content(study.to_json(), **settings) for kind, settings in sent.items()} | {
        wire.PERSONALISE: wire.offer_content(study.to_json(), "fedkr-dda", offered)
    }


def arrived(content, message_type):
    names = dict.fromkeys(("message_id", "reply_to_message_id", "group_id"), "m")
    created = {"created_at": time.time(), "ttl": 60.0}
    return Message(
        content,
        metadata=Metadata(run_id=1, src_node_id=1, dst_node_id=2, message_type=message_type, **created, **names),
    )


# The rules, written down without the readers' own code.


def whole(value, most):
    return type(value) is int and 1 <= value <= most


def real(value, most):
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value <= most


def is_model(record, usual):
    arrays, own = ({name: array.numpy() for name, array in r.items()} for r in (record, usual))
    fits = arrays.keys() == own.keys() and all(arrays[name].shape == own[name].shape for name in own)
    with np.errstate(all="ignore"):
        return fits and all(np.isfinite(array.astype(np.float32)).all() for array in arrays.values())


def name_of(value):
    return isinstance(value, str) and len(value) <= 100 and value.isprintable()


def is_shared(record, sizes):
    images, labels = record["images"].numpy(), record["soft-labels"].numpy()
    right = images.dtype == np.uint8 and labels.dtype == np.float16 and images.shape[1:] == (8, 8, 1)
    return right and labels.shape == (len(images), 3) and all(whole(n, 6) for n in sizes) and sum(sizes) == len(images)


def is_offer(settings, content):
    sets = json.loads(settings["offer"])["sets"]
    sizes = [part["size"] for part in sets]
    named = all(name_of(part["site"]) and part["site"] != "st-mary" for part in sets)
    if wire.SHARED not in content:
        return not sets
    return named and 0 < len(sets) <= 2 * 4 and is_shared(content[wire.SHARED], sizes)


def is_request(kind, content, usual):
    settings = dict(content[wire.CONFIG])
    rules = {
        wire.RELEASE: lambda: whole(settings["round"], 1),
        wire.TRAIN: lambda: (
            whole(settings["server-round"], 20)
            and whole(settings["local-epochs"], 5)
            and real(settings["lr"], 0.1)
            and real(settings.get("proximal-mu", 0), 0.01)
            and name_of(settings["candidate"])
        ),
        wire.EVALUATE: lambda: settings.get("split", "test") in ("test", "val"),
        wire.REFERENCES: lambda: isinstance(settings["kinds"], list) and {*settings["kinds"]} <= {*KINDS},
        wire.AUDIT: lambda: name_of(settings["target"]) and settings.get("kind", settings["target"]) in KINDS,
        wire.COMPARE: lambda: all(len(pair) == 6 for pair in json.loads(settings["pairs"])),
        wire.FINETUNE: lambda: settings["contestant"] == "fedkr+ft",
        wire.PERSONALISE: lambda: settings["contestant"] == "fedkr-dda" and is_offer(settings, content),
    }
    needs_model = kind in (wire.TRAIN, wire.EVALUATE, wire.FINETUNE)
    if needs_model and not is_model(content[wire.ARRAYS], usual[wire.ARRAYS]):
        return False
    if kind == wire.REFERENCES and wire.SHARED in content and not whole(settings["sites"], 2):
        return False
    if kind == wire.REFERENCES and wire.SHARED in content and not is_shared(content[wire.SHARED], settings["sizes"]):
        return False
    return kind in wire.REPLIES and rules.get(kind, lambda: True)()


@thorough
def test_what_is_worked_on_is_what_the_study_covers(rng, asked):
    kind = rng.choice([*asked.usual])
    content = contents(rng, asked.usual[kind])
    if kind == wire.COMPARE and rng.random() < 0.5:
        settings = dict(content.get(wire.CONFIG) or {})
        pairs = json.loads(dict(asked.usual[kind][wire.CONFIG])["pairs"])
        content = wire.request_content(settings.get("study", "{}"), pairs=json_text(rng, pairs))
    if rng.random() < 0.05:
        study = json.dumps(mutated(rng, json.loads(asked.study.to_json())))
        content[wire.CONFIG] = wire.request_content(study)[wire.CONFIG]
    sent_as = rng.choice([kind] * 40 + [*wire.REPLIES, "query", "query.other", "evaluate.describe"])
    accepted, _ = read_bounded("request", asked, arrived(content, sent_as))
    assert not accepted or is_request(sent_as, content, asked.usual.get(sent_as))
