"""The coordinator's exchanges: who is lost, who is asked again, and what is in memory meanwhile."""

import errno
import os
import time
from pathlib import Path

import pytest
from flwr.app import Error, Message
from flwr.clientapp import ClientApp

import fedkr
from fedkr import wire
from fedkr.errors import StudyFailedError, UserError
from fedkr.stages import Artifact, StageStore, read_artifact
from server import coordinator as coordinator_module
from server.coordinator import SITE_ERROR, Coordinator, Member, site_order
from simulations.backends.inline import FIRST_NODE, InlineGrid

UNDELIVERED = "the superlink lost it"


def figures(site, content):
    return wire.metrics_reply({"seconds": 1.0, "test/accuracy": float(site[-1])})


def but(site, answer):
    """Return answers in which one site says something else."""
    return {wire.LOCAL: lambda name, content: answer if name == site else figures(name, content)}


def accuracies(answers):
    return {site: info["metrics"]["test/accuracy"] for site, info in answers.items()}


def test_sites_are_ordered_by_their_numbers_not_by_their_letters():
    assert sorted(["site-10", "site-2", "site-1"], key=site_order) == ["site-1", "site-2", "site-10"]


def test_every_answer_is_kept_with_its_bytes_in_the_sites_order(federation, ask_all):
    _, coordinator = federation({wire.LOCAL: figures}, sites=11)
    answers = ask_all(coordinator)
    assert list(answers) == [f"site-{i}" for i in range(11)]
    assert all(info["bytes_up"] > 0 and info["bytes_down"] > len(coordinator.study_json) for info in answers.values())


def test_a_site_whose_images_changed_is_asked_again_and_the_others_are_not(federation, ask_all):
    grid, coordinator = federation({wire.LOCAL: figures})
    ask_all(coordinator)
    coordinator.members["site-1"].card["data"] = "0123456789abcdef" * 4
    grid.asked.clear()
    ask_all(coordinator)
    assert grid.asked == [(wire.LOCAL, "site-1")]


def test_a_silent_site_is_lost_at_its_deadline_and_the_others_go_on(federation, ask_all):
    _, coordinator = federation(but("site-1", None), deadline=0.05, min_sites=2)
    assert accuracies(ask_all(coordinator)) == {"site-0": 0.0, "site-2": 2.0}
    assert coordinator.missing == {"site-1": "no answer within federation.deadline=0.05 s"}
    assert list(coordinator.members) == ["site-0", "site-2"]


def test_a_silent_site_stops_a_study_that_needs_every_site(federation, ask_all):
    _, coordinator = federation(but("site-1", None), deadline=0.05)
    with pytest.raises(StudyFailedError, match=r"2 of 3 sites are left, 3 are needed .*site-1: no answer within"):
        ask_all(coordinator)


def test_the_answers_of_a_study_that_stops_are_kept_for_the_next_run(federation, ask_all):
    _, coordinator = federation(but("site-1", None), deadline=0.05)
    with pytest.raises(StudyFailedError):
        ask_all(coordinator)
    grid, coordinator = federation({wire.LOCAL: figures})
    assert accuracies(ask_all(coordinator)) == {"site-0": 0.0, "site-1": 1.0, "site-2": 2.0}
    assert grid.asked == [(wire.LOCAL, "site-1")]


def test_a_lost_site_is_not_asked_again(federation, ask_all):
    grid, coordinator = federation(but("site-1", Error(SITE_ERROR, "UserError")), min_sites=1)
    ask_all(coordinator)
    grid.asked.clear()
    ask_all(coordinator, "another")
    assert [site for _, site in grid.asked] == ["site-0", "site-2"]


def test_each_sites_time_to_live_starts_when_its_message_is_sent(study, ask_all, tmp_path, monkeypatch):
    app = ClientApp()

    @app.train("local")
    def train(message, context):
        time.sleep(0.2)
        return Message(figures(f"site-{context.node_config['partition-id']}", message.content), reply_to=message)

    monkeypatch.setattr(coordinator_module, "SPARE_SECONDS", 0.0)
    study.federation.deadline = 0.5
    coordinator = Coordinator(InlineGrid(app, 3, {}), study, StageStore(tmp_path))
    coordinator.members = {f"site-{i}": Member(f"site-{i}", FIRST_NODE + i, {}) for i in range(3)}
    assert accuracies(ask_all(coordinator)) == {"site-0": 0.0, "site-1": 1.0, "site-2": 2.0}


@pytest.mark.parametrize(("after", "late", "looks"), [(0.3, 0.06, 7), (3.0, 0.5, 25), (60.0, 0.5, 140)])
def test_an_answer_is_seen_soon_after_it_comes_and_a_long_wait_asks_twice_a_second(after, late, looks, monkeypatch):
    monkeypatch.setattr(coordinator_module, "POLL_SECONDS", 0.5)
    waited, looked = 0.0, 1
    while waited < after:
        waited += coordinator_module.until_next_look(waited)
        looked += 1
    assert waited - after <= late and looked <= looks


