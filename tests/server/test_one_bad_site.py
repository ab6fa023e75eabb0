"""One site sends nonsense in a hundred forms: the study ends with the same models as without it, and says why."""

import itertools
import json

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from google.protobuf.message import DecodeError

from fedkr import wire
from fedkr.learning.job import Job
from fedkr.learning.runtime import Runtime
from fedkr.release import Release
from fedkr.stages import read_artifact
from server.comparison import Comparison
from server.contestant import Federation

BAD = "site-2"
RUNTIME = Runtime.choose("cpu", "float32", 1)
FIGURES = {"accuracy": 0.5, "balanced_accuracy": 0.5, "auc": 0.5, "loss": 1.0, "count": 10}
ROUND = {"num-examples": 4, "val-correct": 1.0, "val-loss": 1.0, "val-count": 2, "diverged": 0, "seconds": 3.0}


def utility(*splits):
    return {f"{split}/{name}": value for split in splits for name, value in FIGURES.items()} | {"seconds": 1.0}


def released(site):
    images = np.full((8, 8, 8, 1), int(site[-1]), np.uint8)
    manifest = {"site": site, "round": 1, "slices": 2, "count": 8, "left_out": []}
    return Release(images, np.full((8, 3), 1 / 3, np.float16), manifest)


def train(site, content):
    reply = wire.metrics_reply(ROUND)
    reply[wire.ARRAYS] = content[wire.ARRAYS]
    return reply


def numbers(record, *values):
    """Return mutations of a record of metrics: each figure left out, or another value in its place."""
    out = []
    for name in record:
        out.append({other: value for other, value in record.items() if other != name})
        out += [record | {name: value} for value in values]
    return [MetricRecord(values) for values in out]


def documents(record):
    """Return mutations of a record with a JSON document."""
    values = json.loads(str(record["json"]))
    texts = ["", "null", "[]", "{", '"text"', "[" * 3000, '{"site": NaN}', json.dumps(values | {"unknown": 1})]
    texts += [json.dumps(values | {name: {"a": [[]]}}) for name in values]
    return [ConfigRecord({"json": text}) for text in texts] + [ConfigRecord({}), ConfigRecord({"json": 7})]


def arrays(record):
    """Return mutations of a record of arrays: one left out, of another shape or type, not finite, no array at all."""
    name, array = next((name, array) for name, array in record.items() if array.numpy().ndim)
    values, rest = array.numpy(), {other: a for other, a in record.items() if other != name}
    wrong = [values[:0], values.ravel()[:1], np.zeros((3, 3, 3, 3, 3), values.dtype), values.astype("float64") * np.nan]
    wrong += [values.astype("complex64"), values.astype("U8"), np.full(values.shape, 1e30)]
    mutated = [ArrayRecord(rest | {name: Array(np.ascontiguousarray(a))}) for a in wrong]
    broken = Array(dtype=array.dtype, shape=array.shape, stype=array.stype, data=b"\x80\x04no array")
    return [ArrayRecord(rest), ArrayRecord({}), *mutated, ArrayRecord(rest | {name: broken})]


def mutations(content):
    """Return a reply's content in many wrong forms."""
    for name, record in content.items():
        others = {other: value for other, value in content.items() if other != name}
        yield RecordDict(others)
        yield RecordDict(others | {name: ConfigRecord({"text": "x"})})
        yield RecordDict(others | {name: MetricRecord({"x": 1.0})})
        if isinstance(record, MetricRecord):
            changed = numbers(dict(record), float("nan"), [1.0, 2.0], 1e300)
        else:
            changed = documents(record) if isinstance(record, ConfigRecord) else arrays(record)
        for value in changed:
            yield RecordDict(others | {name: value})


ANSWERS = {
    wire.LOCAL: lambda site, content: wire.metrics_reply(utility("test", "global")),
    wire.TRAIN: train,
    wire.EVALUATE: lambda site, content: wire.metrics_reply(utility(dict(content[wire.CONFIG]).get("split", "test"))),
    wire.RELEASE: lambda site, content: wire.release_reply(released(site), 5.0),
}
SHOWN_BY = {wire.LOCAL: "local", wire.TRAIN: "fedavg", wire.EVALUATE: "fedavg", wire.RELEASE: "fedkr"}


@pytest.fixture
def compare(federation, study, tmp_path, monkeypatch):
    """Run a comparison in which each kind of message may be answered by another function; return what came of it.

    The few val images choose, so that the sites are asked about them, too.
    """
    monkeypatch.setattr("fedkr.config.protocol.LEAST_TO_CHOOSE", 1)
    study.strategy.lrs, study.strategy.local_epochs, study.strategy.norms = [0.1], [1], ["batch"]
    study.strategy.rounds = 1

    def run(name, kind, answer, sites=3):
        study.strategy.compare = [SHOWN_BY[kind]]
        _, coordinator = federation(ANSWERS | {kind: answer}, sites=sites, min_sites=2)
        coordinator.stages.folder = tmp_path / name
        found = Comparison(Federation(coordinator, Job(RUNTIME)), tmp_path / name).run()
        models = {path.stem: read_artifact(path).tensors for path in (tmp_path / name).glob("models/*.safetensors")}
        return found, models, coordinator.missing

    return run


