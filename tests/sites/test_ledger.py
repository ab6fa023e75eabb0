"""The ledger: what left is counted on disk, by several processes at a time, and nothing resets it."""

import json
import os
from concurrent.futures import ProcessPoolExecutor

import pytest

from fedkr import wire
from fedkr.errors import UserError
from fedkr.privacy.accountant import epsilon_of, mu_of, together
from sites.accounting import Account
from sites.ledger import Budget, Entry, Ledger, epsilon_spent, images_released, ledger_rows, show_ledger
from sites.policy import PolicyError, PrivacyBudget
from sites.records import bind
from sites.secret import keyed, secret_of
from sites.workspace import read_site_file

ROOM = Budget(of_study=3, of_scope=4)


def about(model, study="s", **more):
    return Entry(study=study, scope="any", message="evaluate", model=model, split="test", **more)


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "records")


def test_an_answer_is_one_line_that_only_this_account_can_read(ledger):
    ledger.write(about("a"), ROOM)
    ledger.write(about("b"), ROOM)
    assert [json.loads(line)["model"] for line in ledger.path.read_text().splitlines()] == ["a", "b"]
    assert ledger.path.stat().st_mode & 0o777 == 0o600
    assert ledger.path.parent.stat().st_mode & 0o777 == 0o700
    assert Ledger(ledger.path.parent).entries() == [about("a"), about("b")]


def test_the_same_model_asked_again_costs_nothing_and_one_more_than_the_budget_is_refused(ledger):
    for model in ("a", "b", "c", "a", "b", "c"):
        ledger.write(about(model), ROOM)
    with pytest.raises(PolicyError, match=r"3 models left for this study, which can have 3"):
        ledger.begin(about("d"), ROOM)
    with pytest.raises(PolicyError):
        ledger.write(about("d"), ROOM)
    ledger.write(about("d", study="t"), ROOM)
    with pytest.raises(PolicyError, match="4 models left for studies like this one"):
        ledger.write(about("e", study="t"), ROOM)
    assert len(ledger.entries()) == 7


def test_an_answer_without_a_models_figures_needs_no_room(ledger):
    for _ in range(9):
        ledger.write(Entry("s", "any", "query.describe"), Budget(1, 1))
    assert len(ledger.entries()) == 9


def test_work_that_begins_has_its_place_in_the_budget_and_counts_as_failed_until_it_is_answered(ledger):
    ledger.begin(about("a"), Budget(1, 1))
    with pytest.raises(PolicyError, match="1 models left"):
        ledger.begin(about("b"), Budget(1, 1))
    assert [(entry.model, entry.failed) for entry in ledger.entries()] == [("a", True)], "its process may be dead"
    ledger.write(about("a"), Budget(1, 1))
    ledger.begin(about("a"), Budget(1, 1))
    assert ledger.entries() == [about("a")]
    assert len(ledger.path.read_text().splitlines()) == 2


def test_a_line_that_a_dying_process_tore_hides_no_other(ledger):
    ledger.write(about("a"), ROOM)
    with ledger.path.open("ab") as handle:
        handle.write(b'{"study": "s", "sco')
    ledger.write(about("b"), ROOM)
    assert ledger.entries() == [about("a"), about("b")]


@pytest.mark.parametrize(
    "line",
    [
        *(b"garbage", b"{}", b"[]", b""),
        b'{"study": "s", "scope": "any", "message": "evaluate", "modle": "a"}',
        b'{"study": "s", "scope": "any", "message": "release", "images": "9"}',
        b'{"study": "s", "scope": "", "message": "privacy", "mu": NaN, "mechanism": "m"}',
    ],
)
def test_a_whole_line_that_is_no_answer_lets_nothing_leave_since_its_answer_would_be_forgotten(ledger, line):
    ledger.write(about("a"), ROOM)
    with ledger.path.open("ab") as handle:
        handle.write(line + b"\n")
    for work in (ledger.entries, lambda: ledger.begin(about("b"), ROOM), lambda: ledger.write(about("b"), ROOM)):
        with pytest.raises(UserError, match=r"ledger.jsonl: line 2: is no answer's .* backup; .*take it out"):
            work()
    assert len(ledger.path.read_bytes().splitlines()) == 2


def test_a_ledger_that_is_gone_lets_nothing_leave(ledger):
    ledger.write(about("a"), ROOM)
    ledger.path.unlink()
    for work in (ledger.entries, lambda: ledger.begin(about("b"), ROOM)):
        with pytest.raises(UserError, match=r"ledger\.jsonl: is gone; nothing leaves"):
            work()
    assert not ledger.path.exists()


