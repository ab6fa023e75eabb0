"""A hospital's folder of files: what gives no image is told to the site, and to nobody else."""

import logging

import numpy as np
import pytest
import yaml
from PIL import Image

from fedkr.errors import UserError
from sites.admission import tell_of_data
from sites.check import check_site
from sites.limits import folder_bytes
from sites.workspace import read_site_file, site_source


@pytest.fixture
def hospital(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("healthy", "ill"):
        (tmp_path / "scans" / name).mkdir(parents=True)
        for index in range(40):
            pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "scans" / name / f"{index}.png")
    for index in range(3):
        (tmp_path / "scans" / "ill" / f"smith-john{index}.png").write_bytes(b"")
    values = {"name": "st-mary", "workspace": "work", "data": {"name": "folder", "path": "scans"}, "device": "cpu"}
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(values | {"policy": {"min_class_count": 1}}))
    return tmp_path / "site.yaml"


def test_the_check_shows_it_and_leaves_nothing_behind(hospital):
    card = check_site(hospital)
    assert card["warnings"][0].startswith("3 of 83 files cannot be read and are left out")
    assert [line.split(":")[0] for line in card["left_out"]] == [f"ill/smith-john{index}.png" for index in range(3)]
    assert card["problems"] == [] and "smith" not in str(card["server_sees"])
    assert sorted(path.name for path in hospital.parent.iterdir()) == ["scans", "site.yaml"]


def test_a_message_is_logged_with_counts_and_the_workspace_has_the_names(hospital, caplog):
    caplog.set_level(logging.WARNING)
    file = read_site_file(hospital)
    tell_of_data(file)
    assert "3 of 83 files cannot be read" in caplog.text and "smith" not in caplog.text
    assert "decoded/left-out.txt" in caplog.text
    assert "ill/smith-john2.png: " in (hospital.parent / "work" / "decoded" / "left-out.txt").read_text()


def test_decoded_images_count_as_the_sites_disk(hospital):
    file = read_site_file(hospital)
    assert folder_bytes(hospital.parent / "work") == 0
    assert len(site_source(file).pool) == 64
    assert folder_bytes(hospital.parent / "work") > 80 * 64


def test_too_few_readable_files_refuse_the_site_with_the_list(hospital):
    for index in range(3, 9):
        (hospital.parent / "scans" / "ill" / f"smith-john{index}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"9 of 89 files.*least_usable=0.95.*smith-john0.png.*smith-john8.png"):
        check_site(hospital)
    with pytest.raises(UserError, match="9 of 89 files"):
        tell_of_data(read_site_file(hospital))
