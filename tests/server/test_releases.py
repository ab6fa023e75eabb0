"""The sites' releases: asked for once, each checked and stored as it lands."""

import pytest
from flwr.app import Array

from fedkr import wire
from fedkr.errors import StudyFailedError
from fedkr.release import Release
from fedkr.stages import read_artifact
from server.releases import Releases


@pytest.fixture
def collect(federation):
    """Return a function that collects all releases of a federation with these answers to ``train.release``."""

    def run(answer, **settings):
        grid, coordinator = federation({wire.RELEASE: answer}, **settings)
        return grid, coordinator, Releases(coordinator).collect()

    return run


@pytest.fixture
def honest(release_of, study):
    def answer(site, content):
        slices = study.recycle.rounds // study.recycle.exchanges
        return wire.release_reply(release_of(site, int(content[wire.CONFIG]["round"]), slices=slices), 2.5)

    return answer


def test_each_release_is_a_file_of_its_own_with_what_it_cost(collect, honest):
    _, _, (files,) = collect(honest)
    assert list(files) == ["site-0", "site-1", "site-2"]
    for site, path in files.items():
        stored = read_artifact(path)
        assert Release.from_artifact(stored).manifest["site"] == site
        assert stored.info["seconds"] == 2.5
        assert stored.info["bytes_up"] >= 8 * 64 + 8 * 3 * 2


@pytest.mark.parametrize(
    ("manifest", "seconds"),
    [
        ({"scores": 5}, 2.5), ({"left_out": "rare"}, 2.5), ({"recalls": [7.0]}, 2.5), ({}, float("nan")), ({}, -1.0),
        ({"left_out": ["no class"]}, 2.5), ({"recalls": [0.5]}, 2.5), ({}, 1e12),
        ({"quality": {"precision": 0.5, "recall": 0.5, "recognised": [0.5]}}, 2.5),
    ],
)  # fmt: skip
def test_a_site_whose_manifest_or_seconds_make_no_sense_is_lost_and_the_others_go_on(
    collect, honest, release_of, manifest, seconds
):
    def answer(site, content):
        if site != "site-1":
            return honest(site, content)
        return wire.release_reply(release_of(site, 1, **manifest), seconds)

    _, coordinator, (files,) = collect(answer, min_sites=2)
    assert list(files) == ["site-0", "site-2"] and list(coordinator.missing) == ["site-1"]


@pytest.mark.parametrize("slices", [1, 8])
def test_a_release_of_other_slices_than_the_study_asks_for_loses_its_site(collect, honest, release_of, slices):
    def answer(site, content):
        if site != "site-1":
            return honest(site, content)
        return wire.release_reply(release_of(site, 1, slices=slices), 2.5)

    _, coordinator, (files,) = collect(answer, min_sites=2)
    assert list(files) == ["site-0", "site-2"]
    assert coordinator.missing["site-1"] == f"manifest: {slices} slices, the study asks for 2"


def test_every_round_is_an_exchange_of_its_own_when_the_study_says_each(collect, honest, study):
    study.recycle.exchange = "each"
    grid, _, exchanges = collect(honest)
    assert len(grid.asked) == 2 * 3
    assert [len(files) for files in exchanges] == [3, 3]


def test_a_run_that_goes_on_asks_only_the_sites_whose_release_is_missing(collect, honest):
    with pytest.raises(StudyFailedError):
        collect(lambda site, content: None if site == "site-2" else honest(site, content), deadline=0.05)
    grid, _, (files,) = collect(honest, deadline=30.0)
    assert grid.asked == [(wire.RELEASE, "site-2")]
    assert list(files) == ["site-0", "site-1", "site-2"]


def test_two_who_learn_from_the_releases_ask_the_sites_once(federation, honest):
    grid, coordinator = federation({wire.RELEASE: honest})
    releases = Releases(coordinator)
    for _ in range(2):
        releases.ask()
    assert releases.collect() == releases.collect()
    assert len(grid.asked) == 3


def broken(content, name, array):
    content[wire.SHARED][name] = array
    return content


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda c: broken(c, "images", Array("uint8", (8, 8, 8, 1), "numpy.ndarray", b"no array")), "no array"),
        (lambda c: broken(c, "images", Array("uint8", (8, 8, 8, 1), "torch", b"")), "no array"),
        (lambda c: c.pop(wire.SHARED) and c, "lacks 'images'"),
        (lambda c: c.pop(wire.MANIFEST) and c, "'manifest' is missing"),
    ],
)
def test_a_reply_that_is_no_release_loses_its_site_only(collect, honest, spoil, named):
    def answer(site, content):
        return spoil(honest(site, content)) if site == "site-1" else honest(site, content)

    _, coordinator, (files,) = collect(answer, min_sites=2)
    assert list(files) == ["site-0", "site-2"]
    assert named in coordinator.missing["site-1"]


def test_a_release_of_another_shape_is_refused_by_name(collect, honest):
    def answer(site, content):
        reply = honest(site, content)
        if site == "site-1":
            reply[wire.SHARED]["soft-labels"] = Array(reply[wire.SHARED]["soft-labels"].numpy()[:, :2])
        return reply

    _, coordinator, _ = collect(answer, min_sites=2)
    assert coordinator.missing["site-1"].startswith("release of site-1: soft labels must be float16 [8, 3]")


def test_what_the_server_counts_is_what_it_got_not_what_the_manifest_says(collect, release_of):
    def answer(site, content):
        release = release_of(site)
        del release.manifest["left_out"]
        return wire.release_reply(Release(release.images, release.soft_labels, release.manifest | {"count": 9999}), 1.0)

    _, _, (files,) = collect(answer)
    info = read_artifact(files["site-0"]).info
    assert (info["count"], info["left_out"]) == (8, [])


def test_a_federation_in_which_nobody_may_release_says_so(federation):
    _, coordinator = federation()
    for member in coordinator.members.values():
        member.card["allow"] = ["metrics"]
    with pytest.raises(StudyFailedError, match="no site released anything"):
        Releases(coordinator).collect()


def test_the_server_holds_no_more_than_two_releases_at_a_time(collect, honest):
    grid, _, _ = collect(honest, sites=6)
    assert grid.most_alive <= 2
