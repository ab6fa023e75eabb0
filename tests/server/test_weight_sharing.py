"""Weight sharing: every round is a stage, the search and the round are chosen on val, sites may come and go."""

import re
from collections import defaultdict

import numpy as np
import pytest
import torch
from flwr.app import Array, Error, MetricRecord
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian, FedProx, FedYogi

from fedkr import wire
from fedkr.audit.rounds import spaced, unpacked
from fedkr.config import Study
from fedkr.data.images import Shape
from fedkr.errors import StudyFailedError, UserError
from fedkr.learning.job import Job
from fedkr.learning.models import build_classifier, norm_of
from fedkr.learning.runtime import Runtime
from fedkr.seeds import torch_rng
from fedkr.stages import read_artifact
from server import weight_sharing
from server.contestant import Federation, check_contestants, make_contestants
from server.coordinator import SITE_ERROR
from server.strategies import fedadam, fedavg, fedmedian, fedprox, fedyogi
from server.weight_sharing import outsized

COUNTER = "num_batches_tracked"


class Killed(BaseException):
    """Stands for a process that is gone."""


class Sites:
    """Sites that add noise of their own to the weights, and score models as a table says.

    Attributes:
        scores: val accuracy of the model after ``round`` rounds of a candidate.
        killed_in: the round, of any candidate or of one, or the look in which the server dies.
        rounds: what was asked: (candidate, round, site, config).
        aucs: val AUC of the models of a candidate.
        looks: at what val was asked: (candidate, round, site).
        val_images: how many val images a site has, by site.
    """

    def __init__(self):
        self.scores, self.killed_in, self.rounds, self.refusing, self.diverging = {}, None, [], set(), set()
        self.aucs, self.looks = {}, []
        self.val_images = defaultdict(lambda: 20)

    def answers(self):
        return {wire.TRAIN: self.train, wire.EVALUATE: self.evaluate}

    def train(self, site, content):
        config = dict(content[wire.CONFIG])
        candidate, number = config["candidate"], config["server-round"]
        if self.killed_in in (number, (candidate, number)):
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
        images = self.val_images[site]
        figures |= {"val-correct": score * images, "val-loss": float(images), "val-count": images}
        figures["diverged"] = int((candidate, number) in self.diverging)
        reply = wire.metrics_reply(figures)
        reply[wire.ARRAYS] = wire.weights_record(weights)
        return reply

    def evaluate(self, site, content):
        assert content[wire.CONFIG]["split"] == "val"
        # What is looked at is what was trained last.
        candidate, number, *_ = self.rounds[-1]
        if self.killed_in == ("look", candidate, number):
            raise Killed
        score = self.scores.get((candidate, number), self.scores.get("final", 0.5) if number == 4 else 0.5)
        figures = {"accuracy": score, "balanced_accuracy": score, "loss": 1.0, "count": 20}
        figures |= {"auc": self.aucs[candidate]} if candidate in self.aucs else {}
        self.looks.append((candidate, number, site))
        return wire.metrics_reply({f"val/{name}": value for name, value in figures.items()} | {"seconds": 0.0})


@pytest.fixture
def sites():
    return Sites()


@pytest.fixture
def share(federation, study, sites, monkeypatch):
    """Return a function that runs weight sharing from what earlier runs left on disk; the few val images choose."""
    monkeypatch.setattr("fedkr.config.protocol.LEAST_TO_CHOOSE", 1)
    study.strategy.lrs, study.strategy.local_epochs, study.strategy.norms = [0.1], [1], ["batch"]
    study.strategy.rounds, study.strategy.search_rounds = 4, 2
    study.strategy.compare = ["fedavg"]

    def run(prepare=lambda grid, coordinator: None, **settings):
        grid, coordinator = federation(sites.answers(), **settings)
        prepare(grid, coordinator)
        (contestant,) = contestants_of(coordinator)
        return contestant.start()()

    return run


def contestants_of(coordinator):
    return make_contestants(Federation(coordinator, Job(Runtime.choose("cpu", "float32", 1))))


def weights_of(result):
    return result.model.model.tensors


def rounds_in(result):
    """Return how many rounds the weights saw: the fake sites count them in a buffer."""
    return round(float(next(t for name, t in weights_of(result).items() if name.endswith(COUNTER))))


