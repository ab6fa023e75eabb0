"""The command line: what each command opens, what it prints, and how it ends."""

import json
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedkr.cli import app
from fedkr.config import Study
from fedkr.errors import StudyFailedError, UserError
from simulations.audit_run.options import Request

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fedkr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``fedkr`` in an empty folder and return exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            app(list(arguments), prog_name="fedkr")
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


def offer(monkeypatch: pytest.MonkeyPatch, module: str, **names: Any) -> None:
    """Put a module of ``names`` in the place of ``module``."""
    stand_in = types.ModuleType(module)
    vars(stand_in).update(names)
    monkeypatch.setitem(sys.modules, module, stand_in)


@pytest.fixture
def studies(monkeypatch: pytest.MonkeyPatch) -> list[Study]:
    """Collect the studies that ``fedkr simulate`` would run; some seeds fail."""
    seen: list[Study] = []
    failures = {
        7: ValueError("two\nlines"),
        8: KeyboardInterrupt(),
        9: UserError("bad file"),
        10: StudyFailedError("site died"),
    }

    def run_study(study: Study) -> Path:
        seen.append(study)
        if study.seed in failures:
            raise failures[study.seed]
        return Path("run")

    offer(monkeypatch, "simulations.study.run", run_study=run_study)
    return seen


def test_help_opens_no_heavy_library() -> None:
    script = (
        "import sys\nfrom fedkr.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "sys.exit(' '.join({'torch', 'flwr', 'ray', 'hydra', 'numpy'} & set(sys.modules)) or None)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "simulate" in ended.stdout


def test_simulate_runs_the_composed_study_and_leaves_nothing_behind(
    fedkr: Run, studies: list[Study], tmp_path: Path
) -> None:
    status, _, errors = fedkr("simulate", "seed=3", "partition.alpha=0.5", "backend=inline")
    assert (status, errors) == (0, "")
    assert [(study.seed, study.partition.alpha, study.backend.kind) for study in studies] == [(3, 0.5, "inline")]
    assert list(tmp_path.iterdir()) == []


def test_multirun_runs_each_study_after_the_other(fedkr: Run, studies: list[Study]) -> None:
    status, printed, _ = fedkr("simulate", "--multirun", "seed=0,1", "partition.alpha=0.1,1.0")
    assert status == 0
    assert [(study.seed, study.partition.alpha) for study in studies] == [(0, 0.1), (0, 1.0), (1, 0.1), (1, 1.0)]
    assert "fedkr: run 4: partition.alpha=1.0,seed=1" in printed


def test_a_sweep_into_one_run_folder_is_refused_before_the_first_run(fedkr: Run, studies: list[Study]) -> None:
    status, _, errors = fedkr("simulate", "--multirun", "seed=0,1", "run_dir=study")
    assert (status, studies) == (2, [])
    assert errors == (
        "fedkr: error: run_dir=study: each study of a sweep needs a run folder of its own; set out=... instead\n"
    )
    assert fedkr("simulate", "--multirun", "seed=0,1", "run_dir=study-${seed}")[0] == 0
    assert [study.run_dir for study in studies] == ["study-0", "study-1"]


def test_no_two_studies_of_a_sweep_share_a_run_folder(fedkr: Run, studies: list[Study]) -> None:
    status, _, errors = fedkr("simulate", "--multirun", "seed=0,1", "run_dir=a-${seed},./a-1")
    assert (status, studies) == (2, [])
    assert errors.endswith("each study of a sweep needs a run folder of its own; set out=... instead\n")


def test_an_odd_file_name_needs_no_quotes_but_the_shells(fedkr: Run, studies: list[Study]) -> None:
    assert fedkr("simulate", "--multirun", "run_dir=a=b,größe (1)", "data.path=[v2].npz")[0] == 0
    assert [(study.run_dir, study.data.path) for study in studies] == [("a=b", "[v2].npz"), ("größe (1)", "[v2].npz")]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["simulate", "--multirum", "seed=1"], "--multirum: no such flag; did you mean '--multirun'?"),
        (["simulate", "--seed=1"], "--seed=1: no such flag"),
        (["simulate", "-x"], "-x: no such flag"),
        (["simulate", "--experimental-rerun", "a.pickle"], "--experimental-rerun: no such flag"),
        (["simulate", "--cfg", "jop"], "--cfg jop: expected one of: job, hydra, all"),
        (["simulate", "--config-dir"], "--config-dir: expected a value"),
        (["kr", "--ablatoin"], "--ablatoin: no such flag; did you mean '--ablation'?"),
        (["leakage", "--multirum"], "--multirum: no such flag; did you mean '--multirun'?"),
        (["leakage", ".", "--full"], "--full: a run has its options already"),
        (["report", "--forse", "."], "No such option '--forse'"),
        (["audit", "--modell", "a.pt"], "No such option '--modell'. Did you mean '--model'?"),
        (["summary", "--outt", "a"], "No such option '--outt'. Did you mean '--out'?"),
        (["site", "chek"], "No such command 'chek'. Did you mean 'check'?;"),
        (["server", "start", ".", "--lisen", "a"], "No such option '--lisen'. Did you mean '--listen'?"),
        (["bench", "audit", "--models", "x"], "Invalid value for '--models'"),
        (["predict", "a"], "Missing argument 'IMAGES'; `fedkr predict --help` lists what there is"),
    ],
)
def test_a_flag_that_is_not_there_is_refused_in_one_line(
    fedkr: Run, studies: list[Study], arguments: list[str], line: str
) -> None:
    status, printed, errors = fedkr(*arguments)
    assert (status, printed, studies) == (2, "", [])
    assert errors.startswith("fedkr: error: ") and line in errors and errors.count("\n") == 1


