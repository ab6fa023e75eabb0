"""What is read out of the answers of Flower's command line."""

import json
import subprocess
import sys
from subprocess import CompletedProcess

import pytest

from fedkr.errors import StudyFailedError
from fedkr.network.processes import LOOPBACK, complaint, registered_node, usable_port, wait_for_port


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


def test_a_server_that_ended_is_not_waited_for():
    server = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(StudyFailedError, match=r"its server ended \(3\)"):
        wait_for_port(LOOPBACK, usable_port(), server)