def equal(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("fedavg", {}),
        ("fedprox", {"proximal_mu": 0.1}),
        ("fedadam", {"eta": 0.01, "beta_1": 0.9, "beta_2": 0.99}),
        ("fedyogi", {"eta": 0.01}),
        ("fedmedian", {}),
    ],
)
def test_a_run_that_was_killed_ends_with_the_weights_of_one_that_was_not(share, sites, study, tmp_path, kind, options):
    study.strategy.compare, study.strategy.options = [kind], {kind: options}
    sites.scores["final"] = 0.9
    whole = share()
    (tmp_path / "server").rename(tmp_path / "uninterrupted")
    sites.rounds.clear()
    sites.killed_in = 3
    with pytest.raises(Killed):
        share()
    sites.killed_in = None
    resumed = share()
    assert equal(weights_of(whole), weights_of(resumed))
    assert [number for _, number, site, _ in sites.rounds if site == "site-0"] == [1, 2, 3, 4]
    assert (whole.search, whole.costs) == (resumed.search, resumed.costs)
    rounds = [read_artifact(path).tensors for path in (tmp_path / "server" / "stages").glob(f"{kind}-*-r*")]
    assert len(rounds) == 4
    moments = kind in ("fedadam", "fedyogi")
    assert all(any(name.startswith("v_t.") for name in tensors) == moments for tensors in rounds)


@pytest.mark.parametrize("killed_in", [("lr0.2-e1", 1), ("look", "lr0.1-e1", 2), ("look", "lr0.2-e1", 2)])
def test_a_search_that_was_killed_goes_on_where_it_was(share, sites, study, tmp_path, killed_in):
    study.strategy.lrs = [0.1, 0.2]
    sites.scores = {("lr0.2-e1", 2): 0.9}
    whole, looks = share(), list(sites.looks)
    (tmp_path / "server").rename(tmp_path / "uninterrupted")
    sites.rounds.clear()
    sites.looks.clear()
    sites.killed_in = killed_in
    with pytest.raises(Killed):
        share()
    sites.killed_in = None
    resumed = share()
    assert equal(weights_of(whole), weights_of(resumed))
    assert (whole.search, whole.costs, whole.tuning) == (resumed.search, resumed.costs, resumed.tuning)
    # Nothing was trained or looked at a second time.
    assert len({each[:3] for each in sites.rounds}) == len(sites.rounds)
    assert sites.looks == looks


def test_training_ends_after_as_many_looks_without_a_better_one_as_a_teachers(share, sites, study):
    study.teacher.patience, study.strategy.rounds = 2, 8
    sites.scores = {("lr0.1-e1", 2): 0.9}
    result = share()
    assert (result.tuning["round"], result.tuning["rounds"]) == (2, 8)
    assert max(number for _, number, *_ in sites.rounds) == 4


def test_of_equal_rounds_the_later_is_kept(share, sites):
    sites.scores = {("lr0.1-e1", n): 0.9 for n in (2, 3)}
    assert share().tuning["round"] == 3


@pytest.mark.parametrize(("lrs", "by_val"), [([0.1], False), ([0.1, 0.2], True)])
def test_val_chose_only_where_there_was_a_choice(share, study, lrs, by_val):
    study.teacher.keep_by, study.strategy.lrs = "last", lrs
    assert share().tuning["by_val"] is by_val


def test_a_round_weighs_each_site_by_its_images(federation, sites, study):
    study.strategy.lrs, study.strategy.local_epochs, study.strategy.rounds = [0.1], [1], 1
    study.strategy.compare = ["fedavg"]
    start = {}

    def train(site, content):
        start.update(wire.read_weights(content[wire.ARRAYS]))
        return sites.train(site, content)

    _, coordinator = federation(sites.answers() | {wire.TRAIN: train})
    (sharing,) = contestants_of(coordinator)
    mean = weights_of(sharing.start()())["head.weight"]

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
    sites.scores = {("lr0.2-e1", 2): 0.9}
    result = share()
    asked = {(candidate, number) for candidate, number, _, _ in sites.rounds}
    assert asked == {("lr0.1-e1", 1), ("lr0.1-e1", 2), *(("lr0.2-e1", n) for n in (1, 2, 3, 4))}
    assert {site: cost["seconds"] for site, cost in result.costs.items()} == dict.fromkeys(
        ("site-0", "site-1", "site-2"), 6.0
    )


