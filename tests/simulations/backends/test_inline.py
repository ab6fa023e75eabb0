import time

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedkr.config import Study, parse_study
from fedkr.errors import StudyFailedError
from simulations.backends.inline import InlineBackend, InlineGrid


@pytest.fixture
def app():
    app = ClientApp()

    @app.train()
    def train(message, context):
        config = message.content["config"]
        time.sleep(float(config.get("sleep", 0)))
        if config.get("fail"):
            raise ValueError("too few images")
        message.content["arrays"]["w"] = Array(np.zeros(2, np.float32))
        context.state["count"] = MetricRecord({"n": int(context.state["count"]["n"]) + 1 if context.state else 1})
        site = int(context.node_config["partition-id"])
        record = MetricRecord({"site": site, "calls": int(context.state["count"]["n"])})
        return Message(RecordDict({"m": record, "arrays": message.content["arrays"]}), reply_to=message)

    return app


def message(node, ttl=None, **config):
    content = RecordDict({"config": ConfigRecord(config), "arrays": ArrayRecord({"w": Array(np.ones(2, np.float32))})})
    return Message(content, node, "train", ttl=ttl)


def test_replies_name_the_message_they_answer_and_are_pulled_once(app):
    grid = InlineGrid(app, 2, {})
    ids = grid.push_messages([message(node) for node in grid.get_node_ids()])
    replies = grid.pull_messages(ids)
    assert [r.metadata.reply_to_message_id for r in replies] == ids
    assert [r.content["m"]["site"] for r in replies] == [0, 1]
    assert len({r.metadata.message_id for r in replies} | set(ids)) == 4
    assert grid.pull_messages(ids) == []


def test_an_exception_of_the_client_app_becomes_an_error_reply_and_the_other_sites_still_answer(app):
    grid = InlineGrid(app, 2, {})
    first, second = grid.get_node_ids()
    broken, fine = grid.send_and_receive([message(first, fail=True), message(second)])
    assert broken.has_error() and broken.error.code == 2 and "too few images" in broken.error.reason
    assert fine.has_content()


def test_a_reply_after_its_time_to_live_is_an_error(app):
    grid = InlineGrid(app, 1, {})
    (reply,) = grid.send_and_receive([message(grid.get_node_ids()[0], ttl=0.05, sleep=0.1)])
    assert reply.has_error() and reply.error.code == 4


def test_a_message_to_an_unknown_node_gets_no_id(app):
    assert InlineGrid(app, 1, {}).push_messages([message(7)]) == []


def test_what_a_site_changes_in_a_message_is_not_seen_by_the_server_or_by_another_site(app):
    grid = InlineGrid(app, 1, {})
    sent = message(grid.get_node_ids()[0])
    (reply,) = grid.send_and_receive([sent])
    assert sent.content["arrays"]["w"].numpy().tolist() == [1, 1]
    assert reply.content["arrays"]["w"].numpy().tolist() == [0, 0]


def test_a_site_keeps_its_state_from_message_to_message(app):
    grid = InlineGrid(app, 1, {})
    (node,) = grid.get_node_ids()
    calls = [grid.send_and_receive([message(node)])[0].content["m"]["calls"] for _ in range(3)]
    assert calls == [1, 2, 3]


def test_the_server_app_finds_the_study_and_the_run_folder_in_its_config(app, tmp_path):
    server, study, seen = ServerApp(), Study(), {}

    @server.main()
    def main(grid, context):
        seen.update(context.run_config, nodes=len(list(grid.get_node_ids())))

    InlineBackend((server, app)).run(study, tmp_path)
    assert parse_study(seen["study"]) == study
    assert (seen["run-dir"], seen["nodes"]) == (str(tmp_path), 3)


@pytest.mark.parametrize(("note", "reason"), [('{"reason": "site-1: died"}', "site-1: died"), (None, "out of luck")])
def test_a_failed_run_gives_the_servers_note_or_else_the_exception(app, tmp_path, note, reason):
    server = ServerApp()

    @server.main()
    def main(grid, context):
        if note:
            (tmp_path / "server" / "failure.json").write_text(note)
        raise RuntimeError("out of\nluck")

    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "failure.json").write_text('{"reason": "of yesterday"}')
    with pytest.raises(StudyFailedError, match=f"^{reason}$"):
        InlineBackend((server, app)).run(Study(), tmp_path)