def test_a_secret_that_is_gone_is_not_drawn_anew_beside_answers_that_it_rounded(ledger):
    ledger.write(about("a"), ROOM)
    (ledger.path.parent / "secret").unlink()
    with pytest.raises(UserError, match=r"secret: is gone, and .*ledger\.jsonl tells of answers"):
        secret_of(ledger.path.parent)
    assert not (ledger.path.parent / "secret").exists()


@pytest.mark.parametrize("content", [b"", b"short", bytes(33)])
def test_a_secret_that_is_not_whole_is_no_key(tmp_path, content):
    assert len(secret_of(tmp_path)) == 32 and secret_of(tmp_path) == secret_of(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ledger.jsonl", "secret"]
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(UserError, match=f"secret: has {len(content)} bytes instead of 32; restore it"):
        keyed(tmp_path, b"any")


def test_a_last_line_that_lost_its_end_counts_as_others_do(ledger):
    room = Budget(9, 9, images=100)
    ledger.write(of_images("a", 60), room)
    ledger.path.write_bytes(ledger.path.read_bytes().rstrip(b"\n"))
    assert images_released(ledger.entries()) == 60
    with pytest.raises(PolicyError, match=r"more than policy\.max_images"):
        ledger.write(of_images("b", 60), room)
    ledger.write(of_images("c", 40), room)
    assert [entry.release for entry in ledger.entries()] == ["a", "c"]


def _write_many(records, process):
    left = 0
    for i in range(20):
        try:
            Ledger(records).write(about(f"{process}-{i}"), Budget(50, 50))
            left += 1
        except PolicyError:
            pass
    return left


def test_processes_that_write_at_once_lose_no_line_and_pass_no_budget(ledger):
    with ProcessPoolExecutor(4) as pool:
        left = sum(pool.map(_write_many, [ledger.path.parent] * 4, range(4)))
    assert left == len(ledger.entries()) == len(ledger.path.read_text().splitlines()) == 50


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everything")
def test_nothing_leaves_where_the_ledger_cannot_be_written(ledger):
    ledger.path.parent.mkdir(mode=0o500)
    with pytest.raises(UserError, match="nothing leaves without the ledger"):
        ledger.write(about("a"), ROOM)


def test_a_folder_in_the_ledgers_place_is_one_line(ledger):
    ledger.path.mkdir(parents=True)
    with pytest.raises(UserError, match=r"ledger\.jsonl: Is a directory"):
        ledger.write(about("a"), ROOM)


def test_a_release_that_was_asked_for_again_counts_once():
    first, second = (Entry("s", "any", "train.release", release=digest, images=40) for digest in "ab")
    assert images_released([first, first, second]) == 80


def test_a_table_has_a_row_for_each_study_and_one_of_all():
    release = Entry("t" * 64, "any", "train.release", model="r", split="val", release="d", images=40)
    audit = Entry("s", "any", "evaluate.audit", model="a", split="members", guesses=10)
    noise = Entry("s", "", "privacy", epsilon=2.0, mu=mu_of(2.0, 1e-5), mechanism="m")
    one, two, total = ledger_rows([about("a"), about("a"), about("b", failed=True), audit, audit, release, noise])
    assert (one["study"], one["answers"], one["models"], one["on test"], one["on members"]) == ("s", 5, 2, 3, 2)
    assert (one["guesses"], one["epsilon"], one["images"], one["failed"]) == (10, 2.0, 0, 1)
    assert (two["study"], two["images"], two["on val"], two["epsilon"]) == ("t" * 12, 40, 1, None)
    assert (total["study"], total["answers"], total["models"], total["images"]) == ("all", 6, 3, 40)


def test_the_command_prints_what_left_by_study_and_in_all(hospital, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    path = hospital()
    show_ledger(path)
    assert "all" in capsys.readouterr().out, "a site that answered nothing yet"
    Ledger(tmp_path / "site-records").write(about("a", study="s" * 64), ROOM)
    show_ledger(path)
    shown = capsys.readouterr().out
    assert (
        "s" * 12 in shown and "s" * 13 not in shown and "failed" in shown and str(tmp_path) in shown.replace("\n", "")
    )


def test_no_figure_of_the_ledger_is_cut_short_in_a_narrow_terminal(hospital, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    path, study = hospital(), "s" * 64
    Ledger(tmp_path / "site-records").write(of_images("a", 123_456, study), Budget(9, 9))
    show_ledger(path)
    shown = capsys.readouterr().out
    assert "123456" in shown and "s" * 12 in shown and "guesses" in shown and "…" not in shown


def of_images(release, images, study="s"):
    return Entry(study, "any", "train.release", release=release, images=images)


def test_the_images_of_all_studies_are_counted_together_and_a_release_asked_for_again_counts_once(tmp_path):
    ledger, room = Ledger(tmp_path / "records"), Budget(9, 9, images=100)
    ledger.write(of_images("a", 60), room)
    ledger.write(of_images("a", 60), room)
    with pytest.raises(PolicyError, match=r"50 images, with those that left before 110: more than policy\.max_images"):
        ledger.write(of_images("b", 50, study="another"), room)
    ledger.write(of_images("c", 40, study="another"), room)
    assert images_released(ledger.entries()) == 100


def test_a_workspace_is_held_to_the_records_that_it_was_first_used_with(tmp_path):
    work = tmp_path / "work"
    bind(work, tmp_path / "records")
    bind(work, tmp_path / "records")
    with pytest.raises(UserError, match="was used with other records"):
        bind(work, tmp_path / "second-records")


def test_each_round_of_releases_is_a_question_of_its_own(hospital, study):
    study.recycle.exchange = "each"
    file = read_site_file(hospital())
    requests = [wire.Request(study.to_json(), {"round": number}, None) for number in (1, 2, 2)]
    first, second, again = (Account(file, wire.RELEASE, request, "any").entry.model for request in requests)
    assert first != second == again


def noise(mechanism, epsilon=4.0, delta=1e-5):
    return Entry("s", "", "privacy", epsilon=epsilon, mu=mu_of(epsilon, delta), mechanism=mechanism)


def test_a_guarantee_is_paid_for_once_and_refused_where_all_together_pass_the_budget(ledger):
    budget = PrivacyBudget(epsilon=6.5, delta=1e-5)
    for mechanism in ("a", "a", "b", "a"):
        ledger.charge(noise(mechanism), budget)
    assert [entry.mechanism for entry in ledger.entries()] == ["a", "b"]
    spent = epsilon_of(together([noise("a").mu] * 2), 1e-5)
    assert 4.0 < spent < 6.5 < 2 * 4.0, "composed, not summed"
    with pytest.raises(PolicyError, match=r"privacy.epsilon=4: with what earlier studies spent it comes to 7\.\d+ at"):
        ledger.charge(noise("c"), budget)
    assert len(ledger.entries()) == 2, "and what is refused costs nothing"
    ledger.charge(noise("d", 0.5), budget)


def test_a_guarantee_at_another_delta_costs_what_it_is_at_the_sites(ledger):
    # At a larger delta the same epsilon takes less noise.
    with pytest.raises(PolicyError, match=r"privacy.epsilon=4"):
        ledger.charge(noise("a", 4.0, delta=0.01), PrivacyBudget(epsilon=4.0, delta=1e-5))
    ledger.charge(noise("b", 4.0, delta=1e-7), PrivacyBudget(epsilon=4.0, delta=1e-5))


def sampled(mechanism, epsilon, delta):
    return Entry("s", "", "privacy", epsilon=epsilon, delta=delta, mechanism=mechanism)


def test_guarantees_of_which_epsilon_and_delta_are_known_alone_add_up(ledger):
    budget = PrivacyBudget(epsilon=10.0, delta=1e-5)
    ledger.charge(sampled("a", 4.0, 4e-6), budget)
    ledger.charge(sampled("b", 3.0, 5e-6), budget)
    assert epsilon_spent(ledger.entries(), 1e-5) == pytest.approx(7.0)
    with pytest.raises(PolicyError, match=r"policy.privacy.delta=1e-05 is spent"):
        ledger.charge(sampled("c", 1.0, 2e-6), budget)
    # Beside them a Gaussian one has what is left of delta.
    ledger.charge(noise("d", 2.0), budget)
    total = 7.0 + epsilon_of(mu_of(2.0, 1e-5), 1e-6)
    assert epsilon_spent(ledger.entries(), 1e-5) == pytest.approx(total, abs=1e-6) and 9.0 < total < 10.0
    with pytest.raises(PolicyError, match=r"more than policy.privacy.epsilon=10"):
        ledger.charge(noise("e", 2.0), budget)


def test_a_gaussian_guarantee_has_none_where_all_of_delta_is_spent(ledger):
    budget = PrivacyBudget(epsilon=10.0, delta=1e-5)
    ledger.charge(sampled("a", 4.0, 1e-5), budget)
    with pytest.raises(PolicyError, match=r"policy.privacy.delta=1e-05 is spent"):
        ledger.charge(noise("b", 1.0), budget)


def test_a_budget_takes_just_what_it_says(ledger):
    ledger.charge(noise("a", 10.0), PrivacyBudget(epsilon=10.0))
    with pytest.raises(PolicyError):
        ledger.charge(noise("b", 0.1), PrivacyBudget(epsilon=10.0))


def test_a_ledger_of_before_guarantees_is_read(ledger):
    ledger.write(about("a"), ROOM)
    line = json.loads(ledger.path.read_text())
    del line["mu"], line["mechanism"]
    ledger.path.write_text(json.dumps(line) + "\n")
    assert ledger.entries() == [about("a")]