def test_too_few_val_images_choose_neither_setting_nor_round_and_are_not_asked(share, sites, study, monkeypatch):
    monkeypatch.setattr("fedkr.config.protocol.LEAST_TO_CHOOSE", 61)
    study.strategy.lrs, study.strategy.norms = [0.1, 0.2], ["batch", "group"]
    sites.scores = {("lr0.1-e1", 2): 0.9, ("lr0.2-e1", 2): 0.9}
    result = share()
    assert rounds_in(result) == 4 and sites.looks == []
    assert {candidate for candidate, *_ in sites.rounds} == {"lr0.1-e1"}
    found = {name: result.tuning[name] for name in ("by_val", "looks", "val_images", "round", "rounds", "capped")}
    assert found == {"by_val": False, "looks": 0, "val_images": 60, "round": 4, "rounds": 4, "capped": True}


def test_sites_too_small_for_any_val_figure_to_leave_still_share_weights_to_the_end_of_the_schedule(share, sites):
    sites.val_images = dict.fromkeys(["site-0", "site-1", "site-2"], 0)
    result = share()
    assert rounds_in(result) == 4 and sites.looks == []
    assert (result.tuning["by_val"], result.tuning["val_images"]) == (False, 0)
    assert [point["val_accuracy"] for point in result.search] == [None] * 4


def test_a_round_has_the_val_figures_of_the_sites_that_let_theirs_leave(share, sites):
    sites.val_images["site-1"], sites.scores = 0, {("lr0.1-e1", 1): 0.75}
    result = share()
    assert (result.tuning["by_val"], result.tuning["val_images"]) == (True, 40)
    assert result.search[1]["val_accuracy"] == 0.75


def test_a_schedule_that_the_steps_end_is_not_capped(share, study):
    study.strategy.steps = 10
    assert not share().tuning["capped"]


def test_settings_are_chosen_by_the_studys_metric(share, sites, study):
    study.strategy.lrs, study.recycle.metric = [0.1, 0.2], "auc"
    sites.scores, sites.aucs = {("lr0.1-e1", 2): 0.9}, {"lr0.1-e1": 0.6, "lr0.2-e1": 0.7}
    assert share().tuning["lr"] == 0.2


def test_the_norm_is_searched_and_the_model_has_the_chosen_one(share, sites, study):
    study.strategy.norms = ["batch", "group"]
    sites.scores = {("lr0.1-e1-group", 2): 0.9, ("lr0.1-e1-group", 4): 0.9}
    result = share()
    assert result.tuning["norm"] == "group" == norm_of(weights_of(result))


def test_what_was_chosen_is_told_with_looks_steps_and_the_bytes_of_the_chosen_rounds_alone(share, sites, study):
    study.strategy.lrs = [0.1, 0.2]
    sites.scores = {("lr0.2-e1", 2): 0.9, ("lr0.2-e1", 3): 0.95}
    result = share()
    told = {name: result.tuning[name] for name in ("lr", "local_epochs", "norm", "round", "rounds", "looks")}
    assert told == {"lr": 0.2, "local_epochs": 1, "norm": "batch", "round": 3, "rounds": 4, "looks": 2}
    # Of 10, 20 and 30 images in batches of 4: 2 rounds of the one setting, 4 of the other.
    assert result.tuning["steps"] == round(6 * (3 + 5 + 8) / 3) < result.tuning["allotted"]
    up = sum(cost["bytes_up"] for cost in result.costs.values())
    assert 0.45 * up < result.tuning["bytes_up_without_search"] < 0.55 * up


def test_a_first_setting_that_diverges_leaves_the_others_their_chance(share, sites, study):
    study.strategy.lrs = [9.0, 0.1]
    sites.diverging = {("lr9.0-e1", 1)}
    assert share().tuning["lr"] == 0.1


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
    # Its val images are asked about, and what that costs it counts.
    up = {site: cost["bytes_up"] for site, cost in result.costs.items()}
    assert 0 < up["site-1"] < min(up["site-0"], up["site-2"]) / 100
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
    study.strategy.compare, study.strategy.options = ["fedprox"], {"fedprox": {"proximal_mu": 0.25}}
    share()
    assert {config["proximal-mu"] for *_, config in sites.rounds} == {0.25}


