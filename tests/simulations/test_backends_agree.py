"""One study in a real deployment with TLS: where it recycles and audits never changes a number.

Ray, and weights that are shared there: test_full_audit.py.
"""

import json

import pytest

pytestmark = pytest.mark.alone(minutes=2)

# Each message is answered by a new process of a site, which loads PyTorch: as few as recycle, evaluate and audit. The
# other kinds are compared on Ray, and test_by_hand.py has a deployment exchange weights.
ONE_OF_EACH = "recycle.rounds=1 audit.targets=[student] strategy.compare=[fedkr,centralised]"


def test_a_deployment_gives_the_numbers_of_the_inline_run_bit_by_bit(
    small_overrides, run, numbers, leftovers, tmp_path
):
    overrides = [*small_overrides, *ONE_OF_EACH.split()]
    folder = run([*overrides, "backend=deploy"], tmp_path / "deploy")
    assert json.loads((folder / "results.json").read_text())["backend"] == "deploy"
    expected, found = numbers(run(overrides, tmp_path / "inline")), numbers(folder)
    assert found["models"].keys() == expected["models"].keys() == {"student", "centralised"}
    for part, values in expected.items():
        assert found[part] == values, part
    assert not leftovers(folder)
