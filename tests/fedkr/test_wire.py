"""The wire: what goes in comes out, with its dtype and shape, and what is broken is refused in one line."""

import io
import math
import tracemalloc

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, Metadata, RecordDict
from torch import nn

from fedkr import wire
from fedkr.audit.document import Pair
from fedkr.errors import UserError
from fedkr.learning.evaluation import measure_utility
from fedkr.learning.models import load_weights
from fedkr.release import Release


def arrived(content):
    names = ("message_id", "reply_to_message_id", "group_id")
    metadata = Metadata(
        run_id=1,
        src_node_id=1,
        dst_node_id=2,
        created_at=0.0,
        ttl=1.0,
        message_type=wire.TRAIN,
        **dict.fromkeys(names, ""),
    )
    return Message(content, metadata=metadata)


def a_model():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3, 4, 1)])
def test_a_tensor_comes_back_as_it_was_sent(dtype, shape):
    tensor = (torch.rand(shape) * 100).to(dtype)
    found = wire.read_weights(wire.weights_record({"a.b": tensor}))["a.b"]
    assert (found.dtype, found.shape) == (dtype, tensor.shape)
    assert torch.equal(found, tensor)


def test_a_tensor_in_another_memory_order_keeps_its_values():
    tensor = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    for variant in (tensor, tensor.transpose(0, 1), tensor[:, ::2]):
        assert torch.equal(wire.read_weights(wire.weights_record({"w": variant}))["w"], variant)


def test_a_received_tensor_can_be_written_to():
    found = wire.read_weights(wire.weights_record({"w": torch.ones(3)}))["w"]
    found.add_(1)
    assert found.tolist() == [2.0, 2.0, 2.0]


def test_a_request_comes_back_with_study_settings_and_weights():
    content = wire.request_content("{}", {"w": torch.ones(2)}, local_epochs=3, lr=0.5, candidate="a")
    found = wire.read_request(arrived(content))
    assert (found.study, found.settings) == ("{}", {"local-epochs": 3, "lr": 0.5, "candidate": "a"})
    assert torch.equal(found.weights["w"], torch.ones(2))
    assert wire.read_request(arrived(wire.request_content("{}"))).weights is None


def test_a_request_carries_other_sites_images_beside_its_settings():
    release = a_release()
    content = wire.request_content(
        "{}", shared=(release.images, release.soft_labels), sizes=[1, 2], targets=["student"]
    )
    found = wire.read_request(arrived(content))
    assert found.settings == {"sizes": [1, 2], "targets": ["student"]}
    assert np.array_equal(found.shared[0], release.images) and np.array_equal(found.shared[1], release.soft_labels)
    assert wire.read_request(arrived(wire.request_content("{}"))).shared is None


def test_pairs_to_compare_come_back_as_they_were_asked_for():
    pairs = [
        Pair("rmia", "direct", "student", "0a", "my.own.strategy", "1b"),
        Pair("loss", "none", "a", "", "b", ""),
    ]
    request = wire.read_request(arrived(wire.request_content("{}", pairs=wire.pairs_setting(pairs))))
    assert wire.read_pairs(request) == pairs


@pytest.mark.parametrize("setting", ["", "[1]", '[{"row": "loss"}]', '{"row": "loss"}', '[{"image": "17"}]'])
def test_pairs_that_are_none_are_refused(setting):
    with pytest.raises(UserError, match="'pairs' is missing or no list of pairs"):
        wire.read_pairs(wire.Request("{}", {"pairs": setting}, None))


@pytest.mark.parametrize("content", [RecordDict(), RecordDict({"config": ConfigRecord({"study": 3})})])
def test_a_request_without_a_study_is_refused(content):
    with pytest.raises(UserError, match="train: the request holds no study"):
        wire.read_request(arrived(content))


def test_averaged_weights_are_cast_back_to_the_models_own_types():
    sent = a_model().state_dict()
    averaged = {name: value.double() for name, value in sent.items()}
    averaged["1.num_batches_tracked"] = torch.tensor(41.99999, dtype=torch.float64)
    model = load_weights(a_model(), averaged)
    assert {n: v.dtype for n, v in model.state_dict().items()} == {n: v.dtype for n, v in sent.items()}
    assert torch.equal(model.state_dict()["0.weight"], sent["0.weight"])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused_by_name(value):
    weights = dict(a_model().state_dict())
    weights["1.running_var"] = torch.tensor([1.0, value])
    with pytest.raises(UserError, match=r"'1\.running_var' holds NaN or infinity; lower the learning rate"):
        load_weights(a_model(), weights)


def test_a_missing_an_unknown_and_a_misshapen_tensor_are_refused_by_name():
    weights = dict(a_model().state_dict())
    kept = weights.pop("0.bias")
    with pytest.raises(UserError, match=r"'0\.bias' is on one side only"):
        load_weights(a_model(), weights)
    with pytest.raises(UserError, match=r"'extra' is on one side only"):
        load_weights(a_model(), weights | {"0.bias": kept, "extra": kept})
    with pytest.raises(UserError, match=r"'0\.bias' has shape \[1, 2\], expected \[2\]"):
        load_weights(a_model(), weights | {"0.bias": kept[None]})