def private(study, **options):
    own = {"clip": 0.5, "batch": 64, "rounds": 3, "search_rounds": 0, "lrs": [0.4], "local_epochs": [1]}
    study.strategy.compare = ["dp-fedavg"]
    study.strategy.options = {"dp-fedavg": {"kind": "dp_fedavg", **own, "norms": ["group"], **options}}


def test_dp_fedavg_runs_one_setting_to_its_last_round_and_asks_nothing_of_val(share, sites, study):
    private(study)
    # By val, the first round would have been kept.
    sites.scores = {("lr0.4-e1-group", 1): 0.99}
    result = share()
    assert [number for _, number, site, _ in sites.rounds if site == "site-0"] == [1, 2, 3]
    assert {name for name, *_ in sites.rounds} == {"lr0.4-e1-group"} and not sites.looks
    assert {config["contestant"] for *_, config in sites.rounds} == {"dp-fedavg"}
    assert (result.tuning["round"], result.tuning["by_val"]) == (3, False)
    assert (result.tuning["epsilon"], result.tuning["delta"]) == (8.0, 1e-5)
    assert norm_of(weights_of(result)) == "group"
    assert "is (8, 1e-05)-differentially private for one image" in result.notes[-1]


def test_the_steps_of_dp_fedavg_are_those_of_its_own_batch(share, sites, study):
    private(study, batch=10)
    # Sites of 10, 20 and 30 images take one, two and three steps a round.
    images = [10 * (1 + number) for number in range(study.federation.sites)]
    assert share().tuning["steps"] == round(3 * sum(images) / 10 / len(images))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"norms": ["batch"]}, "norms=['batch']: a batch's norm makes one gradient of all its images"),
        ({"lrs": [0.1, 0.2]}, "each setting that is tried costs privacy"),
        ({"local_epochs": [1, 2]}, "each setting that is tried costs privacy"),
        ({"clip": 0.0}, "clip=0.0: from 0.001 to 1000"),
        ({"batch": 0}, "batch=0: must be at least 1"),
        ({"sigma": 1.0}, "dp-fedavg={'sigma': 1.0}"),
    ],
)
def test_dp_fedavg_refuses_what_its_guarantee_has_no_place_for(options, said):
    study = Study()
    private(study, **options)
    with pytest.raises(UserError, match=re.escape(said)):
        check_contestants(study)


@pytest.mark.parametrize(
    ("module", "flower"),
    [(fedavg, FedAvg), (fedprox, FedProx), (fedadam, FedAdam), (fedyogi, FedYogi), (fedmedian, FedMedian)],
)
def test_each_is_flowers_own_strategy(module, flower):
    assert type(module.Contestant.make("its name", {}, 3)) is flower


def comparing(name, **options):
    study = Study()
    study.strategy.compare, study.strategy.options = [name], {name: options}
    return study


def test_an_unknown_name_and_an_unknown_option_are_named():
    with pytest.raises(UserError, match=r"strategy\.compare: 'fedavgg': unknown strategy; did you mean 'fedavg'"):
        check_contestants(comparing("fedavgg"))
    with pytest.raises(UserError, match=r"strategy\.options\.fedprox=\{'mu': 1\}.*mu"):
        check_contestants(comparing("fedprox", mu=1))
    with pytest.raises(UserError, match=r"strategy\.options\.fedkr\.mu: no such option"):
        check_contestants(comparing("fedkr", mu=1))
    with pytest.raises(UserError, match=r"strategy\.options\.fedavg\.rounds=0: must be at least 1"):
        check_contestants(comparing("fedavg", rounds=0))


def test_a_module_from_elsewhere_that_is_not_there_or_holds_no_contestant_is_one_line():
    with pytest.raises(UserError, match=r"strategy\.options\.mine\.kind='no\.such\.module'"):
        check_contestants(comparing("mine", kind="no.such.module"))
    with pytest.raises(UserError, match=r"strategy\.options\.mine\.kind='fedkr\.errors'.*no class Contestant"):
        check_contestants(comparing("mine", kind="fedkr.errors"))


