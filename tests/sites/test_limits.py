"""Time and disk of one message's work, and what ends a message whatever its handler does."""

import json
import os
import stat
import time

import pytest
import yaml
from flwr.app import Context, Message, Metadata, RecordDict

from fedkr import wire
from sites.app import app
from sites.guard import REFUSED, guard, keep_at_site
from sites.limits import LimitError, bytes_of, folder_bytes, within_limits

FOREVER = 60.0


def arrived(study, message_type, **settings):
    names = dict.fromkeys(("message_id", "reply_to_message_id", "group_id"), "m")
    metadata = Metadata(
        run_id=1, src_node_id=1, dst_node_id=2, created_at=time.time(), ttl=60.0, message_type=message_type, **names
    )
    return Message(wire.request_content(study.to_json(), **settings), metadata=metadata)


@pytest.fixture
def ask(hospital, study):
    """Send a message through the guard to a handler, or to the installed app's own; return the reply."""
    path = hospital()

    def ask(handler=None, message_type=wire.DESCRIBE, **settings):
        context = Context(1, 1, {"site-file": str(path)}, RecordDict(), {})
        message = arrived(study, message_type, **settings)
        return app(message, context) if handler is None else guard(message, context, handler)

    return ask


def edited(path, **values):
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | values))


def busy(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            sum(range(100))
        except Exception:
            continue


def reason(tmp_path):
    return json.loads((tmp_path / "work" / "failure.json").read_text())["reason"]


@pytest.fixture
def stopped(monkeypatch):
    """The types of what stopped replies, which only the site knows."""
    types = []

    def noting(error, message, context):
        types.append(type(error).__name__)
        keep_at_site(error, message, context)

    monkeypatch.setattr("sites.guard.keep_at_site", noting)
    return types


def test_work_that_takes_longer_than_the_site_file_says_ends(ask, stopped, tmp_path):
    edited(tmp_path / "site.yaml", studies={"hours": 0.3 / 3600})
    began = time.monotonic()
    reply = ask(lambda message, context: busy(FOREVER))
    assert (reply.error.reason, stopped) == (REFUSED, ["LimitError"])
    assert time.monotonic() - began < FOREVER / 2
    assert "studies.hours" in reason(tmp_path)


def test_a_workspace_that_is_full_takes_no_work(ask, stopped, tmp_path):
    (tmp_path / "work").mkdir(exist_ok=True)
    (tmp_path / "work" / "stage").write_bytes(bytes(3000))
    edited(tmp_path / "site.yaml", studies={"gigabytes": 2e-6})
    called = []
    assert ask(lambda *_: called.append(1)).error.reason == REFUSED
    assert (called, stopped) == ([], ["LimitError"])
    assert "studies.gigabytes=2e-06" in reason(tmp_path)


def test_the_records_count_as_well_and_a_folder_within_another_once(ask, stopped, tmp_path):
    (tmp_path / "site-records").mkdir()
    (tmp_path / "site-records" / "ledger.jsonl").write_bytes(bytes(3000))
    edited(tmp_path / "site.yaml", studies={"gigabytes": 2e-6})
    assert ask(lambda *_: None).error.reason == REFUSED
    assert stopped == ["LimitError"]
    assert "site-records: holds more than studies.gigabytes=2e-06" in reason(tmp_path)
    assert bytes_of([tmp_path, tmp_path / "site-records", tmp_path / "none"]) == folder_bytes(tmp_path)


def test_a_full_disk_is_told_before_data_are_opened_and_fills_no_ledger(ask, tmp_path):
    (tmp_path / "work").mkdir(exist_ok=True)
    (tmp_path / "work" / "stage").write_bytes(bytes(3000))
    edited(tmp_path / "site.yaml", studies={"gigabytes": 2e-6})
    assert ask(lambda *_: None).has_error() and not (tmp_path / "site-records" / "ledger.jsonl").exists()


def test_work_that_fills_the_workspace_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("sites.limits.POLL_SECONDS", 0.05)

    def fill():
        (tmp_path / "inner").mkdir()
        (tmp_path / "inner" / "stage").write_bytes(bytes(3000))
        busy(FOREVER)

    with pytest.raises(LimitError, match="holds more than"):
        within_limits(fill, [tmp_path], 1.0, 2e-6)
    assert folder_bytes(tmp_path) == 3000


def test_work_within_its_limits_is_returned_and_its_own_errors_pass(tmp_path):
    assert within_limits(lambda: busy(0.1) or 3, [tmp_path], 1.0, 1.0) == 3
    with pytest.raises(ZeroDivisionError):
        within_limits(lambda: 1 / 0, [tmp_path], 1.0, 1.0)


def test_work_that_ends_when_its_time_does_is_returned_or_ended_and_nothing_comes_afterwards(tmp_path):
    for _ in range(300):
        try:
            assert within_limits(lambda: busy(0.003) or 3, [tmp_path], 0.003 / 3600, 1.0) == 3
        except LimitError as error:
            assert "studies.hours" in str(error)
    busy(0.1)


@pytest.mark.parametrize("error", [SystemExit("pixels"), KeyboardInterrupt("pixels"), GeneratorExit("pixels")])
def test_what_would_end_the_process_does_not_pass_the_guard(ask, stopped, error):
    def handler(message, context):
        raise error

    reply = ask(handler)
    assert (reply.error.reason, stopped) == (REFUSED, [type(error).__name__])
    assert "pixels" not in str(reply)


def test_ctrl_c_ends_a_simulation_in_the_process_of_its_command(study):
    def handler(message, context):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guard(arrived(study, wire.DESCRIBE), Context(1, 1, {"partition-id": 0}, RecordDict(), {}), handler)


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        ({"policy": {"allow": ["release"]}}, "PolicyError"),
        ({"policy": {"exact_counts": False}}, "PolicyError"),
        ({"studies": {"approved": ["0" * 64]}}, "UserError"),
        ({"studies": {"bounds": {"student.steps": [1000, 2000]}}}, "UserError"),
        ({"name": 3}, "UserError"),
    ],
)
def test_a_site_file_that_was_edited_during_the_work_counts_when_the_reply_leaves(
    hospital, ask, stopped, tmp_path, edit, error
):
    hospital(exact_counts=True)

    def handler(message, context):
        edited(tmp_path / "site.yaml", **edit)
        return Message(wire.metrics_reply({"test/count": 14, "seconds": 1.0}), reply_to=message)

    assert ask(handler, wire.LOCAL).error.reason == REFUSED
    assert stopped == [error]


