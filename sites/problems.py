"""What would stop a study with default settings at a site, found before the site joins one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from fedkr.audit.challenge import site_challenge
from fedkr.config import Study
from fedkr.data.images import Shape
from fedkr.documents import check_document
from fedkr.errors import UserError
from fedkr.generators import build_generator
from fedkr.learning.models import build_classifier
from sites.accounting import beyond_budget
from sites.handlers import site_card
from sites.join import check_connection
from sites.workspace import Connection, Site, SiteFile


def connection_problems(path: Path, file: SiteFile) -> Iterator[str]:
    """Yield what is wrong with how a site would join; a file without a connection yet has nothing wrong."""
    if file.connection != Connection():
        with _told() as told:
            check_connection(path, file)
        yield from told


def study_problems(site: Site) -> Iterator[str]:
    """Yield what a study would refuse of the site's data: its card, a single class, images that no model takes.

    A policy that lets weights leave but too few figures of models is one, too.
    """
    with _told() as told:
        check_document("card", site_card(site))
    yield from told
    train, policy = site.data.train, site.policy
    left = [name for name, count in zip(train.classes, train.class_counts(), strict=True) if count]
    if len(left) < 2:
        yield (
            f"train has images of {len(left)} class(es) ({', '.join(left) or 'none'}) of which policy.min_class_count="
            f"{policy.min_class_count} leaves enough; a teacher needs two: add images or lower it"
        )
    shape, usual = Shape.of(train), Study()
    for name, config in (("teacher", usual.teacher), ("student", usual.student)):
        with _told(f"{name}: ") as told:
            build_classifier(config, shape, "check")
        yield from told
    with _told("generator: ") as told:
        build_generator(usual.generator, shape, site.pipeline.job)
    yield from told
    if "weights" in policy.allow:
        yield from (f"a study that shares weights {line}; raise it" for line in beyond_budget(usual, policy))


def unanswered(site: Site) -> Iterator[str]:
    """Yield which figures no study will get from this site, for too few images or since its policy lets none leave."""
    policy, least = site.policy, site.policy.min_evaluated
    if not policy.allow:
        yield "policy.allow is empty: nothing leaves but this site's card"
    if policy.privacy.required or "metrics" not in policy.allow:
        return
    sizes = {name: len(getattr(site.data, name)) for name in ("val", "test")}
    for name, count in sizes.items():
        if count < least:
            yield f"{name} has {count} images, fewer than policy.min_evaluated={least}: no model's figure on it leaves"
    if (smaller := site_challenge(site.data).smaller_side) < least:
        yield f"an audit has {smaller} images a side, fewer than policy.min_evaluated={least}: no figure of it leaves"


@contextlib.contextmanager
def _told(before: str = "") -> Iterator[list[str]]:
    """Collect, as a line, the error that the block ends with."""
    lines: list[str] = []
    try:
        yield lines
    except UserError as error:
        lines.append(f"{before}{error}")
