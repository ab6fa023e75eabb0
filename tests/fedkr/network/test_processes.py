"""What is read out of the answers of Flower's command line, and who listens on a port."""

import json
import socket
import subprocess
import sys
from subprocess import CompletedProcess

import pytest

from fedkr.errors import StudyFailedError
from fedkr.network.processes import (
    LOOPBACK,
    complaint,
    ended_without_port,
    listens,
    registered_node,
    usable_port,
    wait_for_port,
)


def answer(out="", err=""):
    return CompletedProcess(["flwr"], 1, out, err)


def test_a_refusal_is_told_in_its_last_sentence_whatever_its_form():
    said = "Using SuperLink: fedkr (127.0.0.1:1)\n\nConnection to the SuperLink is unavailable."
    assert complaint(answer(json.dumps({"success": False, "error-message": said}))) == said.splitlines()[-1]
    assert complaint(answer("", "╭─ Error ─╮\n│ no such run │\n╰─────╯\n")) == "no such run"
    assert complaint(answer()) == "it said nothing"


@pytest.mark.parametrize("out", ["", "{}", "[]", "no JSON"])
def test_only_an_answer_with_a_node_registers_one(out):
    assert registered_node(answer(out)) is None
    assert registered_node(answer('{"node-id": 7}')) == "7"


SERVER = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); time.sleep(60)"


@pytest.fixture
def serve():
    """Return a function that starts a server on a port; it ends with the test."""
    started = []

    def start(port, program=SERVER):
        command = [sys.executable, "-S", "-c", program, str(port)]
        started.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        return started[-1]

    yield start
    for server in started:
        server.kill()
        server.wait()


def test_a_server_is_waited_for_until_it_listens_itself(serve):
    port = usable_port()
    server = serve(port)
    wait_for_port(port, server)
    assert listens(port, server) and not ended_without_port(port, server)


def test_a_server_that_ended_is_not_waited_for(serve):
    port = usable_port()
    with pytest.raises(StudyFailedError, match=r"its server ended \(3\)") as caught:
        wait_for_port(port, serve(port, "raise SystemExit(3)"))
    assert not caught.value.restart


def test_a_server_whose_port_another_took_is_to_be_started_again(serve):
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        server = serve(port)
        with pytest.raises(StudyFailedError, match="its server ended") as caught:
            wait_for_port(port, server)
        assert caught.value.restart and ended_without_port(port, server)


def test_what_another_process_listens_on_is_not_the_servers(serve):
    with socket.create_server((LOOPBACK, 0)) as other:
        assert not listens(other.getsockname()[1], serve(0))
