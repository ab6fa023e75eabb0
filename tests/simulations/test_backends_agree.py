"""One study on all three backends, for real: where it runs never changes a number."""

import json
import os

import psutil
import pytest


def leftovers(folder):
    """Return the processes that name ``folder`` in their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and any(str(folder) in word for word in process.cmdline()):
                found.append(process.cmdline())
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("backend", ["ray", "deploy"])
def test_a_real_run_gives_the_numbers_of_the_inline_one_bit_by_bit(
    backend, small_run, small_overrides, run, numbers, tmp_path
):
    folder = run([*small_overrides, f"backend={backend}"], tmp_path / backend)
    assert json.loads((folder / "results.json").read_text())["backend"] == backend
    expected, found = numbers(small_run), numbers(folder)
    assert found["models"].keys() == expected["models"].keys() == {"student", "weights", "centralised"}
    for part, values in expected.items():
        assert found[part] == values, part
    assert not leftovers(folder)
