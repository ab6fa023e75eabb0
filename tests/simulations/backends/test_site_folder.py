import stat

import numpy as np
import yaml

from fedkr.config import DataConfig, Study, read_dataclass
from fedkr.data import load_source, partition_sites
from simulations.backends.site_folder import write_site_folders


def test_each_site_folder_holds_exactly_its_part_of_the_pool_and_the_global_test_set(tmp_path):
    study = Study(threads=1)
    source = load_source(study.data)
    parts = partition_sites(source.pool, study)
    folders = write_site_folders(study, tmp_path)
    assert [folder.name for folder in folders] == ["site-0", "site-1", "site-2"]
    for folder, indices in zip(folders, parts, strict=True):
        site = yaml.safe_load((folder / "site.yaml").read_text())
        own = load_source(read_dataclass(DataConfig, site["data"], "data"))
        assert np.array_equal(own.pool.images, source.pool.images[indices])
        assert np.array_equal(own.pool.labels, source.pool.labels[indices])
        assert np.array_equal(own.test.images, source.test.images)
        assert own.pool.classes == source.pool.classes
        assert (site["name"], site["threads"]) == (folder.name, 1)
        assert stat.S_IMODE((folder / "data.npz").stat().st_mode) == 0o600
