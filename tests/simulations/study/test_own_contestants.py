"""The contestants that the documentation shows: each one module and one YAML file, in a whole study."""

import json
import re
import sys
from pathlib import Path

import pytest

import server.strategies
from fedkr.cli import app
from fedkr.stages import read_artifact

PAGE = (Path(server.strategies.__file__).parent / "README.md").read_text()


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """Write each module and file that the page shows where it says; return their folder."""
    for path, text in re.findall(r"`([\w/]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "mypackage"]:
        del sys.modules[name]


def simulate(*arguments):
    with pytest.raises(SystemExit) as ended:
        app(["simulate", "--config-dir", "myconfigs", *arguments], prog_name="fedkr")
    return int(ended.value.code or 0)


@pytest.fixture
def tiny(small_overrides):
    less = ("generator.steps=6", "generator.checkpoints=1", "teacher.steps=6", "student.steps=8", "data.limit=240")
    quick = (
        "generator.options.steps_sample=2",
        "recycle.search_steps=2",
        "recycle.search_images=16",
        "recycle.ratio=0.5",
    )
    kept = [o for o in small_overrides if not o.startswith(("audit.targets", "strategy."))]
    sharing = ("strategy.rounds=1", "strategy.lrs=[0.05]", "strategy.local_epochs=[1]")
    return [*kept, *less, *quick, *sharing, "recycle.refuse_collapsed=false", "audit.targets=[weights,largest,release]"]


def test_a_users_own_contestants_are_compared_evaluated_audited_and_reported_like_any_other(shown, tiny):
    compare = "strategy.compare=[local,fedavg,trimmed,largest,fedkr,centralised]"
    own = ("strategy.options.largest.skip=1", "strategy.options.fedkr.quarantine=false")
    assert simulate(*tiny, compare, *own, "run_dir=run") == 0
    results = json.loads((shown / "run" / "results.json").read_text())
    rows = {row["name"]: row for row in results["strategies"]}
    assert list(rows) == ["local", "fedavg", "trimmed", "largest", "fedkr", "centralised"]
    assert len(rows["largest"]["per_site"]) == 2 and rows["trimmed"]["bytes_up"] > 0
    assert all(0 < row["accuracy"] <= 1 for row in rows.values())
    assert {row["target"] for row in results["audit"]} == {"fedavg", "trimmed", "largest", "release"}
    assert {row["lr"] for row in results["weights_search"] if row["strategy"] == "trimmed"} == {0.1}
    assert {row["lr"] for row in results["weights_search"] if row["strategy"] == "fedavg"} == {0.05}
    for name in ("trimmed", "largest"):
        assert read_artifact(shown / "run" / "models" / f"{name}.safetensors").info["classes"] == results["classes"]
        assert name in (shown / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("strategy.options.largest.skp=1", "strategy.options.largest.skp: no such option; did you mean 'skip'?"),
        ("strategy.options.trimmed.bta=1", "strategy.options.trimmed"),
        ("strategy.options.largest.kind=mypackage.smallest", "kind='mypackage.smallest': No module named"),
    ],
)
def test_a_wrong_option_of_ones_own_contestant_is_refused_by_name(shown, tiny, capsys, override, line):
    assert simulate(*tiny, "strategy.compare=[trimmed,largest]", override, "run_dir=run") == 2
    assert line in capsys.readouterr().err
    assert not (shown / "run").exists()
