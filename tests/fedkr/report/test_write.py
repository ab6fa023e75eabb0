"""The files that a report consists of."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedkr.errors import UserError
from fedkr.report.results import load_results
from fedkr.report.write import write_report


def test_a_run_folder_gets_results_page_figures_and_events(tmp_path, results, samples):
    results["strategies"][0]["auc"] = float("nan")
    page = write_report(tmp_path, results, samples)
    assert page == tmp_path / "report.html"
    assert "Privacy statement" in (tmp_path / "privacy.html").read_text()
    assert "NaN" not in (tmp_path / "results.json").read_text()
    assert load_results(tmp_path)["strategies"][0]["auc"] is None
    assert {p.stem for p in (tmp_path / "figures").glob("*.png")} >= {"accuracy", "roc", "samples-site-0"}
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Scalars("comparison/accuracy/fedkr")[0].value == pytest.approx(0.98)
    assert [e.step for e in events.Scalars("weights_search/fedavg/lr_0.1_epochs_2")] == [1, 2, 3]
    assert "site-0/real" in events.Tags()["images"]
    assert "site-1/real" not in events.Tags()["images"]


@pytest.fixture
def few_results(results):
    return {"seed": results["seed"], "strategies": results["strategies"]}


def test_writing_again_replaces_the_earlier_report(tmp_path, few_results):
    write_report(tmp_path, few_results, None)
    write_report(tmp_path, few_results, None)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1
    assert json.loads((tmp_path / "results.json").read_text())["seed"] == 7


def test_bad_results_leave_the_earlier_report_alone(tmp_path, few_results):
    page = write_report(tmp_path, few_results, None)
    before = page.read_bytes()
    few_results["strategies"][0]["accuracy"] = 80.0
    with pytest.raises(UserError, match="accuracy"):
        write_report(tmp_path, few_results, None)
    assert page.read_bytes() == before