def test_flags_may_stand_between_options(fedkr: Run, studies: list[Study]) -> None:
    status, printed, _ = fedkr("simulate", "seed=5", "--cfg", "job", "threads=2")
    assert (status, studies) == (0, [])
    assert printed.startswith("seed: 5\nthreads: 2\n")


def test_a_failed_study_does_not_end_the_sweep(fedkr: Run, studies: list[Study]) -> None:
    status, _, errors = fedkr("simulate", "-m", "seed=10,9,1")
    assert status == 2
    assert errors.splitlines() == ["fedkr: error: site died", "fedkr: error: bad file"]
    assert studies[-1].seed == 1


def test_an_interrupt_ends_the_sweep(fedkr: Run, studies: list[Study]) -> None:
    status, _, errors = fedkr("simulate", "-m", "seed=8,1")
    assert status == 130
    assert len(errors.splitlines()) == 1
    assert len(studies) == 1


@pytest.mark.parametrize(("seed", "status", "line"), [(9, 2, "bad file"), (10, 1, "site died")])
def test_what_stops_a_study_is_one_line(fedkr: Run, studies: list[Study], seed: int, status: int, line: str) -> None:
    assert fedkr("simulate", f"seed={seed}") == (status, "", f"fedkr: error: {line}\n")


def test_an_unexpected_error_is_one_line_that_names_the_file_with_the_traceback(
    fedkr: Run, studies: list[Study]
) -> None:
    status, _, errors = fedkr("simulate", "seed=7", "run_dir=here")
    found = re.fullmatch(r"fedkr: error: ValueError: two lines; traceback in (here/\S+)\n", errors)
    assert status == 1
    assert found
    assert "in run_study" in Path(found[1]).read_text()


def test_a_mistake_in_an_override_runs_nothing(fedkr: Run, studies: list[Study]) -> None:
    line = "fedkr: error: partition.alhpa: no such option; did you mean 'alpha'?\n"
    assert fedkr("simulate", "partition.alhpa=1") == (2, "", line)
    assert studies == []


@pytest.mark.parametrize("override", ["partition.alpha=-1", "strategy.compare=[nonesuch]"])
def test_a_study_that_cannot_be_is_told_in_one_line_and_no_other(
    fedkr: Run, studies: list[Study], override: str
) -> None:
    status, printed, errors = fedkr("simulate", override)
    assert (status, printed, studies) == (2, "", [])
    assert errors.startswith("fedkr: error: ") and len(errors.splitlines()) == 1


def test_one_bad_value_of_a_sweep_is_found_before_the_first_run(fedkr: Run, studies: list[Study]) -> None:
    status, _, errors = fedkr("simulate", "-m", "partition.alpha=0.1,abc")
    assert (status, studies) == (2, [])
    assert errors.startswith("fedkr: error: partition.alpha: Value 'abc'")


def test_cfg_prints_the_composed_study_and_runs_nothing(fedkr: Run, studies: list[Study]) -> None:
    status, printed, _ = fedkr("simulate", "--cfg", "job", "seed=5")
    assert (status, studies) == (0, [])
    assert printed.startswith("seed: 5\n")


