"""A site as its machine knows it: its file, its errors, and whose images it opens."""

import dataclasses
import json
import math

import numpy as np
import pytest
import yaml

from fedkr import wire
from fedkr.config import Study, parse_study
from fedkr.errors import UserError
from sites.admission import permit
from sites.policy import SIMULATED, Policy
from sites.workspace import open_site, read_site_file, site_folder


@pytest.fixture
def study(tmp_path):
    study = Study(device="cpu", precision="float32", run_dir=str(tmp_path / "run"))
    study.data.limit = 200
    return study


@pytest.fixture
def written(tmp_path):
    """Return a function that writes text, or changed values of a valid file, as a site file."""

    def write(text=None, **values):
        usual = {"name": "st-mary", "workspace": "work", "data": {"name": "npz", "path": "images.npz"}}
        path = tmp_path / "site.yaml"
        path.write_text(yaml.safe_dump(usual | values) if text is None else text)
        return path

    return write


def test_paths_in_a_site_file_are_relative_to_the_file(written, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    site = read_site_file(written())
    assert site.workspace == str(tmp_path / "work")
    assert site.data.path == str(tmp_path / "images.npz")
    assert read_site_file(written(workspace="/srv/work")).workspace == "/srv/work"


def test_a_tilde_in_a_site_file_is_the_users_home(written, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    site = read_site_file(written(workspace="~/work", data={"name": "npz", "path": "~/images.npz"}))
    assert site.workspace == str(tmp_path / "home" / "work")
    assert site.data.path == str(tmp_path / "home" / "images.npz")


def test_what_a_site_file_does_not_say_is_the_careful_default(written):
    site = read_site_file(written())
    assert (site.device, site.threads) == ("auto", 1)
    assert site.policy == Policy()
    assert "weights" not in site.policy.allow
    assert not site.policy.exact_counts


@pytest.mark.parametrize(
    ("text", "values", "named"),
    [
        ("name: [", {}, "not valid YAML"),
        ("", {}, "field 'name' is missing"),
        ("- a\n- b\n", {}, "field 'name' is missing"),
        ("name: a\nworkspace: b\n", {}, "field 'data' is missing"),
        (None, {"nmae": "x"}, r"\.nmae: no such option; did you mean 'name'"),
        (None, {"name": 3}, r"\.name=3: expected str, got int"),
        (None, {"data": {"pth": "x"}}, r"\.data\.pth: no such option; did you mean 'path'"),
        (None, {"policy": {"allow": ["weigths"]}}, r"policy\.allow='weigths': unknown"),
        (None, {"policy": {"recipients": "everyone"}}, r"policy\.recipients='everyone'"),
        (None, {"policy": {"max_images": 0}}, r"policy\.max_images and policy\.min_class_count must be at least 1"),
        (None, {"policy": {"exact_counts": "no"}}, r"policy\.exact_counts='no': expected bool"),
        (None, {"policy": {"max_models": 10**9}}, r"policy\.max_models=1000000000: must be at most"),
        (None, {"threads": 0}, r"threads=0: must be at least 1"),
        (None, {"workspace": ""}, "workspace is empty"),
        (None, {"workspace": "~nobody-of-that-name/work"}, "no such user's home"),
        (None, {"data": {"name": "npz", "path": "a", "flip": "diagonal"}}, r"data\.flip='diagonal'"),
        (None, {"connection": {"publishers": {"anna": 7}}}, r"publishers\.anna=7: expected str"),
        (None, {"connection": {"port": 10**6}}, r"connection\.port=1000000"),
        (None, {"studies": {"hours": math.inf}}, r"studies\.hours=inf: must be finite"),
        # What YAML's own reader raises is seldom a YAMLError.
        ("a: !!int x\n", {}, "not valid YAML"),
        ("a: !!float ''\n", {}, "not valid YAML"),
        ("a: !!bool x\n", {}, "not valid YAML"),
        ("a: 2001-99-99\n", {}, "not valid YAML"),
        (f"a: {'9' * 5000}\n", {}, "not valid YAML"),
        ("[" * 5000, {}, "not valid YAML"),
        # Ten such lines unfold to more than memory holds.
        ("a: &a [x, x]\nb: [*a, *a]\n", {}, r"not valid YAML \(an alias"),
        ("name: 2001-01-01\n", {}, "name: expected text"),
        ('name: "a\\0"\n', {}, "holds a character that cannot be printed"),
        ("# " + "a" * 60_000, {}, "more than 30000 bytes"),
    ],
)
def test_what_is_wrong_with_a_site_file_is_one_line_that_names_the_file(written, text, values, named):
    path = written(text, **values)
    with pytest.raises(UserError, match=named) as caught:
        read_site_file(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_site_file_in_another_encoding_is_one_line(written):
    path = written()
    path.write_bytes("name: Sankt Jürgen\n".encode("latin-1"))
    with pytest.raises(UserError, match="not valid YAML"):
        read_site_file(path)


def test_a_site_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.yaml: cannot be read \(No such file or directory\)"):
        read_site_file(tmp_path / "absent.yaml")


def test_a_hospitals_node_has_the_policy_and_the_folder_of_its_file(written, tmp_path, study):
    config = {"site-file": str(written(policy={"max_images": 7})), "partition-id": 0}
    assert permit(config, wire.DESCRIBE, study.to_json())[0].max_images == 7
    assert site_folder(config, study.to_json()) == tmp_path / "work"


def test_a_simulated_node_has_the_open_policy_and_a_folder_in_the_run(study, tmp_path):
    assert permit({"partition-id": 2}, wire.DESCRIBE, study.to_json()) == (SIMULATED, None)
    assert site_folder({"partition-id": 2}, study.to_json()) == tmp_path / "run" / "sites" / "site-2"


def test_a_node_without_a_site_says_how_to_give_it_one(study):
    with pytest.raises(UserError, match=r"this node has no site: start it with --node-config 'site-file="):
        open_site({}, study)


def pixels(site):
    splits = (site.data.train, site.data.val, site.data.test, site.data.holdout)
    return {image.tobytes() for split in splits for image in split.images}


def test_a_hospital_opens_the_images_of_its_own_file_whatever_the_servers_study_names(hospital, study, tmp_path):
    own = {image.tobytes() for image in np.load(tmp_path / "images.npz")["train_images"]}
    config = {"site-file": str(hospital()), "partition-id": 1}
    other = dataclasses.replace(study, seed=1)
    other.data = dataclasses.replace(study.data, name="npz", path="/etc/passwd", root="/", classes=["x"])
    for asked in (study, other):
        site = open_site(config, asked)
        assert site.name == "st-mary"
        assert site.data.train.classes == ("healthy", "ill", "rare")
        assert pixels(site) <= own
        assert len(site.global_test) == 12


def test_a_hospital_computes_where_its_own_file_says_and_not_where_the_study_says(hospital, study, tmp_path):
    asked = dataclasses.replace(study, device="cuda:7", threads=64, run_dir="/somewhere/else")
    site = open_site({"site-file": str(hospital())}, asked)
    assert site.runtime.device.type == "cpu"
    assert site.study.threads == 1
    assert site.pipeline.stages.folder == tmp_path / "work" / "stages"


def test_the_sites_policy_raises_the_least_count_of_a_class(hospital, study):
    site = open_site({"site-file": str(hospital(min_class_count=5))}, study)
    assert site.pipeline.left_out == ["rare"]


def test_a_policy_that_was_edited_holds_for_the_very_next_message(hospital, study):
    before = open_site({"site-file": str(hospital(min_class_count=1))}, study)
    after = open_site({"site-file": str(hospital(min_class_count=5))}, study)
    assert (before.pipeline.left_out, after.pipeline.left_out) == ([], ["rare"])
    assert after.policy.min_class_count == 5


def test_simulated_sites_divide_the_pool_between_them(study):
    sites = [open_site({"partition-id": i, "num-partitions": 3}, study) for i in range(3)]
    assert [site.name for site in sites] == ["site-0", "site-1", "site-2"]
    assert sum(len(getattr(s.data, n)) for s in sites for n in ("train", "val", "test", "holdout")) <= 200
    # Digits has a few doubles, so almost no picture is at two sites.
    assert len(pixels(sites[0]) & pixels(sites[1])) <= 2
    assert all(site.policy == SIMULATED for site in sites)


def test_a_site_stays_open_for_the_next_message_of_the_same_study_only(study):
    first = open_site({"partition-id": 0}, study)
    assert open_site({"partition-id": 0}, parse_study(study.to_json())) is first
    assert open_site({"partition-id": 0}, dataclasses.replace(study, seed=1)) is not first


def test_a_study_that_fits_no_dataclass_is_refused_before_any_data_is_read(study):
    values = json.loads(study.to_json())
    values["teacher"]["lr"] = -1.0
    with pytest.raises(UserError, match=r"teacher\.lr=-1\.0"):
        parse_study(json.dumps(values))
