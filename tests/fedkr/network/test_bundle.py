import tomllib
import zipfile
from io import BytesIO

import pytest

from fedkr.config import Study, parse_study
from fedkr.errors import StudyFailedError
from fedkr.network import bundle


@pytest.mark.parametrize("text", ['C:\\data "A"', "Hôpital Zürich 🏥", "'[table]' = #"])
def test_any_text_survives_the_run_config(tmp_path, text):
    study = Study(out=text)
    study.generator.options = {"note": text}
    path = bundle.write_toml(tmp_path / "run.toml", bundle.run_config(study, tmp_path))
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    assert parse_study(values["study"]) == study


@pytest.mark.parametrize("text", ['C:\\data "A"', "Hôpital Zürich 🏥", "tab\tnew\nline\x00\x7f\x1b", "'[table]' = #"])
def test_any_text_survives_in_a_toml_file(tmp_path, text):
    assert bundle.write_toml(tmp_path / "t.toml", {"x": text, "y": True})
    assert tomllib.loads((tmp_path / "t.toml").read_text(encoding="utf-8")) == {"x": text, "y": True}


def test_the_bundle_holds_the_shim_and_no_dependencies_and_is_the_same_in_every_build(tmp_path):
    built = bundle.build_bundle(bundle.installed())
    with zipfile.ZipFile(BytesIO(built.content)) as fab:
        assert set(fab.namelist()) == {"pyproject.toml", "fedkr_app.py", ".info/CONTENT"}
        project = tomllib.loads(fab.read("pyproject.toml").decode())["project"]
    assert "dependencies" not in project and "optional-dependencies" not in project
    assert built.app == f"@fedkr/fedkr=={project['version']}"
    assert bundle.build_bundle(bundle.installed()).digest == built.digest


def test_a_shim_that_is_no_app_is_not_built(tmp_path):
    (tmp_path / "broken.py").write_text("client_app = None +")
    with pytest.raises(StudyFailedError, match="`flwr build` failed: "):
        bundle.build_bundle(tmp_path / "broken.py")
