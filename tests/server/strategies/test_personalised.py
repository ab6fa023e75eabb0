"""Personalised contestants: who is sent what, what comes of the answers, and that a bad one costs its site alone."""

import json

import numpy as np
import pytest

from fedkr import wire
from fedkr.data import ImageSet
from fedkr.learning.job import Job
from fedkr.learning.runtime import Runtime
from fedkr.release import Release
from server.comparison import Comparison
from server.contestant import Federation

BAD = "site-2"
FIGURES = {"balanced_accuracy": 0.5, "auc": 0.5, "loss": 1.0, "count": 10}
TEST = ImageSet(np.zeros((3, 8, 8, 1), np.uint8), np.arange(3), ("healthy", "ill", "rare"))


def metrics(site, accuracy=None):
    rates = {"test": 0.5, "global": 0.1 * int(site[-1]) if accuracy is None else accuracy}
    utility = {f"{split}/{n}": v for split, rate in rates.items() for n, v in (FIGURES | {"accuracy": rate}).items()}
    return wire.metrics_reply(utility | {"seconds": 7.0})


def offered_to(content):
    return json.loads(dict(content[wire.CONFIG])["offer"])["sets"]


def chosen(site, content):
    """Return the answer of a site that takes the first release that it was offered."""
    reply, names = metrics(site), list(dict.fromkeys(part["site"] for part in offered_to(content)))
    rows = [{"site": name, "alone": 0.75, "chosen": int(name == names[0])} for name in names]
    told = {"judged": 80, "own": 0.5, "candidates": rows} if rows else {}
    reply[wire.CHOICE] = wire.document({"how": "cross-validation"} | told)
    return reply


@pytest.fixture
def compare(federation, study, release_of, tmp_path):
    """Run a comparison over sites that release and personalise; return what came of it, and the grid."""

    def run(names, recipients="federation", **answers):
        kinds = {"fedkr-dda": "fedkr_dda", "fedkr+ft": "fedkr_ft"}
        study.strategy.compare = list(names)
        study.strategy.options = {name: {"kind": kinds[name]} for name in names if name in kinds}
        study.strategy.options |= {"fedkr": {"quarantine": False}}
        given = {
            wire.RELEASE: lambda site, content: wire.release_reply(release_of(site), 2.5),
            wire.EVALUATE: lambda site, content: metrics(site),
            wire.PERSONALISE: answers.get("personalise", chosen),
            wire.FINETUNE: answers.get("finetune", lambda site, content: metrics(site)),
        }
        grid, coordinator = federation(given)
        for name, member in coordinator.members.items():
            member.card["recipients"] = recipients if isinstance(recipients, str) else recipients[name]
        runtime = Runtime.choose("cpu", "float32", 1)
        found = Comparison(Federation(coordinator, Job(runtime), TEST), tmp_path).run()
        return found, grid, coordinator

    return run


def row_of(found, name):
    return next(row for row in found["strategies"] if row["name"] == name)


def test_each_site_is_brought_the_others_releases_set_by_set(compare, release_of):
    asked = {}

    def personalise(site, content):
        images = Release(content[wire.SHARED]["images"].numpy(), content[wire.SHARED]["soft-labels"].numpy(), {})
        asked[site] = offered_to(content), images.images
        return chosen(site, content)

    compare(["fedkr", "fedkr-dda"], personalise=personalise)
    assert list(asked) == ["site-0", "site-1", "site-2"]
    for site, (parts, images) in asked.items():
        others = [name for name in asked if name != site]
        assert parts == [{"site": name, "size": 4} for name in others for _ in range(2)]
        assert np.array_equal(images, np.concatenate([release_of(name).images for name in others]))


def test_a_release_goes_to_other_sites_only_where_its_sites_policy_says_so(compare):
    told = {}
    recipients = {"site-0": "server", "site-1": "federation", "site-2": "server"}
    personalise = lambda site, content: told.update({site: offered_to(content)}) or chosen(site, content)  # noqa: E731
    compare(["fedkr", "fedkr-dda"], recipients, personalise=personalise)
    assert {site: {part["site"] for part in parts} for site, parts in told.items()} == {
        "site-0": {"site-1"},
        "site-1": set(),
        "site-2": {"site-1"},
    }