def test_cfg_shows_what_the_rule_chose_and_of_what(fedkr: Run, studies: list[Study]) -> None:
    status, printed, _ = fedkr("simulate", "--cfg", "job", "dataset=breastmnist", "student.steps=7", "--resolve")
    assert (status, studies) == (0, [])
    shown = yaml.safe_load(printed)
    steps = {name: shown[name]["steps"] for name in ("generator", "teacher", "student")}
    assert steps == {"generator": 460, "teacher": 200, "student": 7}
    assert shown["strategy"]["options"]["fedkr"]["labels"] == "released"
    reason = printed.splitlines()[-1]
    assert reason.startswith("# by rule from 208 grey images a site of 28x28 in 2 classes, budget standard: generator")
    assert reason.endswith("; set: student.steps=7")


def test_cfg_of_a_part_shows_what_the_rule_chose(fedkr: Run, studies: list[Study]) -> None:
    status, printed, _ = fedkr("simulate", "-c", "job", "-p", "student", "dataset=breastmnist")
    assert (status, yaml.safe_load(printed)["steps"], studies) == (0, 200, [])
    status, printed, errors = fedkr("simulate", "-c", "job", "-p", "student.stepz")
    assert (status, printed) == (2, "")
    assert errors == "fedkr: error: --package student.stepz: no such part of a study; did you mean 'steps'?\n"


def test_cfg_of_a_part_is_hydras(fedkr: Run, studies: list[Study]) -> None:
    assert fedkr("simulate", "--cfg", "job", "--package", "partition.kind") == (0, "dirichlet\n", "")
    status, printed, errors = fedkr("simulate", "--multirun", "--cfg", "job", "seed=1,2")
    assert (status, printed, studies) == (2, "", [])
    assert "Only one of" in errors


def test_help_of_simulate_lists_the_groups_and_their_choices(fedkr: Run) -> None:
    status, printed, _ = fedkr("simulate", "--help")
    assert status == 0
    assert "backend: deploy, inline, ray" in printed
    assert "federation.sites=5" in printed


@pytest.mark.parametrize(("command", "words"), [("kr", "--ablation"), ("leakage", "fedkr leakage RUN")])
def test_help_of_a_command_with_the_same_options_is_its_own(fedkr: Run, command: str, words: str) -> None:
    status, printed, _ = fedkr(command, "--help")
    assert status == 0
    assert f"Usage: fedkr {command} [GROUP=CHOICE" in printed
    assert words in printed
    assert "federation.sites=5" in printed


def test_report_draws_the_run_again(fedkr: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    offer(monkeypatch, "simulations.study.run", redraw_report=lambda run: run / "report.html")
    assert fedkr("report", str(tmp_path)) == (0, f"{tmp_path}/report.html\n", "")


def test_export_writes_beside_the_run_unless_told_otherwise(
    fedkr: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    offer(monkeypatch, "simulations.export.command", export_run=lambda run, out: out)
    assert fedkr("export", str(tmp_path))[1] == f"{tmp_path}/export\n"
    assert fedkr("export", str(tmp_path), "--out", "there")[1] == "there\n"


def test_audit_takes_a_model_with_its_options_or_a_run_with_overrides(
    fedkr: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Any] = []
    offer(monkeypatch, "simulations.audit_run.outside", audit_outside=asked.append)
    offer(monkeypatch, "simulations.audit_run.again", audit_again=lambda run, overrides: asked.append((run, overrides)))
    assert fedkr("audit", "--model", "a.pt", "--data", "b.npz", "--steps", "7", "--mean", "0.1,0.2,0.3")[0] == 0
    assert fedkr("audit", str(tmp_path), "audit=full", "backend=ray")[0] == 0
    assert asked == [
        Request(Path("a.pt"), Path("b.npz"), steps=7, mean="0.1,0.2,0.3"),
        (tmp_path, ["audit=full", "backend=ray"]),
    ]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "give either a RUN folder, or --model FILE and --data NPZ"),
        (["--model", "a.pt"], "give either a RUN folder, or --model FILE and --data NPZ"),
        ([".", "--model", "a.pt", "--data", "b.npz"], "give either a RUN folder, or --model FILE and --data NPZ"),
        ([".", "--steps", "7"], "--steps: only with --model"),
    ],
)
def test_a_run_and_a_model_are_not_audited_at_once(fedkr: Run, arguments: list[str], line: str) -> None:
    status, _, errors = fedkr("audit", *arguments)
    assert status == 2 and line in errors


