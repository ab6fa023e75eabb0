import dataclasses

import numpy as np
import pytest
from sklearn.datasets import load_digits

from fedkr.audit.attacks.observed import Observed
from fedkr.audit.challenge import build_challenge
from fedkr.audit.run_release import ReferenceReleases, audit_release, released_part
from fedkr.audit.subject import Subject
from fedkr.config import CANARY_KINDS, RELEASE_ATTACKS, AuditConfig
from fedkr.data.distances import LARGEST_SIDE, small_pixels
from fedkr.data.images import CanarySet, ImageSet
from fedkr.errors import UserError
from fedkr.release import Release, SoftSet

CLASSES = tuple(map(str, range(10)))
CONFIG = AuditConfig(bootstrap=200, permutations=40)


def release(images):
    soft = np.full((len(images), 10), 0.1, np.float16)
    return Release(images, soft, {"slices": 1})


def digits(seed):
    """Shuffled digits in four parts: members, holdout, population, and fresh images of the same distribution."""
    data = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)[..., None]
    order = np.random.default_rng(seed).permutation(len(images))
    parts = np.split(order, [400, 800, 1000])
    return [ImageSet(images[part], data.target[part].astype(np.int64), CLASSES) for part in parts]


def audited(released, members, holdout, population, config=CONFIG):
    challenge = build_challenge(members, holdout)
    report = audit_release([release(released)], population, Subject("release", "site-0", challenge, config, 0))
    return {row["attack"]: row for row in report.rows}, report


def test_copies_of_members_as_five_percent_of_a_release_show_in_the_tpr_at_one_percent_fpr():
    members, holdout, population, fresh = digits(0)
    rows, _ = audited(np.concatenate([fresh.images[:380], members.images[:20]]), members, holdout, population)
    for attack in ("distance-pixels", "distance-features"):
        assert rows[attack]["tpr_at_fpr_0.01"] >= 0.04, attack
        assert rows[attack]["tpr_at_fpr_0.01_low"] > 0.01, attack
        assert abs(rows[attack]["auc"] - 0.5) < 0.08, attack


def test_copies_of_members_as_half_of_a_release_show_in_the_auc():
    members, holdout, population, fresh = digits(1)
    rows, _ = audited(np.concatenate([fresh.images[:400], members.images]), members, holdout, population)
    for attack in ("distance-pixels", "distance-features", "monte-carlo"):
        assert rows[attack]["auc"] >= 0.7, attack
    assert rows["domias"]["auc_low"] > 0.5


def test_intervals_on_a_release_of_other_peoples_images_cover_one_half():
    covered = 0
    for seed in range(10):
        members, holdout, population, fresh = digits(100 + seed)
        rows, _ = audited(fresh.images[:100], members, holdout, population, AuditConfig(bootstrap=50, permutations=1))
        headline = rows["distance-features"]
        covered += headline["auc_low"] <= 0.5 <= headline["auc_high"]
    assert covered >= 8


def test_another_networks_features_decide_distances_in_features_and_those_alone():
    members, holdout, population, fresh = digits(3)
    challenge, released = build_challenge(members, holdout), release(fresh.images[:60])
    subject = Subject("release", "site-0", challenge, dataclasses.replace(CONFIG, bootstrap=10), 0)

    def bright(images):
        return small_pixels(images)[:, ::7] ** 2

    usual, other = (audit_release([released], population, subject, features_of=f) for f in (small_pixels, bright))
    same = {name: np.array_equal(usual.scores[name], other.scores[name]) for name in usual.scores}
    assert same == {name: name == "distance-pixels" for name in RELEASE_ATTACKS}
    copied = audit_release([release(members.images[:200])], population, subject, features_of=bright)
    nearest = copied.scores["distance-features"][:200]
    assert (nearest == nearest.max()).all(), "a copy is at no distance in any features"


def test_the_report_names_every_release_attack_its_adversary_and_one_headline():
    members, holdout, population, fresh = digits(2)
    rows, report = audited(fresh.images[:50], members, holdout, population)
    assert tuple(rows) == RELEASE_ATTACKS
    assert {(row["target"], row["adversary"], row["references"]) for row in rows.values()} == {
        ("release", "server", "none")
    }
    assert [attack for attack, row in rows.items() if row["headline"]] == ["distance-features"]
    assert all(len(scores) == 800 for scores in report.scores.values())
    assert not np.isnan(np.concatenate(list(report.scores.values()))).any()