def test_one_strategy_under_two_names_is_two_contestants_each_with_its_own_search(federation, study, sites):
    study.strategy.rounds, study.strategy.search_rounds = 2, 2
    study.strategy.lrs, study.strategy.local_epochs = [0.1], [1]
    study.strategy.compare = ["fedprox", "strong"]
    study.strategy.options = {"strong": {"kind": "fedprox", "proximal_mu": 9.0, "lrs": [0.5], "rounds": 1}}
    _, coordinator = federation(sites.answers())
    results = [contestant.start()() for contestant in contestants_of(coordinator)]
    assert [result.model.name for result in results] == ["fedprox", "strong"]
    asked = {(candidate, number, config["proximal-mu"]) for candidate, number, _, config in sites.rounds}
    assert asked == {("lr0.1-e1", 1, 0.0), ("lr0.1-e1", 2, 0.0), ("lr0.5-e1", 1, 9.0)}


def test_a_candidate_that_diverges_is_given_up_and_its_sites_are_not(share, sites, study):
    study.strategy.lrs = [0.1, 9.0]
    sites.scores = {("lr9.0-e1", r): 0.9 for r in range(5)}
    sites.diverging = {("lr9.0-e1", 2)}
    result = share()
    assert {row["lr"] for row in result.search if row["round"] > 1} == {0.1}
    assert set(result.costs) == {"site-0", "site-1", "site-2"}


def test_a_run_whose_every_candidate_diverges_says_which_option_to_lower(share, sites):
    sites.diverging = {("lr0.1-e1", 1)}
    with pytest.raises(StudyFailedError, match=r"lower strategy.lrs"):
        share()


def updates_of(result):
    return {site: model.tensors for target in result.leaves for site, model in target.by_site.items()}


def test_the_sites_weights_of_the_chosen_round_are_kept_for_the_audit_and_no_others(share, sites, study, tmp_path):
    study.audit.enabled, study.audit.targets = True, ["update"]
    sites.scores["final"] = 0.9
    result = share()
    (left,) = result.leaves
    assert (left.name, left.kind, left.contestant) == ("fedavg-update", "update", "fedavg")
    assert list(updates_of(result)) == ["site-0", "site-1", "site-2"]
    for update in updates_of(result).values():
        assert update.keys() == weights_of(result).keys()
    shares = [10 / 60, 20 / 60, 30 / 60]
    mean = sum(s * u["head.bias"] for s, u in zip(shares, updates_of(result).values(), strict=True))
    assert torch.allclose(mean, weights_of(result)["head.bias"].float(), atol=1e-6)
    assert len(list(tmp_path.glob("server/stages/*.sites"))) == 1
    again = updates_of(share())
    assert {site: equal(update, again[site]) for site, update in updates_of(result).items()} == dict.fromkeys(
        updates_of(result), True
    )


def test_some_rounds_of_each_site_are_kept_together_with_what_it_was_sent(share, study, tmp_path, monkeypatch):
    monkeypatch.setattr("server.weight_sharing.spaced", lambda numbers: spaced(numbers, 2))
    study.audit.enabled, study.audit.targets = True, ["rounds"]
    read, updates = [], weight_sharing._updates
    monkeypatch.setattr("server.weight_sharing._updates", lambda of: read.append(of.number) or updates(of))
    (left,) = share().leaves
    assert read == [1, 4], "no other round's, and these once"
    assert (left.name, left.kind, list(left.by_site)) == ("fedavg-rounds", "rounds", ["site-0", "site-1", "site-2"])
    rounds = {site: unpacked(model.tensors) for site, model in left.by_site.items()}
    assert {len(seen) for seen in rounds.values()} == {2}
    # All were sent the same, the first time a model that nobody had trained, and sent back something else each.
    first = [seen[0] for seen in rounds.values()]
    untrained = build_classifier(study.student, Shape(1, 8, 3), study.seed, "server", "fedavg").state_dict()
    for seen in first:
        assert equal(seen.before, untrained) and not equal(seen.after, seen.before)
    assert not equal(first[0].after, first[1].after) and not equal(rounds["site-0"][1].before, untrained)
    # What is on disk does not grow with the rounds; another run reads it again.
    assert len(list(tmp_path.glob("server/stages/*.sites"))) <= 3
    again = share().leaves[0].by_site
    assert all(equal(model.tensors, again[site].tensors) for site, model in left.by_site.items())


