"""Weight sharing: every round is a stage, the search and the round are chosen on val, sites may come and go."""

import numpy as np
import pytest
import torch
from flwr.app import Error
from flwr.serverapp.strategy import FedAdam, FedAvg, FedProx

from fedkr import wire
from fedkr.errors import UserError
from fedkr.progress import SilentProgress
from fedkr.seeds import torch_rng
from server.coordinator import SITE_ERROR
from server.failure import StudyFailedError
from server.strategies.weights import WeightSharing, make_strategy

COUNTER = "num_batches_tracked"


class Killed(BaseException):
    """Stands for a process that is gone."""


class Sites:
    """Sites that add noise of their own to the weights, and score models as a table says.

    Attributes:
        scores: val accuracy of the model after ``round`` rounds of a candidate.
        killed_in: the round in which the server dies.
        rounds: what was asked: (candidate, round, site, config).
    """

    def __init__(self):
        self.scores, self.killed_in, self.rounds, self.refusing, self.diverging = {}, None, [], set(), set()

    def answers(self):
        return {wire.TRAIN: self.train, wire.EVALUATE: self.evaluate}

    def train(self, site, content):
        config = dict(content[wire.CONFIG])
        candidate, number = config["candidate"], config["server-round"]
        if number == self.killed_in:
            raise Killed
        self.rounds.append((candidate, number, site, config))
        if site in self.refusing:
            return Error(SITE_ERROR, "PolicyError")
        rng = torch_rng(site, candidate, number)
        weights = {
            name: w + 1 if name.endswith(COUNTER) else w + 0.01 * torch.randn(w.shape, generator=rng)
            for name, w in wire.read_weights(content[wire.ARRAYS]).items()
        }
        score = self.scores.get((candidate, number - 1), 0.5)
        figures = {"num-examples": 10 * (1 + int(site[-1])), "seconds": 1.0}
        figures |= {"val-correct": score * 20, "val-loss": 20.0, "val-count": 20}
        figures["diverged"] = int((candidate, number) in self.diverging)
        reply = wire.metrics_reply(figures)
        reply[wire.ARRAYS] = wire.weights_record(weights)
        return reply

    def evaluate(self, site, content):
        assert content[wire.CONFIG]["split"] == "val"
        score = self.scores.get("final", 0.5)
        figures = {"accuracy": score, "balanced_accuracy": score, "loss": 1.0, "count": 20}
        return wire.metrics_reply({f"val/{name}": value for name, value in figures.items()})


@pytest.fixture
def sites():
    return Sites()


@pytest.fixture
def share(federation, study, sites):
    """Return a function that runs weight sharing from what earlier runs left on disk."""
    study.strategy.lrs, study.strategy.local_epochs = [0.1], [1]
    study.strategy.rounds, study.strategy.search_rounds = 4, 2

    def run(prepare=lambda grid, coordinator: None, **settings):
        grid, coordinator = federation(sites.answers(), **settings)
        prepare(grid, coordinator)
        return WeightSharing(coordinator, SilentProgress()).run()

    return run


def rounds_in(result):
    """Return how many rounds the weights saw: the fake sites count them in a buffer."""
    return round(float(next(t for name, t in result.weights.tensors.items() if name.endswith(COUNTER))))


def equal(first, second):
    assert first.tensors.keys() == second.tensors.keys()
    return all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("fedavg", {}), ("fedprox", {"proximal_mu": 0.1}), ("fedadam", {"eta": 0.01, "beta_1": 0.9, "beta_2": 0.99})],
)
def test_a_run_that_was_killed_ends_with_the_weights_of_one_that_was_not(share, sites, study, tmp_path, kind, options):
    study.strategy.kind, study.strategy.compare, study.strategy.options = kind, [kind], options
    sites.scores["final"] = 0.9
    whole = share()
    (tmp_path / "server").rename(tmp_path / "uninterrupted")
    sites.rounds.clear()
    sites.killed_in = 3
    with pytest.raises(Killed):
        share()
    sites.killed_in = None
    resumed = share()
    assert equal(whole.weights, resumed.weights)
    assert [number for _, number, site, _ in sites.rounds if site == "site-0"] == [1, 2, 3, 4]
    assert (whole.search, whole.costs) == (resumed.search, resumed.costs)
    if kind == "fedadam":
        assert any(name.startswith("v_t.") for name in resumed.weights.tensors)


