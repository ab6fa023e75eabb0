"""What was left out of the data stands in the run's results, which the report shows, and its files in the folder."""

import numpy as np
from PIL import Image

from fedkr.config import DataConfig, Study
from fedkr.data.listing import LEFT_OUT_FILE
from simulations import run_folder
from simulations.run_folder import RunFolder


def scans(root):
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for index in range(30):
            Image.fromarray(np.full((8, 8), index, np.uint8)).save(root / name / f"{index}.png")
    (root / "a" / "smith.png").write_bytes(b"")
    return str(root)


def test_a_run_names_the_files_on_its_terminal_and_lists_them_in_its_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run_folder, "_check_models", lambda study, source: None)
    data = DataConfig(name="folder", path=scans(tmp_path / "scans"))
    study = Study(device="cpu", run_dir=str(tmp_path / "run"), data=data)
    study.strategy.compare, study.partition.kind, study.federation.sites = ["local"], "iid", 2
    run = RunFolder.of_study(study)
    said = capsys.readouterr().out
    assert "left out: a/smith.png: " in said
    with run.at_work({}):
        pass
    assert (tmp_path / "run" / LEFT_OUT_FILE).read_text().startswith("a/smith.png: ")