def test_no_sites_weights_are_kept_where_no_audit_asks_for_them(share, sites, tmp_path):
    assert share().leaves == []
    assert not list(tmp_path.glob("server/stages/*.sites"))


def without(*names):
    def spoil(reply):
        for name in names:
            del reply[wire.METRICS][name]

    return spoil


def saying(**figures):
    return lambda reply: reply[wire.METRICS].update({name.replace("_", "-"): v for name, v in figures.items()})


def with_weights(change):
    def spoil(reply):
        reply[wire.ARRAYS] = wire.weights_record(change(wire.read_weights(reply[wire.ARRAYS])))

    return spoil


def with_garbage(reply):
    reply[wire.ARRAYS]["head.bias"] = Array("float32", (3,), "numpy.ndarray", b"no array")


def without_arrays(reply):
    del reply[wire.ARRAYS]


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (without("val-count"), "'val-count'"),
        (without("num-examples"), "'num-examples'"),
        (saying(val_count=-1), "'val-count'"),
        (saying(num_examples=0), "'num-examples'"),
        (saying(val_loss=float("nan")), "'val-loss'"),
        (saying(val_correct=21.0), "'val-correct'"),
        (saying(val_correct=[1.0, 2.0]), "'val-correct'"),
        (without_arrays, "is on one side only"),
        (with_garbage, "no array"),
        (with_weights(lambda w: {f"other.{name}": t for name, t in w.items()}), "is on one side only"),
        (with_weights(lambda w: w | {"head.bias": w["head.bias"][:2]}), "'head.bias' has shape [2]"),
        (with_weights(lambda w: w | {"head.bias": w["head.bias"] * float("nan")}), "NaN or infinity"),
    ],
)
def test_a_weight_reply_that_cannot_be_used_loses_its_site_and_the_round_goes_on(share, sites, spoil, named):
    kept = []

    def prepare(grid, coordinator):
        kept.append(coordinator)

        def train(site, content):
            reply = sites.train(site, content)
            if site == "site-1" and content[wire.CONFIG]["server-round"] == 2:
                spoil(reply)
            return reply

        grid.answers[wire.TRAIN] = train

    result = share(prepare, min_sites=2)
    assert named in kept[0].missing["site-1"]
    assert list(kept[0].members) == ["site-0", "site-2"]
    assert result.costs["site-1"]["seconds"] == 1.0 and result.costs["site-0"]["seconds"] == 4.0
    assert all(torch.isfinite(t.double()).all() for t in weights_of(result).values())


def test_a_metric_or_record_that_one_site_alone_sends_does_not_stop_the_round(share, sites):
    def prepare(grid, coordinator):
        def train(site, content):
            reply = sites.train(site, content)
            reply[wire.METRICS]["own"] = [1.0, 2.0] if site == "site-1" else 1.0
            if site == "site-2":
                reply["more"] = MetricRecord({"figure": 1.0})
            return reply

        grid.answers[wire.TRAIN] = train

    assert set(share(prepare).costs) == {"site-0", "site-1", "site-2"}


def test_losing_the_only_site_that_lets_metrics_leave_is_one_clear_line(share, sites):
    def prepare(grid, coordinator):
        for site in ("site-0", "site-1"):
            coordinator.members[site].card["allow"] = ["weights"]
        grid.answers[wire.EVALUATE] = lambda site, content: Error(SITE_ERROR, "OutOfMemoryError")

    with pytest.raises(StudyFailedError, match="fedavg: no site is left that lets metrics leave"):
        share(prepare, min_sites=2)


def test_the_updates_of_the_chosen_round_are_those_of_all_who_took_part_also_of_a_site_lost_since(share, sites, study):
    study.audit.enabled, study.audit.targets = True, ["update"]
    sites.scores = {("lr0.1-e1", 2): 0.9}

    def prepare(grid, coordinator):
        def train(site, content):
            if site == "site-1" and content[wire.CONFIG]["server-round"] == 3:
                return Error(SITE_ERROR, "DivergedError")
            return sites.train(site, content)

        grid.answers[wire.TRAIN] = train

    assert list(updates_of(share(prepare, min_sites=2))) == ["site-0", "site-1", "site-2"]