def saying(kind, **figures):
    """Return answers in which the bad site says other figures."""

    def answer(site, content):
        usual = ANSWERS[kind](site, content)
        if site == BAD:
            usual[wire.METRICS] = MetricRecord(dict(usual[wire.METRICS]) | figures)
        return usual

    return answer


@pytest.mark.parametrize("kind", [wire.LOCAL, wire.EVALUATE])
def test_a_confusion_that_is_no_list_loses_its_site(compare, kind):
    assert set(compare("run", kind, saying(kind, **{"test/confusion": 5}))[2]) == {BAD}


def test_a_long_list_that_nobody_asked_for_is_not_kept(compare, tmp_path):
    found, _, missing = compare("run", wire.LOCAL, saying(wire.LOCAL, more=[1] * 100_000))
    assert not missing and found["strategies"][0]["seconds"] == 3.0
    assert max(path.stat().st_size for path in (tmp_path / "run").glob("local-*")) < 1000


def test_a_reason_is_one_short_line(compare):
    missing = compare("run", wire.LOCAL, saying(wire.LOCAL, **{"test/accuracy": [1] * 100_000}))[2]
    assert "test/accuracy" in missing[BAD] and len(missing[BAD]) < 300


def test_a_reply_that_names_another_question_is_of_the_site_that_was_asked(compare, bad_reply):
    def forge(grid, reply):
        grid._open["another"] = grid._open[reply.metadata.reply_to_message_id]
        reply.metadata.__dict__["_reply_to_message_id"] = "another"
        return reply

    bad_reply(forge)
    found, _, missing = compare("run", wire.LOCAL, ANSWERS[wire.LOCAL])
    assert not missing and len(found["strategies"][0]["per_site"]) == 3


@pytest.mark.parametrize("error", [DecodeError, KeyError, MemoryError, RecursionError])
def test_a_reply_that_cannot_be_unpacked_loses_its_site(compare, bad_reply, error):
    def broken(grid, reply):
        raise error("\x1b[2J")

    bad_reply(broken)
    assert compare("run", wire.LOCAL, ANSWERS[wire.LOCAL])[2] == {BAD: "its answer cannot be unpacked"}


def test_a_way_to_the_superlink_that_fails_is_no_sites_fault(compare, bad_reply):
    def gone(grid, reply):
        raise ConnectionError("no route")

    bad_reply(gone)
    with pytest.raises(ConnectionError):
        compare("run", wire.LOCAL, ANSWERS[wire.LOCAL])


@pytest.mark.parametrize("kind", list(SHOWN_BY))
def test_whatever_an_answer_makes_fail_loses_its_site_alone(compare, monkeypatch, kind):
    """Other code may have sent what no check has thought of."""

    def fail(name):
        original = getattr(wire, name)

        def read(*arguments):
            if next(calls) == 1:
                raise MemoryError
            return original(*arguments)

        calls = itertools.count()
        monkeypatch.setattr(wire, name, read)

    fail({wire.LOCAL: "read_utility", wire.TRAIN: "read_round", wire.RELEASE: "read_release"}.get(kind, "read_metrics"))
    missing = compare("run", kind, ANSWERS[kind])[2]
    assert list(missing.values()) == ["its answer cannot be read (MemoryError)"]


@pytest.mark.parametrize("kind", list(SHOWN_BY))
def test_a_bad_answer_loses_its_site_and_changes_no_model(compare, kind):
    honest = []

    def keep(site, content):
        honest.append(ANSWERS[kind](site, content))
        return honest[-1]

    # A model that is evaluated was trained before, with all three.
    _, expected, _ = compare("without", kind, keep, sites=3 if kind == wire.EVALUATE else 2)
    lost = 0
    for number, bad in enumerate(mutations(honest[0])):
        answer = lambda site, content, bad=bad: bad if site == BAD else ANSWERS[kind](site, content)  # noqa: E731
        found, models, missing = compare(str(number), kind, answer)
        assert [row["name"] for row in found["strategies"]] == [SHOWN_BY[kind]]
        assert set(missing) <= {BAD} and not any("\n" in why for why in missing.values())
        if BAD in missing:
            lost += 1
            assert models.keys() == expected.keys()
            for name, tensors in models.items():
                assert all(torch.equal(tensor, expected[name][key]) for key, tensor in tensors.items())
    assert lost >= 15
