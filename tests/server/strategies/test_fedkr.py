"""The strategy of releases: checked and stored as they land, asked for once, trained on when all are in."""

import pytest
from flwr.app import Array, ArrayRecord

from fedkr import wire
from fedkr.learning.runtime import Runtime
from fedkr.progress import SilentProgress
from fedkr.release import Release
from fedkr.stages import read_artifact
from server.failure import StudyFailedError
from server.strategies.fedkr import FedKR


@pytest.fixture
def start(federation):
    """Return a function that runs the strategy over a federation with these answers to ``train.release``."""

    def run(answer, train=True, **settings):
        grid, coordinator = federation({wire.RELEASE: answer}, **settings)
        strategy = FedKR(coordinator, Runtime.choose("cpu", "float32", 1), SilentProgress())
        if not train:
            strategy.train = lambda: read_artifact(next(iter(strategy.files[0].values())))
        strategy.start(grid, ArrayRecord(), num_rounds=strategy.exchanges)
        return grid, strategy

    return run


@pytest.fixture
def honest(release_of):
    def answer(site, content):
        return wire.release_reply(release_of(site, int(content[wire.CONFIG]["round"])), 2.5)

    return answer


def test_each_release_is_a_file_of_its_own_with_what_it_cost(start, honest):
    _, strategy = start(honest, train=False)
    (files,) = strategy.files
    assert list(files) == ["site-0", "site-1", "site-2"]
    for site, path in files.items():
        stored = read_artifact(path)
        assert Release.from_artifact(stored).manifest["site"] == site
        assert stored.info["seconds"] == 2.5
        assert stored.info["bytes_up"] >= 8 * 64 + 8 * 3 * 2


def test_every_round_is_an_exchange_of_its_own_when_the_study_says_each(start, honest, study):
    study.recycle.exchange = "each"
    grid, strategy = start(honest, train=False)
    assert len(grid.asked) == 2 * 3
    assert [len(files) for files in strategy.files] == [3, 3]


def test_a_run_that_goes_on_asks_only_the_sites_whose_release_is_missing(start, honest):
    with pytest.raises(StudyFailedError):
        start(lambda site, content: None if site == "site-2" else honest(site, content), deadline=0.05)
    grid, strategy = start(honest, train=False, deadline=30.0)
    assert grid.asked == [(wire.RELEASE, "site-2")]
    assert list(strategy.files[0]) == ["site-0", "site-1", "site-2"]


def test_the_student_is_trained_once_and_read_afterwards(start, honest, monkeypatch):
    _, strategy = start(honest)
    first = strategy.train()
    monkeypatch.setattr("server.strategies.fedkr.train_student", lambda *a: pytest.fail("trained again"))
    assert strategy.train().tensors.keys() == first.tensors.keys()


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
def test_a_reply_that_is_no_release_loses_its_site_only(start, honest, spoil, named):
    def answer(site, content):
        return spoil(honest(site, content)) if site == "site-1" else honest(site, content)

    _, strategy = start(answer, train=False, min_sites=2)
    assert list(strategy.files[0]) == ["site-0", "site-2"]
    assert named in strategy.coordinator.missing["site-1"]


def test_a_release_of_another_shape_is_refused_by_name(start, honest):
    def answer(site, content):
        reply = honest(site, content)
        if site == "site-1":
            reply[wire.SHARED]["soft-labels"] = Array(reply[wire.SHARED]["soft-labels"].numpy()[:, :2])
        return reply

    _, strategy = start(answer, train=False, min_sites=2)
    assert strategy.coordinator.missing["site-1"].startswith("release of site-1: soft labels must be float16 [8, 3]")


def test_what_the_server_counts_is_what_it_got_not_what_the_manifest_says(start, release_of):
    def answer(site, content):
        release = release_of(site)
        del release.manifest["left_out"]
        return wire.release_reply(Release(release.images, release.soft_labels, release.manifest | {"count": 9999}), 1.0)

    _, strategy = start(answer, train=False)
    info = read_artifact(strategy.files[0]["site-0"]).info
    assert (info["count"], info["left_out"]) == (8, [])


def test_a_federation_in_which_nobody_may_release_says_so(federation):
    grid, coordinator = federation()
    for member in coordinator.members.values():
        member.card["allow"] = ["metrics"]
    strategy = FedKR(coordinator, Runtime.choose("cpu", "float32", 1), SilentProgress())
    with pytest.raises(StudyFailedError, match="no site released anything"):
        strategy.start(grid, ArrayRecord())


def test_the_server_holds_no_more_than_two_releases_at_a_time(start, honest):
    grid, _ = start(honest, train=False, sites=6)
    assert grid.most_alive <= 2