def test_an_error_reply_loses_the_site_with_its_reason(federation, ask_all):
    _, coordinator = federation(but("site-2", Error(SITE_ERROR, "PolicyError")), min_sites=2)
    assert list(ask_all(coordinator)) == ["site-0", "site-1"]
    assert coordinator.missing == {"site-2": "refused or failed (error 500); its own log says why"}


def test_an_error_that_flower_sends_in_a_sites_place_is_matched_by_what_it_replies_to(federation, ask_all):
    _, coordinator = federation(but("site-2", UNDELIVERED), min_sites=2)
    assert list(ask_all(coordinator)) == ["site-0", "site-1"]
    assert list(coordinator.missing) == ["site-2"]


def test_a_site_whose_process_died_under_a_driver_of_ray_asks_for_a_new_run(federation, ask_all):
    _, coordinator = federation(but("site-2", UNDELIVERED), min_sites=2, restartable=True)
    with pytest.raises(StudyFailedError, match="site-2: its process failed") as caught:
        ask_all(coordinator)
    assert caught.value.restart


@pytest.mark.parametrize("answer", [Error(SITE_ERROR, "UserError"), UNDELIVERED, None])
def test_a_site_without_an_answer_that_the_study_can_do_without_stays_in_it(federation, answer):
    _, coordinator = federation(but("site-2", answer), deadline=0.2)
    content, lost = wire.request_content(coordinator.study_json), {}
    contents = dict.fromkeys(coordinator.members, content)
    pending = coordinator.send(coordinator.compose("s", wire.LOCAL, contents, lost=lost))
    assert list(coordinator.collect_metrics(pending, lambda site, metrics: None)) == ["site-0", "site-1"]
    assert list(lost) == ["site-2"]
    assert coordinator.missing == {} and list(coordinator.members) == ["site-0", "site-1", "site-2"]


def test_a_node_that_is_gone_when_it_is_asked_loses_its_site_only(federation, ask_all):
    grid, coordinator = federation({wire.LOCAL: figures}, min_sites=2)
    grid.gone.add(1001)
    assert list(ask_all(coordinator)) == ["site-0", "site-2"]
    assert "its node is gone" in coordinator.missing["site-1"]


def test_an_answer_that_is_not_accepted_loses_its_site_and_is_not_kept(federation):
    def accept(site, content):
        if site == "site-0":
            raise UserError("holds no images")
        return Artifact({}, {"metrics": wire.read_metrics(content)})

    _, coordinator = federation({wire.LOCAL: figures}, min_sites=2)
    content = wire.request_content(coordinator.study_json)
    pending = coordinator.send(coordinator.compose("s", wire.LOCAL, dict.fromkeys(coordinator.members, content)))
    assert list(coordinator.keep(pending, accept)) == ["site-1", "site-2"]
    assert not pending.paths["site-0"].exists()
    assert coordinator.missing == {"site-0": "holds no images"}


def test_the_server_holds_the_answer_in_hand_and_the_next_but_no_more(federation, ask_all):
    grid, coordinator = federation({wire.LOCAL: figures}, sites=8)
    assert len(ask_all(coordinator)) == 8
    assert grid.most_alive <= 2


def test_each_answer_is_on_disk_before_the_next_is_taken(federation):
    _, coordinator = federation({wire.LOCAL: figures})
    seen = []

    def accept(site, content):
        seen.append(sum(path.exists() for path in pending.paths.values()))
        return Artifact({}, {"site": site})

    content = wire.request_content(coordinator.study_json)
    pending = coordinator.send(coordinator.compose("s", wire.LOCAL, dict.fromkeys(coordinator.members, content)))
    files = coordinator.keep(pending, accept)
    assert seen == [0, 1, 2]
    assert [read_artifact(path).info["site"] for path in files.values()] == ["site-0", "site-1", "site-2"]