def soft(images, labels, certainty=0.9):
    """Return a soft-labelled set of images with the true labels."""
    targets = np.full((len(images), 10), (1 - certainty) / 9, np.float16)
    targets[np.arange(len(images)), labels] = certainty
    return SoftSet(images, targets)


def pipelines(members, holdout, fresh, copies, seed=0, count=4):
    """References like a release that copies some of its images: each has fresh ones and copies some of its half."""
    rng = np.random.default_rng(seed)
    pool = np.concatenate([members.images, holdout.images])
    halves = rng.permuted(np.repeat([[True], [False]], count // 2, axis=0).repeat(len(pool), axis=1), axis=0)
    sets = []
    for half in halves:
        drawn = [fresh.images[rng.permutation(len(fresh))[:380]], pool[rng.permutation(np.flatnonzero(half))[:copies]]]
        images = np.concatenate(drawn)
        sets.append(lambda images=images: soft(images, np.zeros(len(images), np.int64)))
    return ReferenceReleases("pipeline", sets, halves)


CALIBRATED = ("calibrated-pixels", "calibrated-features", "fused")


def calibrated_audit(seed, copies, config=CONFIG):
    """Audit a release with copies of so many members, by other sites' releases and by pipelines, with a classifier."""
    members, holdout, population, fresh = digits(seed)
    mine = np.concatenate([fresh.images[:380], members.images[:copies]])
    challenge = build_challenge(members, holdout)
    natural, rng = challenge.natural, np.random.default_rng(seed)
    others = ReferenceReleases(
        "released", [lambda: soft(population.images, population.labels)], np.zeros((1, natural), bool)
    )
    alike = pipelines(challenge.members, challenge.nonmembers, fresh, copies, seed)
    said = Observed(rng.normal(size=(natural, 1)), rng.normal(size=(4, natural, 1)), alike.membership)
    subject = Subject("release", "site-0", challenge, config, seed)
    report = audit_release([release(mine)], population, subject, [others, alike], said)
    return {(row["attack"], row["references"]): row for row in report.rows}, report


def test_planted_copies_are_found_by_every_calibrated_attack_and_by_the_two_sample_test():
    rows, report = calibrated_audit(0, copies=120)
    for attack in CALIBRATED:
        row = rows[attack, "pipeline"]
        assert row["auc_low"] > 0.5 and row["tpr_at_fpr_0.01_low"] > 0.01, attack
    for attack in CALIBRATED[:2]:
        assert rows[attack, "released"]["auc_low"] > 0.5, attack
    assert report.two_sample == [{"site": "site-0", "p_value": 1 / 205}]
    assert report.headline["attack"] == "fused" and report.headline["references"] == "pipeline"
    assert (rows["fused", "pipeline"]["others"], rows["calibrated-pixels", "released"]["others"]) == (False, True)


def test_a_release_of_other_peoples_images_is_not_accused_by_any_attack():
    less = AuditConfig(bootstrap=1, permutations=4)
    accused = {}
    for seed in range(6):
        rows, report = calibrated_audit(200 + seed, copies=0, config=less)
        figures = {key: row["auc"] for key, row in rows.items()}
        # One-sided at 5 %: 400 members against 400 non-members.
        found = {key: auc > 0.5 + 1.645 * 0.0204 for key, auc in figures.items()}
        found["two-sample", ""] = report.two_sample[0]["p_value"] <= 0.05
        for key, hit in found.items():
            accused[key] = accused.get(key, 0) + hit
    # 5 % of 6 is 0.3; more than 2 come in 1 of 400 cases.
    assert max(accused.values()) <= 2, accused
    assert len(accused) == len(RELEASE_ATTACKS) + 2 * 3 + 1 + 1


def test_soft_labels_that_know_members_better_are_found_where_the_images_tell_nothing():
    members, holdout, population, _ = digits(6)
    challenge = build_challenge(members, holdout)
    pool = np.concatenate([challenge.members.images, challenge.nonmembers.images])
    labels = np.concatenate([challenge.members.labels, challenge.nonmembers.labels])
    # Every candidate is released; labels are sure of the members only.
    certain = np.where(np.arange(len(pool)) < len(challenge.members), 0.9, 0.6)[:, None]
    targets = ((1 - certain) / 9 + np.eye(10)[labels] * (certain - (1 - certain) / 9)).astype(np.float16)
    own = Release(pool, targets, {"slices": 1})
    others = ReferenceReleases("released", [lambda: soft(pool, labels)], np.zeros((1, len(pool)), bool))
    report = audit_release([own], population, Subject("release", "site-0", challenge, CONFIG, 0), [others])
    rows = {(row["attack"], row["references"]): row for row in report.rows}
    assert rows["soft-label-neighbours", "released"]["auc_low"] > 0.5
    assert rows["calibrated-pixels", "released"]["auc"] == 0.5
    assert report.headline["attack"] == "calibrated-pixels"


def test_canaries_copied_into_a_release_are_told_from_those_left_out():
    members, holdout, population, fresh = digits(3)
    included = np.arange(40) % 2 == 0
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    canaries = CanarySet(images, np.zeros(40, np.int64), included, np.ones(40, np.int64))
    challenge = build_challenge(members, holdout)
    challenge = type(challenge)(challenge.members, challenge.nonmembers, challenge.duplicates, canaries)
    released = release(np.concatenate([fresh.images[:200], images[included]]))
    report = audit_release([released], population, Subject("release", "site-0", challenge, CONFIG, 0))
    rows = {row["attack"]: row for row in report.canaries}
    assert rows["distance-features"]["auc"] == rows["distance-pixels"]["auc"] == 1.0
    assert {row["channel"] for row in report.canaries} == {"label"}


def test_outliers_copied_into_a_release_are_found_apart_from_mislabelled_images_that_are_not():
    members, holdout, population, fresh = digits(3)
    included, outlier = np.arange(60) % 2 == 0, np.arange(60) % 3 == 0
    images = np.where(outlier[:, None, None, None], 255 - fresh.images[200:260], fresh.images[200:260])
    kinds = np.where(outlier, CANARY_KINDS.index("outlier"), CANARY_KINDS.index("mislabelled"))
    canaries = CanarySet(images, np.zeros(60, np.int64), included, kinds)
    challenge = dataclasses.replace(build_challenge(members, holdout), canaries=canaries)
    # Drawn again with some noise, as a generator that knows them would.
    noisy = images[included & outlier] + np.random.default_rng(0).normal(0, 8, (10, 8, 8, 1))
    released = release(np.concatenate([fresh.images[:200], np.clip(np.rint(noisy), 0, 255).astype(np.uint8)]))
    report = audit_release([released], population, Subject("release", "site-0", challenge, CONFIG, 0))
    rows = {(row["attack"], row["channel"]): row for row in report.canaries}
    assert rows["distance-pixels", "image"]["auc"] > 0.95 and rows["distance-pixels", "image"]["auc_low"] > 0.5
    assert rows["distance-pixels", "label"]["auc_low"] < 0.5 < rows["distance-pixels", "label"]["auc_high"]
    assert rows["distance-pixels", "image"]["included"] == 10 and rows["distance-pixels", "label"]["included"] == 20


def test_a_large_release_is_attacked_in_part_the_same_part_every_time(monkeypatch):
    monkeypatch.setattr("fedkr.audit.run_release.MOST_RELEASED", 30)
    members, holdout, _, fresh = digits(4)
    rounds, challenge = [release(fresh.images[:25]), release(fresh.images[25:60])], build_challenge(members, holdout)
    (images, soft_labels), chosen = released_part(rounds, challenge, site="site-0", seed=0)
    np.testing.assert_array_equal(images, fresh.images[chosen])
    assert soft_labels.shape == (30, 10)
    assert len(chosen) == 30 and (np.diff(chosen) > 0).all() and chosen.min() < 25 <= chosen.max()
    np.testing.assert_array_equal(chosen, released_part(rounds, challenge, site="site-0", seed=0)[1])
    assert chosen.tolist() != released_part(rounds, challenge, site="site-1", seed=0)[1].tolist()


def test_large_images_are_averaged_over_blocks():
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    rows = small_pixels(images)
    blocks = images.reshape(3, 32, 2, 32, 2, 3).mean((2, 4)) / 255
    np.testing.assert_allclose(rows, np.moveaxis(blocks, -1, 1).reshape(3, -1), atol=1e-12)
    assert rows.shape[1] == LARGEST_SIDE**2 * 3


def test_what_cannot_be_audited_is_named_with_its_site():
    members, holdout, population, fresh = digits(5)
    challenge = build_challenge(members, holdout)
    with pytest.raises(UserError, match="audit of release at site-0: no release"):
        audit_release([], population, Subject("release", "site-0", challenge, CONFIG, 0))
    with pytest.raises(UserError, match=r"released images of shape \[8, 4, 1\]"):
        wrong = release(fresh.images[:9, :, :4])
        audit_release([wrong], population, Subject("release", "site-0", challenge, CONFIG, 0))
