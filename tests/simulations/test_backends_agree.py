"""One study in a real deployment with TLS: where it runs never changes a number (Ray: test_full_audit.py)."""

import json

import pytest

pytestmark = pytest.mark.alone


def test_a_deployment_gives_the_numbers_of_the_inline_run_bit_by_bit(
    small_run, small_overrides, run, numbers, leftovers, tmp_path
):
    folder = run([*small_overrides, "backend=deploy"], tmp_path / "deploy")
    assert json.loads((folder / "results.json").read_text())["backend"] == "deploy"
    expected, found = numbers(small_run), numbers(folder)
    assert found["models"].keys() == expected["models"].keys() == {"student", "fedavg", "centralised"}
    for part, values in expected.items():
        assert found[part] == values, part
    assert not leftovers(folder)