def test_both_are_means_over_the_sites_models_with_what_each_site_paid_and_chose(compare):
    found, _, _ = compare(["fedkr", "fedkr-dda", "fedkr+ft"])
    for name in ("fedkr-dda", "fedkr+ft"):
        row = row_of(found, name)
        assert row["accuracy"] == pytest.approx(0.1)
        assert [entry["accuracy"] for entry in row["per_site"]] == [0.5] * 3
        assert [entry["seconds"] for entry in row["per_site"]] == [2.5 + 7.0] * 3
        assert all(entry["bytes_down"] > 0 < entry["bytes_up"] for entry in row["per_site"])
    rows = found["choices"]["fedkr-dda"]["site-1"]["candidates"]
    assert [(row["site"], row["chosen"]) for row in rows] == [("site-0", 1), ("site-2", 0)]
    assert list(found["choices"]) == ["fedkr-dda"]
    assert [(t["name"], t["kind"]) for t in found["targets"] if t["kind"] == "personal"] == [
        ("fedkr-dda", "personal"),
        ("fedkr+ft", "personal"),
    ]
    assert all(len(paths) == 1 for paths in found["releases"].values())


def test_the_sites_fine_tune_the_student_that_fedkr_trained_once(compare, monkeypatch):
    import server.from_releases

    train, trained = server.from_releases.train_student, []
    monkeypatch.setattr(
        "server.from_releases.train_student", lambda *given: trained.append(train(*given)) or trained[-1]
    )
    sent = {}
    finetune = lambda site, content: sent.update({site: content[wire.ARRAYS]}) or metrics(site)  # noqa: E731
    compare(["fedkr", "fedkr+ft"], finetune=finetune)
    assert len(trained) == 1 and len(sent) == 3
    for record in sent.values():
        assert wire.weights_digest(wire.read_weights(record)) == wire.weights_digest(trained[0].tensors)


def test_they_run_without_fedkr_beside_them_and_ask_nothing_twice(compare):
    first, grid, _ = compare(["fedkr-dda", "fedkr+ft"])
    assert [kind for kind, _ in grid.asked] == [wire.RELEASE] * 3 + [wire.PERSONALISE] * 3 + [wire.FINETUNE] * 3
    second, grid, _ = compare(["fedkr-dda", "fedkr+ft"])
    assert grid.asked == [] and second == first


def bad_answers():
    offered = [{"site": "site-0", "size": 8}, {"site": "site-1", "size": 8}]
    request = wire.request_content("{}", offer=json.dumps({"sets": offered}))
    for values in (
        {"how": "chance"},
        {"how": "val", "judged": 80, "own": 2.0, "candidates": []},
        {"how": "val", "judged": 80, "own": 0.5, "candidates": [{"site": "<b>", "alone": 0.5, "chosen": 1}] * 2},
        {"how": "val", "judged": 0, "own": 0.5, "candidates": []},
        {"how": "val", "extra": 1},
    ):
        reply = metrics(BAD)
        reply[wire.CHOICE] = wire.document(values)
        yield reply
    yield metrics(BAD)
    reply = metrics(BAD, accuracy=float("nan"))
    reply[wire.CHOICE] = chosen(BAD, request)[wire.CHOICE]
    yield reply


@pytest.mark.parametrize("number", range(7))
def test_a_bad_choice_costs_its_site_this_contestant_and_nothing_else(compare, number):
    bad = list(bad_answers())[number]
    found, _, coordinator = compare(
        ["fedkr", "fedkr-dda"], personalise=lambda site, content: bad if site == BAD else chosen(site, content)
    )
    assert list(coordinator.members) == ["site-0", "site-1", "site-2"] and coordinator.missing == {}
    assert list(found["choices"]["fedkr-dda"]) == ["site-0", "site-1"]
    assert row_of(found, "fedkr-dda")["accuracy"] == pytest.approx(0.05)
    (note,) = found["notes"]
    assert note.startswith("site-2 has no model of fedkr-dda: ") and "\n" not in note


def test_a_site_that_refuses_to_fine_tune_stays_in_the_study(compare):
    bad = wire.metrics_reply({"seconds": -1.0})
    found, _, coordinator = compare(["fedkr+ft"], finetune=lambda site, content: bad if site == BAD else metrics(site))
    assert BAD in coordinator.members
    assert found["notes"][0].startswith("site-2 has no model of fedkr+ft: the metric 'seconds'")
