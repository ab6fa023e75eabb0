"""The comparison at equal steps and at equal seconds: what is computed of finished runs."""

import pytest

from simulations.evidence.fair_comparison import compared, kept, main, opponents, paired, site_seconds, steps_in_seconds


def row(name, accuracy=0.9, seconds=(10.0, 30.0), **more):
    per_site = [{"site": f"site-{i}", "seconds": each} for i, each in enumerate(seconds)]
    figures = {"accuracy": accuracy, "balanced_accuracy": accuracy, "auc": None}
    return {
        "name": name,
        **figures,
        "bytes_up": 1,
        "bytes_down": 2,
        "seconds": sum(seconds),
        "per_site": per_site,
    } | more


def test_a_difference_over_seeds_is_separated_only_by_an_interval_that_excludes_0():
    found = paired([0.01, 0.02, 0.03])
    # t with 2 degrees of freedom: 4.303 standard errors of 0.01 / sqrt 3.
    assert (found["low"], found["high"]) == (pytest.approx(0.02 - 0.02484, abs=1e-4), pytest.approx(0.0448, abs=1e-4))
    assert not found["separated"]
    assert paired([0.02, 0.021, 0.022])["separated"]
    assert not paired([0.5])["separated"]


def test_contestants_are_compared_with_fedkr_seed_by_seed():
    runs = [{n: row(n, a) for n, a in (("fedkr", 0.8 + s), ("fedavg", 0.9 + s))} for s in (0.0, 0.01, 0.05)]
    found = compared(runs)
    assert found["fedavg"]["accuracy"]["from_ours"] | {"separated": True} == found["fedavg"]["accuracy"]["from_ours"]
    assert found["fedavg"]["accuracy"]["from_ours"]["difference"] == pytest.approx(0.1)
    assert "from_ours" not in found["fedavg"]["auc"] and "from_ours" not in found["fedkr"]["accuracy"]


def test_seconds_become_steps_at_the_speed_of_the_contestants_own_run():
    assert site_seconds(row("fedavg")) == 20.0
    assert steps_in_seconds(row("fedavg", tuning={"steps": 700}), 60.0) == 2100
    oracle = row("centralised", seconds=(0.0, 0.0), tuning={"steps": 100}) | {"seconds": 50.0}
    assert steps_in_seconds(oracle, 25.0) == 50
    local = row("local")
    for site, steps in zip(local["per_site"], (100, 300), strict=True):
        site["tuning"] = {"steps": steps}
    assert steps_in_seconds(local, 40.0) == 400


def test_who_tells_how_it_was_tuned_is_an_opponent():
    local = row("local")
    local["per_site"][0]["tuning"] = {"lr": 0.1}
    rows = {"fedkr": row("fedkr"), "local": local, "fedavg": row("fedavg", tuning={"lr": 0.03})}
    assert opponents(rows) == ["local", "fedavg"]
    assert kept(local)["tuned_sites"] == [{"lr": 0.1}] and kept(rows["fedavg"])["tuning"] == {"lr": 0.03}


def test_a_run_that_is_not_finished_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "out.json"), str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