def test_what_the_sites_sent_is_let_go_as_soon_as_it_is_read(share):
    grids = []
    share(lambda grid, coordinator: grids.append(grid), sites=6)
    assert grids[0].most_alive <= 2


def figures_of_round(**changed):
    usual = {"num-examples": 50, "val-count": 10, "update": 1.0}
    return {f"site-{i}": usual | ({} if i else changed) for i in range(4)}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"num-examples": 10**6}, "its number of images, 1e+06, is over 1000 times the sites' median"),
        ({"val-count": 10**8}, "its number of val images"),
        ({"update": 1e5}, "its change of the weights"),
    ],
)
def test_an_answer_that_would_decide_a_round_alone_is_named(changed, reason):
    ((site, why),) = outsized(figures_of_round(**changed)).items()
    assert site == "site-0" and reason in why


def test_answers_of_unlike_size_are_no_outliers_and_of_two_nobody_knows_which_is_one():
    assert outsized(figures_of_round(**{"num-examples": 5000, "update": 100.0, "val-count": 900})) == {}
    pair = list(figures_of_round(**{"num-examples": 10**9}).items())[:2]
    assert outsized(dict(pair)) == {}
    assert outsized(figures_of_round() | {"site-0": {"num-examples": 50, "val-count": 10, "update": 0.0}}) == {}


def test_an_answer_far_above_the_others_counts_for_a_bounded_part_and_a_note_says_so(share, sites, study):
    study.strategy.rounds = 1
    honest = sites.train
    changes = {}

    def train(site, content):
        reply, sent = honest(site, content), wire.read_weights(content[wire.ARRAYS])
        if site == "site-2":
            near = wire.read_weights(reply[wire.ARRAYS])
            far = {n: sent[n] + 500 * (near[n] - sent[n]) for n in sent}
            reply[wire.ARRAYS] = wire.weights_record({n: t.to(sent[n].dtype) for n, t in far.items()})
            reply[wire.METRICS].update({"num-examples": 14_000, "val-count": 19_000, "val-correct": 19_000.0})
        changes[site] = float((wire.read_weights(reply[wire.ARRAYS])["head.weight"] - sent["head.weight"]).norm())
        changes["start"] = sent["head.weight"]
        return reply

    sites.train = train
    result = share(sites=3)
    assert set(result.costs) == {"site-0", "site-1", "site-2"}
    assert result.notes == ["fedavg: site-2's num-examples, val-count, update, cut to 20 times the sites' median"]
    moved = float((weights_of(result)["head.weight"] - changes["start"]).norm())
    assert moved < 0.2 * changes["site-2"]


def test_a_counter_of_batches_is_no_part_of_how_far_a_site_went(share, sites, study):
    honest = sites.train

    def train(site, content):
        reply = honest(site, content)
        if site == "site-2":
            near = wire.read_weights(reply[wire.ARRAYS])
            counted = {n: t + 10_000 if n.endswith(COUNTER) else t for n, t in near.items()}
            reply[wire.ARRAYS] = wire.weights_record(counted)
        return reply

    sites.train = train
    result = share(sites=3)
    assert len(sites.rounds) == 4 * 3 and list(result.notes) == []
    assert set(result.costs) == {"site-0", "site-1", "site-2"}


def test_a_note_says_that_val_images_of_a_scored_model_were_cut(share, sites):
    honest = sites.evaluate

    def evaluate(site, content):
        reply = honest(site, content)
        if site == "site-1":
            reply[wire.METRICS].update({"val/count": 10**6, "val/accuracy": 1.0})
        return reply

    sites.evaluate = evaluate
    result = share(sites=3)
    assert result.notes == ["fedavg: site-1's val-count of a scored model, cut to 20 times the sites' median"]
    assert result.search[-1]["val_accuracy"] == pytest.approx((20 + 0.5 * 2) / 22)


def test_answers_within_the_caps_are_left_as_they_are(share, sites):
    assert list(share().notes) == []
