"""What stops a command becomes one line and an exit status, and what the command started is gone."""

import os
import signal
import sys
import threading
import time

import pytest

from fedkr.config import Study
from simulations.backends.home import FlowerHome
from simulations.exits import BESIDE, guarded, leave

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]


@pytest.fixture(autouse=True)
def interrupted_by_ctrl_c():
    """A shell that starts tests in the background has them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_and_its_processes_like_ctrl_c(tmp_path, capsys, number):
    started = []

    def work():
        with FlowerHome(Study(), tmp_path) as home:
            started.append((home, home.start(SLEEP, "a.log", home.environment())))
            os.kill(os.getpid(), number)
            time.sleep(5)

    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)]
    assert guarded(work) == 128 + number
    ((home, child),) = started
    assert child.poll() is not None and not home.path.exists()
    assert capsys.readouterr().err == "fedkr: interrupted; the same command continues where this one stopped\n"
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)] == handlers


def test_a_second_signal_does_not_disturb_the_clean_up():
    def work():
        try:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned.append(True)

    cleaned = []
    assert guarded(work) == 128 + signal.SIGHUP
    assert cleaned


def test_a_run_under_nohup_outlives_its_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert guarded(lambda: os.kill(os.getpid(), signal.SIGHUP)) == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_file_or_folder_that_cannot_be_used_is_one_line_without_a_traceback(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert guarded(lambda: (tmp_path / "file" / "site.key").write_text("")) == 2
    assert capsys.readouterr().err == f"fedkr: error: {tmp_path}/file/site.key: Not a directory\n"


def test_a_thread_that_still_computes_changes_no_exit_status(monkeypatch):
    """torch aborts a process whose interpreter ends under it."""
    with pytest.raises(SystemExit) as plain:
        leave(129)
    monkeypatch.setattr(os, "_exit", lambda status: pytest.fail(f"left with {status}"))
    over = threading.Event()
    computing = threading.Thread(target=over.wait, name=BESIDE, daemon=True)
    computing.start()
    try:
        with pytest.raises(pytest.fail.Exception, match="left with 129"):
            leave(129)
    finally:
        over.set()
        computing.join()
    assert plain.value.code == 129