def test_a_round_weighs_each_site_by_its_images(federation, sites, study):
    study.strategy.lrs, study.strategy.local_epochs, study.strategy.rounds = [0.1], [1], 1
    _, coordinator = federation(sites.answers())
    sharing = WeightSharing(coordinator, SilentProgress())
    start = sharing._initial_weights()
    mean = sharing.run().weights.tensors["model.head.weight"]

    def noise(site):
        rng = torch_rng(site, "lr0.1-e1", 1)
        drawn = {n: torch.randn(w.shape, generator=rng) for n, w in start.items() if not n.endswith(COUNTER)}
        return drawn["head.weight"]

    expected = start["head.weight"] + 0.01 * sum(
        share * noise(f"site-{i}") for i, share in enumerate((1 / 6, 2 / 6, 3 / 6))
    )
    assert torch.allclose(mean, expected, atol=1e-6)


def test_the_round_with_the_best_val_score_is_the_result_not_the_last(share, sites):
    sites.scores = {("lr0.1-e1", 2): 0.8, ("lr0.1-e1", 3): 0.7, "final": 0.6}
    result = share()
    assert [row["round"] for row in result.search] == [0, 1, 2, 3, 4]
    best = max(result.search, key=lambda row: row["val_accuracy"])
    assert (best["round"], best["val_accuracy"]) == (2, pytest.approx(0.8))
    assert rounds_in(result) == 2


def test_the_last_round_can_be_the_best(share, sites):
    sites.scores = {("lr0.1-e1", 2): 0.8, "final": 0.9}
    assert rounds_in(share()) == 4


def test_the_untrained_model_is_never_the_result(share, sites):
    sites.scores = {("lr0.1-e1", 0): 1.0}
    assert rounds_in(share()) > 0


def test_the_search_goes_on_with_the_candidate_that_is_best_on_val(share, sites, study):
    study.strategy.lrs = [0.1, 0.2]
    sites.scores = {("lr0.2-e1", 1): 0.9}
    result = share()
    asked = {(candidate, number) for candidate, number, _, _ in sites.rounds}
    assert asked == {("lr0.1-e1", 1), ("lr0.1-e1", 2), *(("lr0.2-e1", n) for n in (1, 2, 3, 4))}
    assert {site: cost["seconds"] for site, cost in result.costs.items()} == dict.fromkeys(
        ("site-0", "site-1", "site-2"), 6.0
    )


def test_the_learning_rate_falls_over_the_whole_schedule_also_in_the_search(share, sites, study):
    study.strategy.lrs = [0.1, 0.2]
    share()
    rates = {number: config["lr"] for candidate, number, _, config in sites.rounds if candidate == "lr0.1-e1"}
    assert rates[1] == pytest.approx(0.1)
    assert rates[2] == pytest.approx(0.1 * 0.5 * (1 + np.cos(np.pi / 4)))


def test_a_site_whose_policy_keeps_weights_is_never_asked_and_stays_in_the_study(share, sites):
    kept = []

    def prepare(grid, coordinator):
        coordinator.members["site-1"].card["allow"] = ["metrics", "release"]
        kept.append(coordinator)

    result = share(prepare)
    assert {site for _, _, site, _ in sites.rounds} == {"site-0", "site-2"}
    assert list(result.costs) == ["site-0", "site-2"]
    assert list(kept[0].members) == ["site-0", "site-1", "site-2"]