def test_a_full_disk_stops_the_study_and_does_not_blame_the_site(federation, ask_all, monkeypatch):
    _, coordinator = federation({wire.LOCAL: figures})

    def full(self, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(UserError, match="No space left on device"):
        ask_all(coordinator)
    assert coordinator.missing == {}


def test_too_few_sites_at_the_start_are_counted_in_the_error(federation):
    grid, coordinator = federation(gather=False)
    grid.gone.update({1000, 1001})
    with pytest.raises(StudyFailedError, match=r"1 of 3 sites appeared within federation.register_deadline=0.1 s"):
        coordinator.gather_members()


def test_a_study_that_goes_on_without_a_site_that_never_appeared_says_so(federation):
    grid, coordinator = federation(gather=False, min_sites=2)
    grid.gone.add(1002)
    coordinator.gather_members()
    assert list(coordinator.members) == ["site-0", "site-1"]
    assert coordinator.missing == {"1 of 3 sites": "did not appear in time"}


def describe(**changed):
    """Return how the sites answer with cards, of which those of the named sites (site_1) differ."""

    def answer(site, content):
        reply = wire.metrics_reply({})
        card = {"site": site, "classes": ["healthy", "ill", "rare"], "size": 8, "channels": 1, "allow": ["metrics"]}
        card |= {"version": fedkr.__version__} | changed.get(site.replace("-", "_"), {})
        reply[wire.CARD] = wire.document({name: value for name, value in card.items() if value is not None})
        return reply

    return {wire.DESCRIBE: answer}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"version": "0.0.0"}, "site-1 runs fedkr 0.0.0"),
        ({"classes": ["ill", "healthy", "rare"]}, "it has classes="),
        ({"size": 28}, "it has size=28, site-0 has 8"),
        ({"site": "../site-0"}, "must not begin with a dot or hold a slash"),
        ({"site": "ward/7"}, "must not begin with a dot or hold a slash"),
        ({"site": "site\x1b[31m"}, "a character that cannot be printed"),
        ({"site": "cafe\u0301"}, "NFC form"),
        ({"site": "All Sites"}, "what rows over all sites are called"),
        ({"site": "s" * 65}, "1 to 64 characters"),
        ({"site": 7}, "card: field "),
        ({"classes": 3}, "card: field "),
        ({"classes": ["a"] * 1001}, "card: field "),
        ({"counts": {"train": [-1]}}, "card: field "),
        # The report holds one count a class, and would be refused for all sites.
        ({"counts": {"train": [1, 2]}}, "card: 2 counts of train for 3 classes"),
        ({"classes": ["ill", "ill", "rare"]}, "card: two classes have one name"),
        ({"classes": []}, "card: field "),
        ({"size": 2**50}, "card: field "),
        ({"channels": 2}, "card: field "),
        ({"version": "0\n\x1b[2J"}, "a character that cannot be printed"),
        ({"allow": None}, "lacks 'allow'"),
    ],
)
def test_a_site_with_a_card_that_does_not_fit_is_lost_and_the_others_go_on(federation, values, named):
    grid, coordinator = federation(describe(site_1=values), gather=False, min_sites=2)
    coordinator.gather_members()
    assert list(coordinator.members) == ["site-0", "site-2"]
    ((_, why),) = coordinator.missing.items()
    assert named in why
    assert {kind for kind, _ in grid.asked} == {wire.DESCRIBE}


def test_of_two_nodes_with_one_name_neither_takes_part(federation):
    _, coordinator = federation(describe(site_1={"site": "site-0"}), gather=False, min_sites=1)
    coordinator.gather_members()
    assert list(coordinator.members) == ["site-2"]
    assert all("it calls itself 'site-0', as another node does" in why for why in coordinator.missing.values())


def test_a_study_that_needs_every_site_stops_before_any_work_when_one_does_not_fit(federation):
    _, coordinator = federation(describe(site_1={"size": 28}), gather=False)
    with pytest.raises(StudyFailedError, match=r"2 of 3 sites are left, 3 are needed .*site-1: it has size=28"):
        coordinator.gather_members()


def test_names_are_the_operators_and_a_node_that_is_not_registered_takes_no_part(federation):
    registered = {1000: "site-0", 1001: "other"}
    _, coordinator = federation(describe(), sites=2, gather=False, min_sites=1, registered=registered)
    coordinator.gather_members()
    assert {name: member.node for name, member in coordinator.members.items()} == {"site-0": 1000}
    assert coordinator.missing == {"other": "it calls itself 'site-1': set `name: other` in its site file"}


def test_nobody_takes_the_name_of_a_registered_site(federation):
    registered = {1000: "site-0", 1001: "site-1"}
    grid, coordinator = federation(
        describe(site_1={"site": "site-0"}), gather=False, min_sites=1, registered=registered
    )
    coordinator.gather_members()
    assert {name: member.node for name, member in coordinator.members.items()} == {"site-0": 1000}
    assert "set `name: site-1`" in coordinator.missing["site-1"]
    assert len(grid.asked) == 2


def test_only_sites_whose_policy_allows_a_kind_are_named_for_it(federation):
    _, coordinator = federation()
    coordinator.members["site-1"].card["allow"] = ["metrics"]
    assert coordinator.allowing("release") == ["site-0", "site-2"]
    assert coordinator.allowing("metrics") == ["site-0", "site-1", "site-2"]


def test_answers_on_another_model_are_asked_for_again(federation):
    grid, coordinator = federation({wire.LOCAL: figures})
    content = wire.request_content(coordinator.study_json)
    for about in ("one", "one", "other"):
        pending = coordinator.compose("evaluate", wire.LOCAL, dict.fromkeys(coordinator.members, content), about)
        coordinator.collect_metrics(coordinator.send(pending), lambda site, metrics: None)
    assert len(grid.asked) == 2 * len(coordinator.members)


def test_metrics_that_cannot_be_read_lose_their_site_instead_of_becoming_a_stage(federation):
    _, coordinator = federation({wire.LOCAL: figures}, min_sites=1)
    content = wire.request_content(coordinator.study_json)
    pending = coordinator.compose("evaluate", wire.LOCAL, dict.fromkeys(coordinator.members, content))

    def check(site, metrics):
        if site == "site-1":
            wire.read_utility({"test/auc": 0.5}, "test")

    assert "site-1" not in coordinator.collect_metrics(coordinator.send(pending), check)
    assert "test/accuracy" in coordinator.missing["site-1"]
    assert not pending.paths["site-1"].exists()
