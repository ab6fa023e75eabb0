"""What a site's policy asks of every release, from the policy and all of the site's images."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from fedkr.audit.near_copies import NearCopies
from fedkr.config import GAUSSIAN, GUARANTEED_GENERATORS, Study
from fedkr.data import Source
from fedkr.data.images import ImageSet, content_digest, joined
from fedkr.privacy.accountant import mu_of
from fedkr.recycle.terms import Terms
from sites.ledger import Entry, Ledger
from sites.policy import Policy
from sites.secret import keyed
from sites.studies import study_digest

# What the ledger calls a line that is no answer.
NOISE = "privacy"


def release_terms(policy: Policy, source: Source) -> Terms:
    """Return a policy's terms; near-copies are those of any image of ``source``, whatever its split or class."""
    terms = Terms(policy.label_digits, policy.label_classes)
    if policy.near_copies == "allow":
        return terms
    real = everything(source.pool, source.test)
    return dataclasses.replace(
        terms,
        is_copy=NearCopies(real),
        refuse_copies=policy.near_copies == "refuse",
        names={"near_copies": policy.near_copies, "rule": "altered", "real": content_digest(real)},
    )


def guaranteed_terms(policy: Policy, records: Path, study: Study, train: ImageSet) -> Terms:
    """Return a policy's terms for releases with a guarantee, whose noise comes from the secret in a site's records.

    ``train`` are the images that it measures. There is no noise that the ledger has no line of: it is paid for when it
    is asked for.
    """
    cost = cost_of(study)

    def secret(name: str) -> str:
        Ledger(records).charge(dataclasses.replace(cost, mechanism=name), policy.privacy)
        return keyed(records, name.encode()).hex()

    least = policy.min_class_count
    return Terms(policy.label_digits, policy.label_classes, least=least, train=train, secret=secret)


def cost_of(study: Study) -> Entry:
    """Return the ledger's line of a study's guarantee, but for the answer that it is of."""
    privacy = study.privacy
    line = Entry(study_digest(study), "", NOISE, epsilon=privacy.epsilon)
    if GUARANTEED_GENERATORS[study.generator.kind] == GAUSSIAN:
        return dataclasses.replace(line, mu=mu_of(privacy.epsilon, privacy.delta))
    return dataclasses.replace(line, delta=privacy.delta)


def rehearsed_terms(terms: Terms, records: Path) -> Terms:
    """Return terms for releases that stay at the site: their noise costs nothing, and is never that of what leaves."""
    if terms.secret is None:
        return terms
    return dataclasses.replace(terms, secret=lambda name: keyed(records, f"rehearsal {name}".encode()).hex())


def everything(pool: ImageSet, test: ImageSet) -> ImageSet:
    """Return all of a site's images; where the pool alone has groups, each test image is a group of its own."""
    if pool.groups is not None and test.groups is None:
        first = int(pool.groups.max()) + 1
        test = dataclasses.replace(test, groups=first + np.arange(len(test), dtype=np.int64))
    return joined([pool, test])