def test_a_node_that_is_gone_does_not_keep_the_others_waiting(share, sites):
    def prepare(grid, coordinator):
        original = sites.train

        def train(site, content):
            if content[wire.CONFIG]["server-round"] == 2 and site == "site-1":
                grid.gone.add(1001)
                return Error(SITE_ERROR, "DivergedError")
            return original(site, content)

        grid.answers[wire.TRAIN] = train

    result = share(prepare, min_sites=2)
    assert {(number, site) for _, number, site, _ in sites.rounds if number > 2} == {
        (n, s) for n in (3, 4) for s in ("site-0", "site-2")
    }
    assert result.costs["site-1"]["seconds"] == 1.0


def test_a_federation_that_loses_every_sharing_site_says_so(share, sites):
    def prepare(grid, coordinator):
        for member in coordinator.members.values():
            member.card["allow"] = ["metrics"]

    with pytest.raises(StudyFailedError, match="'weights'"):
        share(prepare)


def test_fedprox_tells_the_sites_its_mu(share, sites, study):
    study.strategy.kind, study.strategy.compare = "fedprox", ["fedprox"]
    study.strategy.options = {"proximal_mu": 0.25}
    share()
    assert {config["proximal-mu"] for *_, config in sites.rounds} == {0.25}


@pytest.mark.parametrize(("kind", "flower"), [("fedavg", FedAvg), ("fedprox", FedProx), ("fedadam", FedAdam)])
def test_each_kind_is_flowers_own_strategy(kind, flower):
    assert type(make_strategy(kind, {}, 3)) is flower


def test_an_unknown_kind_and_an_unknown_option_are_named():
    with pytest.raises(UserError, match=r"strategy\.kind='fedavgg': unknown strategy; did you mean 'fedavg'"):
        make_strategy("fedavgg", {}, 3)
    with pytest.raises(UserError, match=r"strategy\.options=\{'mu': 1\}.*mu"):
        make_strategy("fedprox", {"mu": 1}, 3)


def test_a_kind_from_elsewhere_that_is_not_there_is_one_line():
    with pytest.raises(UserError, match=r"strategy\.kind='no\.such\.module'"):
        make_strategy("no.such.module", {}, 3)


def test_a_candidate_that_diverges_is_given_up_and_its_sites_are_not(share, sites, study):
    study.strategy.lrs = [0.1, 9.0]
    sites.scores = {("lr9-e1", r): 0.9 for r in range(5)}
    sites.diverging = {("lr9-e1", 2)}
    result = share()
    assert {row["lr"] for row in result.search if row["round"] > 1} == {0.1}
    assert set(result.costs) == {"site-0", "site-1", "site-2"}


def test_a_run_whose_every_candidate_diverges_says_which_option_to_lower(share, sites):
    sites.diverging = {("lr0.1-e1", 1)}
    with pytest.raises(StudyFailedError, match=r"lower strategy.lrs"):
        share()


def test_the_sites_weights_of_the_chosen_round_are_kept_for_the_audit_and_no_others(share, sites, study, tmp_path):
    study.audit.enabled, study.audit.targets = True, ["update"]
    sites.scores["final"] = 0.9
    result = share()
    assert list(result.updates) == ["site-0", "site-1", "site-2"]
    for update in result.updates.values():
        assert update.tensors.keys() == {name.removeprefix("model.") for name in result.weights.tensors}
    shares = [10 / 60, 20 / 60, 30 / 60]
    mean = sum(s * u.tensors["head.bias"] for s, u in zip(shares, result.updates.values(), strict=True))
    assert torch.allclose(mean, result.weights.tensors["model.head.bias"].float(), atol=1e-6)
    assert len(list(tmp_path.glob("server/stages/*.sites"))) == 1
    again = share()
    assert {site: equal(update, again.updates[site]) for site, update in result.updates.items()} == dict.fromkeys(
        result.updates, True
    )


def test_no_sites_weights_are_kept_where_no_audit_asks_for_them(share, sites, tmp_path):
    assert share().updates == {}
    assert not list(tmp_path.glob("server/stages/*.sites"))
