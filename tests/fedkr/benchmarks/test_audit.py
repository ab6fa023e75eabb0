"""The benchmark of reference models: what it measures, what it prints, what it refuses."""

import io
import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from fedkr.benchmarks.audit import measure_audit, print_audit
from fedkr.benchmarks.enlarged import enlarged_digits
from fedkr.cli import app
from fedkr.config import ClassifierConfig
from fedkr.errors import UserError
from fedkr.learning.runtime import Runtime

TINY = ClassifierConfig(arch="resnet8", width=4, batch=8)


@pytest.fixture(scope="module")
def result():
    return measure_audit(2, 8, 2, Runtime.choose("cpu", "float32", 1), TINY)


def test_each_engine_trains_all_models_for_all_steps(result):
    assert [row["engine"] for row in result["rows"]] == ["loop", "grouped"]
    for row in result["rows"]:
        assert row["models_steps_per_second"] == pytest.approx(2 * 2 / row["seconds"])
        assert row["ratio"] == pytest.approx(result["rows"][0]["seconds"] / row["seconds"])
    assert [row["together"] for row in result["rows"]] == [1, 2]


def test_the_headline_is_what_an_audit_would_use_here(result):
    assert result["default"] == "grouped" and result["ratio"] == result["rows"][1]["ratio"]
    assert json.loads(json.dumps(result)) == result


def test_the_table_says_what_was_trained_how_fast_and_on_what(result):
    page = io.StringIO()
    print_audit(result, Console(file=page, width=120))
    text = page.getvalue()
    for words in ("2 reference models (resnet8, 8x8), 2 steps each", "one after the other", "1.00x", "cores; float32"):
        assert words in text
    assert "grouped" in text and "default here" in text


def test_the_digits_are_enlarged_without_changing_who_they_are():
    data = enlarged_digits(28)
    assert data.images.shape[1:] == (28, 28, 1) and len(data) == len(data.labels)
    assert data.images.min() == 0 and data.images.max() > 240


@pytest.mark.parametrize(("models", "size", "steps"), [(3, 8, 2), (2, 7, 2), (2, 8, 0)])
def test_numbers_that_make_no_benchmark_are_refused(models, size, steps):
    with pytest.raises(UserError) as refused:
        measure_audit(models, size, steps, Runtime.choose("cpu", "float32", 1), TINY)
    assert "\n" not in str(refused.value)


def test_the_command_prints_the_table_and_writes_the_figures(tmp_path, monkeypatch, result):
    asked = []
    monkeypatch.setattr("fedkr.benchmarks.audit.measure_audit", lambda *given: asked.append(given) or result)
    out = tmp_path / "figures.json"
    ended = CliRunner().invoke(app, ["bench", "audit", "--models", "2", "--size", "8", "--device", "cpu", "--out", out])
    assert ended.exit_code == 0, ended.output
    assert "one after the other" in ended.output and json.loads(out.read_text()) == result
    assert asked[0][:3] == (2, 8, 20)


def test_the_command_says_in_one_line_what_is_wrong(capsys):
    ended = CliRunner().invoke(app, ["bench", "audit", "--models", "3", "--device", "cpu"])
    assert ended.exit_code == 2
    assert ended.stderr.startswith("fedkr: error: reference models: 3; an even number")
