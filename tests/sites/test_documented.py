"""The site file of sites/README.md is one, as it stands there."""

import re
from pathlib import Path

import sites
from sites.plain_yaml import read_yaml
from sites.workspace import read_site_file

PAGE = (Path(sites.__file__).parent / "README.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_documented_site_file_is_read_and_every_other_block_is_yaml(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text(BLOCKS[0])
    site = read_site_file(path)
    assert (site.name, site.policy.privacy.delta, site.data.classes) == ("hospital-a", 1e-5, ["normal", "pneumonia"])
    assert site.studies.bounds["student.steps"] == [1, 5000]
    for block in BLOCKS[1:]:
        path.write_text(block)
        assert set(read_yaml(path)) <= {"policy", "connection"}
