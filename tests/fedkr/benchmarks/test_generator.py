"""``fedkr bench generator``: every contestant is trained and drawn from, and ratios are to the plain loop."""

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from fedkr.benchmarks import generator, plain_diffusion
from fedkr.benchmarks.generator import measure_cas, measure_generators, print_generators
from fedkr.benchmarks.options import Budget, GeneratorOptions
from fedkr.benchmarks.plain_diffusion import PlainDiffusion
from fedkr.cli import app
from fedkr.config import ClassifierConfig, DataConfig
from fedkr.errors import UserError
from fedkr.learning.runtime import Runtime
from fedkr.progress import SilentProgress

TINY = Budget(size=8, batch=4, width=8, steps=1, images=4, rounds=1)


@pytest.fixture(scope="module")
def result():
    with pytest.MonkeyPatch.context() as patch:
        # A process for each figure takes seconds to import.
        patch.setattr(generator, "peak_mib", lambda *_: 1.0)
        return measure_generators(TINY, Runtime.choose("cpu", "float32", 1), SilentProgress())


def test_each_generator_is_measured_and_the_plain_loop_is_the_measure(result):
    assert [row["kind"] for row in result["rows"]] == ["plain", "edm", "biggan_deep"]
    plain = result["rows"][0]
    assert (plain["train_ratio"], plain["sample_ratio"]) == (1.0, 1.0)
    assert all(row["train"] > 0 and row["sample"] > 0 for row in result["rows"])


def test_the_table_names_generators_ratios_and_the_machine(result):
    page = io.StringIO()
    print_generators(result, Console(file=page, width=140))
    for text in ("plain", "edm", "biggan_deep", "1.00x", "float32, 1 torch thread(s); process time"):
        assert text in page.getvalue()


@pytest.mark.parametrize(
    ("threads", "gpu", "clock", "seconds"), [(1, False, "process", 1), (2, False, "wall", 5), (1, True, "wall", 5)]
)
def test_the_result_says_which_time_was_taken(threads, gpu, clock, seconds, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(generator.time, "process_time", iter([0.0, 1.0]).__next__)
    monkeypatch.setattr(generator.time, "perf_counter", iter([0.0, 5.0]).__next__)
    assert (generator.clock(), generator.timed(lambda: "done")) == (clock, ("done", seconds))


def test_unknown_kinds_are_refused_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr(generator, "measure_cas", lambda *_: pytest.fail("minutes of training came first"))
    with pytest.raises(UserError, match="--kinds"):
        generator.bench_generators(GeneratorOptions(cas="digits", kinds="edn", device="cpu"), SilentProgress())


def test_what_is_asked_for_is_measured_by_the_first_of_it(runtime, monkeypatch):
    monkeypatch.setattr(generator, "peak_mib", lambda *_: 1.0)
    budget = Budget(size=48, batch=1, width=8, steps=1, images=1, rounds=1)
    result = measure_generators(budget, runtime, SilentProgress(), "edm-two-levels,edm")
    two, edm = result["rows"]
    assert [two["kind"], edm["kind"], two["train_ratio"]] == ["edm-two-levels", "edm", 1.0]
    assert two["weights"] * 3 < edm["weights"]
    page = io.StringIO()
    print_generators(result, Console(file=page, width=160))
    assert "to edm-two-levels" in page.getvalue()


@pytest.mark.parametrize(
    ("asked", "line"), [("edn", "did you mean 'edm'"), ("edm,edm", "--kinds edm,edm: names edm twi")]
)
def test_kinds_that_cannot_be_compared_are_one_line(runtime, asked, line):
    with pytest.raises(UserError, match=line):
        measure_generators(TINY, runtime, SilentProgress(), asked)


def test_the_plain_loop_learns_and_draws_by_averaged_weights(runtime, pictures):
    data = pictures((8, 8))
    plain = PlainDiffusion(data, TINY, runtime)
    plain.advance(1)
    before = [p.clone() for p in plain.net.parameters()]
    images = plain.draw(np.array([0, 1]))
    assert (images.shape, images.dtype) == ((2, 8, 8, 1), np.uint8)
    assert all(p.equal(q) for p, q in zip(before, plain.net.parameters(), strict=True))
    plain.advance(2)
    assert any(not p.equal(q) for p, q in zip(before, plain.net.parameters(), strict=True))


def test_the_plain_loop_never_draws_one_image_twice(runtime, pictures, monkeypatch):
    monkeypatch.setattr(plain_diffusion, "SAMPLE_BATCH", 2)
    images = PlainDiffusion(pictures((8, 8)), TINY, runtime).draw(np.zeros(6, np.int64))
    assert len({image.tobytes() for image in images}) == 6


def test_time_to_equal_cas_is_of_the_cas_that_both_reach(runtime, monkeypatch):
    monkeypatch.setattr(generator, "CLASSIFIER", ClassifierConfig(arch="resnet8", width=4, steps=1, batch=8))
    scores = iter([0.2, 0.5, 0.6, 0.9])
    monkeypatch.setattr(generator, "score", lambda *_: next(scores))
    cas = measure_cas(DataConfig(limit=40), 2, 2, TINY, runtime, SilentProgress())
    assert cas["target"] == 0.5
    curves = cas["curves"]
    assert cas["seconds_to_target"] == {"plain": curves["plain"][1]["seconds"], "edm": curves["edm"][0]["seconds"]}


@pytest.mark.parametrize(
    ("budget", "line"),
    [(Budget(rounds=0), "--rounds 0"), (Budget(size=30), "--size 30"), (Budget(width=12), "--width 12")],
)
def test_a_number_that_makes_no_benchmark_is_named(budget, line, runtime):
    with pytest.raises(UserError, match=line):
        measure_generators(budget, runtime, SilentProgress())


def test_the_command_writes_its_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(generator, "peak_mib", lambda *_: 1.0)
    for variable in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(variable, raising=False)
    out = tmp_path / "figures.json"
    options = {"size": 8, "batch": 4, "width": 8, "steps": 1, "images": 4, "rounds": 1, "device": "cpu", "out": out}
    named = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    finished = CliRunner().invoke(app, ["bench", "generator", *named])
    assert finished.exit_code == 0, finished.output
    # The last stage's end is shown however short the work is; stages before it may pass between two looks.
    assert "benchmark: memory ended, 3/3 generator" in finished.stderr
    assert "benchmark:" not in finished.stdout
    figures = json.loads(out.read_text())
    assert {"rows", "runtime", "hardware", "versions"} <= set(figures)
    assert (figures["runtime"]["threads"], figures["runtime"]["clock"]) == (1, generator.clock())


def test_the_peak_holds_at_least_weights_gradients_moments_and_average(runtime, pictures):
    budget = Budget(size=8, batch=4, width=64, images=4)
    weights = sum(p.numel() for p in PlainDiffusion(pictures((4, 4)), budget, runtime).net.parameters())
    assert 5 * 4 * weights / 2**20 < generator.peak_mib("plain", budget, runtime) < 1000