@pytest.mark.parametrize(
    "edit",
    [{"max_images": 1}, {"max_models": 1}, {"min_evaluated": 500}, {"label_digits": 0}, {"near_copies": "refuse"}],
)
def test_a_reply_whose_policy_changed_during_the_work_does_not_leave(hospital, ask, stopped, tmp_path, edit):
    hospital()

    def handler(message, context):
        edited(tmp_path / "site.yaml", policy={"min_evaluated": 1} | edit)
        return Message(wire.metrics_reply({"seconds": 60.0}), reply_to=message)

    assert ask(handler, wire.LOCAL).error.reason == REFUSED
    assert (stopped, "changed during the work" in reason(tmp_path)) == (["PolicyError"], True)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_all_that_a_site_writes_is_for_one_account_alone_under_any_umask(ask, study, tmp_path, umask):
    (tmp_path / "work").mkdir(mode=0o755, exist_ok=True)
    before = os.umask(umask)
    try:
        assert not ask().has_error()
        assert not ask(message_type=wire.RELEASE, round=1).has_error()
        assert not ask(message_type=wire.AUDIT, target="teacher").has_error()
        assert not ask(message_type=wire.COMPARE, pairs="[]").has_error()
        assert ask(message_type=wire.TRAIN).has_error()
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    written = [path for name in ("work", "site-records") for path in [tmp_path / name, *(tmp_path / name).rglob("*")]]
    names = {path.name.partition("-")[0] for path in written}
    assert {"stages", "progress", "audit.html", "secret", "failure.json", "split.json", "teacher"} <= names
    for path in written:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