def test_weights_that_are_refused_leave_the_model_as_it_was():
    model = a_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError):
        load_weights(model, {name: value * math.nan for name, value in before.items()})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def a_release():
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1), dtype=np.uint8)
    return Release(images, np.full((3, 2), 0.5, np.float16), {"site": "ä", "count": 3, "scores": {"x": [1.5, None]}})


def test_a_release_comes_back_as_it_was_sent():
    content = wire.release_reply(a_release(), 2.5)
    found = wire.read_release(content)
    assert np.array_equal(found.images, a_release().images)
    assert np.array_equal(found.soft_labels, a_release().soft_labels)
    assert (found.images.dtype, found.soft_labels.dtype) == (np.uint8, np.float16)
    assert found.manifest == a_release().manifest
    assert wire.read_metrics(content) == {"count": 3, "seconds": 2.5}


def test_a_reply_holds_only_the_records_that_its_type_names():
    assert set(wire.release_reply(a_release(), 1.0)) == wire.REPLIES[wire.RELEASE]
    assert set(wire.metrics_reply({})) == wire.REPLIES[wire.EVALUATE]


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", b"no array at all"])
def test_a_release_whose_bytes_are_no_array_is_refused(data):
    content = wire.release_reply(a_release(), 1.0)
    content[wire.SHARED] = ArrayRecord({"images": Array("uint8", (3,), "numpy.ndarray", data)})
    with pytest.raises(UserError, match="no array"):
        wire.read_release(content)


def test_a_pickled_array_is_refused_and_never_run():
    array = Array(np.zeros(1))
    ran = []
    pickled = np.array([ran], dtype=object)
    buffer = io.BytesIO()
    np.save(buffer, pickled, allow_pickle=True)
    content = wire.release_reply(a_release(), 1.0)
    content[wire.SHARED] = ArrayRecord({"images": Array("object", (1,), array.stype, buffer.getvalue())})
    with pytest.raises(UserError, match="no array"):
        wire.read_release(content)


@pytest.mark.parametrize("name", ["images", "soft-labels"])
def test_a_release_without_a_part_is_refused_by_its_name(name):
    content = wire.release_reply(a_release(), 1.0)
    del content[wire.SHARED][name]
    with pytest.raises(UserError, match=f"the set of images lacks '{name}'"):
        wire.read_release(content)


@pytest.mark.parametrize("text", ["{", "[1]", "null"])
def test_a_document_that_is_no_object_is_refused(text):
    content = RecordDict({wire.CARD: ConfigRecord({"json": text})})
    with pytest.raises(UserError, match="'card'"):
        wire.read_document(content, wire.CARD)


def test_a_utility_comes_back_and_what_it_lacks_is_none():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(20, 3)).astype(np.float32), rng.integers(0, 3, 20)
    both, one = measure_utility(logits, labels, 3), measure_utility(logits, np.zeros(20, int), 3)
    content = wire.metrics_reply(wire.utility_metrics(both, "test") | wire.utility_metrics(one, "val"))
    metrics = wire.read_metrics(content)
    assert wire.read_utility(metrics, "test") == {n: getattr(both, n) for n in wire.UTILITY_FIELDS}
    assert wire.read_utility(metrics, "val")["auc"] is None
    assert set(wire.read_utility(metrics, "global").values()) == {None}
    with pytest.raises(UserError, match="global/accuracy"):
        wire.read_utility(metrics | {"global/loss": 0.5}, "global")


def test_a_models_digest_follows_its_weights_and_names():
    one, two = {"a": torch.zeros(2)}, {"b": torch.zeros(2)}
    assert wire.weights_digest(one) == wire.weights_digest({"a": torch.zeros(2)})
    assert len({wire.weights_digest(w) for w in (one, two, {"a": torch.ones(2)}, None)}) == 4


def test_a_models_digest_does_not_depend_on_the_order_of_its_tensors():
    weights = {"b": torch.ones(1), "a": torch.zeros(2)}
    assert wire.weights_digest(weights) == wire.weights_digest(dict(sorted(weights.items())))


@pytest.mark.parametrize("confusion", [5, 5.0, [0] * 5])
def test_a_confusion_that_is_no_square_matrix_is_refused(confusion):
    usual = {"accuracy": 0.5, "balanced_accuracy": 0.5, "auc": 0.6, "loss": 1.0, "confusion": confusion, "count": 2}
    with pytest.raises(UserError, match="the metric 'test/confusion' is no square matrix of counts"):
        wire.read_utility({f"test/{key}": figure for key, figure in usual.items()}, "test")