def test_predict_prints_csv(fedkr: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [{"image": "a, b.png", "class": "cat"}, {"image": "c.png", "class": "dog"}]
    offer(monkeypatch, "simulations.export.predict", predict=lambda model, images: (rows, []))
    assert fedkr("predict", str(tmp_path), str(tmp_path))[1] == 'image,class\n"a, b.png",cat\nc.png,dog\n'


def test_predict_prints_what_it_can_and_then_fails_for_the_rest(
    fedkr: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = ([{"image": "a.png", "class": "cat"}], ["b.png: no image", "c.png: no image"])
    offer(monkeypatch, "simulations.export.predict", predict=lambda model, images: found)
    status, printed, errors = fedkr("predict", str(tmp_path), str(tmp_path))
    assert (status, printed) == (2, "image,class\na.png,cat\n")
    assert errors.splitlines() == [
        "fedkr: warning: b.png: no image",
        "fedkr: warning: c.png: no image",
        f"fedkr: error: {tmp_path}: 2 of 3 files not classified, named above",
    ]


def test_site_check_prints_the_card(fedkr: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.touch()
    offer(monkeypatch, "sites.check", check_site=lambda path: {"name": path.stem, "problems": []})
    assert fedkr("site", "check", str(site)) == (0, '{\n  "name": "site",\n  "problems": []\n}\n', "")


def test_site_check_fails_where_a_study_would(fedkr: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.touch()
    offer(monkeypatch, "sites.check", check_site=lambda path: {"problems": ["one class", "no room"]})
    status, printed, errors = fedkr("site", "check", str(site))
    assert (status, json.loads(printed)) == (2, {"problems": ["one class", "no room"]})
    assert errors == f"fedkr: error: {site}: would not take part in a study: one class; no room\n"


def test_site_approve_prints_what_the_study_would_do(
    fedkr: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    study, site = tmp_path / "study.json", tmp_path / "site.yaml"
    study.touch()
    offer(monkeypatch, "sites.approval", approve_study=lambda study, site, yes: [study.stem, site.stem, yes])
    assert fedkr("site", "approve", str(study), str(site))[2] == f"fedkr: error: {site}: no such site file\n"
    site.touch()
    assert fedkr("site", "approve", str(study), str(site), "--yes", "d") == (0, "study\nsite\nd\n", "")


@pytest.mark.parametrize("command", [["report"], ["export"], ["site", "check"]])
def test_a_path_that_is_not_there_is_one_line(fedkr: Run, command: list[str]) -> None:
    status, _, errors = fedkr(*command, "nowhere")
    assert status == 2
    assert re.fullmatch(r"fedkr: error: nowhere: no such .*\n", errors)


def test_version_prints_the_packages_own(fedkr: Run) -> None:
    from fedkr import __version__

    assert fedkr("version") == (0, f"fedkr {__version__}\n", "")


class ARehearsal:
    change, seconds = "as it is", 1.0

    def as_row(self) -> dict[str, Any]:
        return {"change": self.change}


def test_a_rehearsal_is_of_a_runs_site_or_of_a_study_at_a_site_file(
    fedkr: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[Any, ...]] = []

    def rehearse(*arguments: Any) -> list[ARehearsal]:
        asked.append(arguments)
        return [ARehearsal()]

    offer(monkeypatch, "sites.rehearsal", lines_of=lambda found: ["told"])
    offer(monkeypatch, "simulations.rehearsal", rehearse_run=rehearse)
    offer(monkeypatch, "sites.hospital_rehearsal", rehearse_study=rehearse)
    (tmp_path / "run").mkdir()
    for name in ("study.json", "site.yaml"):
        (tmp_path / name).touch()
    status, out, err = fedkr("privacy", "run", "site-0", "--as-is", "--out", "found.json")
    assert (status, out) == (0, "told\n") and "rehearsed in 1 s" in err
    assert json.loads((tmp_path / "found.json").read_text()) == [{"change": "as it is"}]
    assert fedkr("privacy", "study.json", "site.yaml", "--references", "4", "--change", "a.b=1")[0] == 0
    assert fedkr("privacy", "study.json", "site.yaml")[0] == 0
    study, site = Path("study.json"), Path("site.yaml")
    assert asked == [(Path("run"), "site-0", 8, []), (study, site, 4, ["a.b=1"]), (study, site, 8, None)]
    assert fedkr("privacy", "study.json", "nowhere.yaml")[2] == "fedkr: error: nowhere.yaml: no such site file\n"
    assert fedkr("privacy", "nowhere", "site-0")[2] == "fedkr: error: nowhere: no such run folder or study\n"
