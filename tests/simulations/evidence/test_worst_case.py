"""What audits found of planted images, and the table of it."""

import json

import pytest

from simulations.evidence import worst_case


@pytest.fixture
def planted(finished_run):
    """Results of an audit that planted images of both channels at two sites."""
    results = json.loads((finished_run / "results.json").read_text())
    results["study"]["audit"]["headline"] = "rmia"
    canaries = [
        {"target": target, "site": site, "attack": attack, "channel": channel, "auc": auc, "included": 5, "excluded": 7}
        | {"tpr_at_fpr_0.1": 0.4}
        for target, attack in (("fedavg", "rmia"), ("fedavg", "loss"), ("release", "distance-pixels"))
        for channel in ("label", "image")
        for site, auc in (("site-0", 0.7), ("site-1", 0.9))
    ]
    results["audit_extras"] = {"canaries": canaries}
    return results


def test_it_keeps_all_canaries_and_shows_the_attack_that_was_fixed_beforehand(planted, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text(json.dumps(planted))
    assert worst_case.main([str(tmp_path / "out.json"), str(tmp_path / "run")]) == 0
    written = (tmp_path / "out.json").read_text()
    (run,) = json.loads(written)["runs"]
    assert "/home/someone" not in written, "no path of the machine that it ran on"
    assert len(run["canaries"]["auc"]) == 12 and run["seed"] == planted["seed"]
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split(" | ")[1:3] for line in lines] == [
        ["fedavg", "label"],
        ["fedavg", "image"],
        ["release", "label"],
        ["release", "image"],
    ]
    assert all("| 0.80 (0.70 to 0.90) | 40.0 % | 10, 14 |" in line for line in lines)


def test_a_run_without_canaries_is_named(finished_run, tmp_path, capsys):
    assert worst_case.main([str(tmp_path / "out.json"), str(finished_run)]) == 2
    assert "planted no canaries: set audit.canaries" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