def test_seconds_that_are_missing_are_named():
    with pytest.raises(UserError, match="seconds"):
        wire.read_seconds({})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accuracy", 1.7), ("accuracy", True), ("balanced_accuracy", -0.1), ("auc", 2.0), ("loss", -1.0),
        ("count", 0), ("count", 2**62), ("count", math.nan), ("confusion", [1, -1, 0, 0]), ("confusion", [math.inf]),
    ],
)  # fmt: skip
def test_a_figure_out_of_its_range_is_refused_when_it_arrives(name, value):
    usual = {"accuracy": 0.5, "balanced_accuracy": 0.5, "auc": 0.6, "loss": 1.0, "confusion": [1, 0, 0, 1], "count": 2}
    metrics = {f"test/{key}": figure for key, figure in (usual | {name: value}).items()}
    with pytest.raises(UserError, match=f"the metric 'test/{name}' is (missing or no number from|no square matrix)"):
        wire.read_utility(metrics, "test")


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0, 1e308, 2**62, True, None, "1"])
def test_seconds_that_no_clock_shows_are_refused(seconds):
    with pytest.raises(UserError, match="the metric 'seconds' is missing or no number from 0"):
        wire.read_seconds({"seconds": seconds})


def npy(shape="(3,)", dtype="<f4", data=b"", header=None):
    header = (header or f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}").encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def archive():
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        npy("(4000000000000,)"), npy("(4611686018427387904, 4611686018427387904)"), npy("(-3,)"),
        npy("(2,)", "<f4", b"123"),
        npy("(1000000000000,)", "|V0"), npy("(3,)", ">f4", bytes(12)), npy("(1,)", "|O", b"cos\nsystem\n(S'true'\ntR."),
        npy(header="(" * 900), npy(f"({'-' * 5000}3,)"), npy(f"(1{'0' * 40},)"), npy(f"(0, 1{'0' * 40})"),
        npy(header="{'descr': (), 'fortran_order': False, 'shape': (3,), }"),
        npy(header="{'descr': '<f4'"), archive(), b"PK\x05\x06" + bytes(18),
    ],
)  # fmt: skip
def test_an_array_that_promises_what_it_does_not_hold_is_refused_before_memory_is_taken(data):
    lie = ArrayRecord({"w": Array("float32", (3,), "numpy.ndarray", data)})
    shared = ArrayRecord({"images": lie["w"], "soft-labels": lie["w"]})
    tracemalloc.start()
    for read, record in ((wire.read_weights, lie), (wire.read_release, RecordDict({wire.SHARED: shared}))):
        with pytest.raises(UserError, match="no array of numbers"):
            read(record)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_an_array_in_fortrans_order_keeps_its_values():
    values = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    buffer = io.BytesIO()
    np.save(buffer, values)
    found = wire.read_array(Array("float64", (2, 3), "numpy.ndarray", buffer.getvalue()), "w")
    assert np.array_equal(found, values) and found.flags.writeable


@pytest.mark.parametrize("name", ["0.bias", "1.num_batches_tracked"])
def test_weights_that_the_models_own_type_cannot_hold_are_refused(name):
    weights = {name: value.double() for name, value in a_model().state_dict().items()}
    weights[name].fill_(1e300)
    with pytest.raises(UserError, match=f"'{name}' holds NaN or infinity"):
        load_weights(a_model(), weights)


@pytest.mark.parametrize("setting", ["[" * 100_000, "9" * 5000, "null", '[["row"]]'])
def test_pairs_that_no_reader_of_json_can_hold_are_refused(setting):
    with pytest.raises(UserError, match="'pairs' is missing or no list of pairs"):
        wire.read_pairs(wire.Request("{}", {"pairs": setting}, None))


def test_a_setting_that_is_missing_is_named():
    with pytest.raises(UserError, match="lacks the setting 'lr'"):
        wire.Request("{}", {}, None).setting("lr")


@pytest.mark.parametrize("confusion", [7, 0.5, [1, 2, 3], [0.5] * 4])
def test_a_confusion_that_is_no_matrix_is_refused(confusion):
    usual = {"accuracy": 0.5, "balanced_accuracy": 0.5, "loss": 1.0, "count": 2, "confusion": confusion}
    with pytest.raises(UserError, match="confusion' is no square matrix"):
        wire.read_utility({f"test/{name}": figure for name, figure in usual.items()}, "test")


@pytest.mark.parametrize("name", ["seconds", "test/count"])
def test_a_count_beyond_all_that_can_be_is_refused(name):
    usual = {"test/accuracy": 0.5, "test/balanced_accuracy": 0.5, "test/loss": 1.0, "test/count": 2, "seconds": 1.0}
    with pytest.raises(UserError, match=f"the metric '{name}' is missing or no number"):
        wire.read_seconds(wire.read_utility(usual | {name: 1e12}, "test") | usual | {name: 1e12})


def test_more_metrics_than_any_answer_has_are_refused():
    flood = wire.metrics_reply({f"x{number}": 1.0 for number in range(wire.MOST_METRICS + 1)})
    with pytest.raises(UserError, match="65 metrics, more than 64"):
        wire.read_metrics(flood)


@pytest.mark.parametrize("value", ["[" + "[]," * 200_000 + "[]]", b"{}", ["{}"], 7])
def test_a_document_that_is_too_long_or_no_text_is_refused(value):
    with pytest.raises(UserError, match="the reply's 'card' is"):
        wire.read_document(RecordDict({wire.CARD: ConfigRecord({"json": value})}), wire.CARD)
