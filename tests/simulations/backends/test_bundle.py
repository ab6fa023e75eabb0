import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from fedkr.config import Study, parse_study
from simulations.backends import bundle


@pytest.mark.parametrize("text", ['C:\\data "A"', "Hôpital Zürich 🏥", "tab\tnew\nline\x00\x7f\x1b", "'[table]' = #"])
def test_any_text_survives_the_run_config(tmp_path, text):
    study = Study(out=text)
    study.generator.options = {"note": text}
    path = bundle.write_run_config(tmp_path / "run.toml", study, tmp_path)
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    assert parse_study(values["study"]) == study
    assert bundle.write_toml(tmp_path / "t.toml", {"x": text, "y": True})
    assert tomllib.loads((tmp_path / "t.toml").read_text(encoding="utf-8")) == {"x": text, "y": True}


def test_flower_accepts_the_shim_and_the_bundle_holds_nothing_else(tmp_path):
    folder = bundle.write_bundle(tmp_path / "app", bundle.installed())
    flwr = Path(sys.executable).with_name("flwr")
    built = subprocess.run([flwr, "build", "--app", folder], cwd=tmp_path, text=True, capture_output=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (fab,) = tmp_path.glob("*.fab")
    assert set(zipfile.ZipFile(fab).namelist()) == {"pyproject.toml", "fedkr_app.py", ".info/CONTENT"}
