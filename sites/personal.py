"""Personalised models at a site: trained on what the server brought, kept here; figures of them are all that leaves."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from flwr.app import RecordDict

from fedkr import wire
from fedkr.data.images import Shape
from fedkr.errors import UserError
from fedkr.learning.models import load_classifier
from fedkr.recycle.aggregate import Choice
from fedkr.recycle.personal import Personal
from fedkr.release import Release, ReleasedSets, check_release
from fedkr.site_name import check_site_name
from fedkr.stages import Artifact, read_artifact, write_artifact
from sites.figures import figures_of, seconds_since
from sites.naming import personal_name
from sites.workspace import Site

# All images of an offer together: no study here comes near it, and they must fit into memory.
MOST_OFFERED = 1_000_000


def personalise(site: Site, request: wire.Request) -> RecordDict:
    """Answer ``train.personalise``: choose among other sites' releases, train with them, keep the model."""
    started, contestant = time.perf_counter(), contestant_of(request)
    offered = received_offer(site, request)
    model, choice = Personal(site.pipeline, contestant).aggregated(offered)
    content = _kept(site, request, model, started)
    content[wire.CHOICE] = wire.document(public_choice(site, choice))
    return content


def finetune(site: Site, request: wire.Request) -> RecordDict:
    """Answer ``train.finetune``: go on training the received model on the site's own images, keep it."""
    started, contestant = time.perf_counter(), contestant_of(request)
    if request.weights is None:
        raise UserError(f"{wire.FINETUNE}: the request holds no model")
    return _kept(site, request, Personal(site.pipeline, contestant).fine_tuned(request.weights), started)


def _kept(site: Site, request: wire.Request, model: Artifact, started: float) -> RecordDict:
    """Keep a model where an audit finds it, and return its figures on the site's test split and the global one."""
    name = personal_name(site.study, request)
    write_artifact(_path(site, contestant_of(request)), Artifact(model.tensors, {"name": name}))
    network = load_classifier(site.study.student, Shape.of(site.data.train), model.tensors, site.runtime)
    metrics: dict[str, wire.Metric | None] = {}
    for split, data in (("test", site.data.test), ("global", site.global_test)):
        metrics |= figures_of(site, network, data, split, name)
    return wire.metrics_reply(metrics | {"seconds": seconds_since(site, started)})


def kept_model(site: Site, contestant: str) -> Artifact:
    """Return the model that a site has for a contestant, its ``info`` with the ``name`` that figures go by."""
    path = _path(site, contestant)
    if not path.exists():
        raise UserError(f"evaluate.audit: {contestant!r} has no personalised model here")
    return read_artifact(path)


def _path(site: Site, contestant: str) -> Path:
    # By what models depend on: a later audit of the same run finds it.
    return site.pipeline.stages.path(f"kept-{contestant}", site.pipeline.key())


def contestant_of(request: wire.Request) -> str:
    """Return the contestant that a request names; raise :class:`UserError` for a name that no file could have."""
    return check_site_name(request.settings.get("contestant"), "contestant")


def received_offer(site: Site, request: wire.Request) -> dict[str, ReleasedSets]:
    """Return the releases of a request by site, checked as a server checks them.

    Raises:
        UserError: more sites, sets or images than the study can have, the site's own, or images that are none.
    """
    sizes, study = wire.read_offer(request), site.study
    for name, own in sizes.items():
        check_site_name(name, "the offer's site")
        if len(own) > study.recycle.rounds:
            raise UserError(f"the release of {name}: {len(own)} sets, recycle.rounds={study.recycle.rounds}")
    if site.name in sizes or len(sizes) >= study.federation.sites:
        raise UserError(f"the offer is of {len(sizes)} sites, this one has federation.sites={study.federation.sites}")
    if request.shared is None:
        return {}
    check_release(Release(*request.shared, {}), Shape.of(site.data.train), MOST_OFFERED, "the offered releases")
    offered, start = dict[str, ReleasedSets](), 0
    for name, own in sizes.items():
        part = slice(start, start + sum(own))
        images, labels = request.shared
        offered[name] = ReleasedSets.of_arrays(images[part], labels[part], own)
        start += sum(own)
    return offered


def public_choice(site: Site, choice: Choice) -> dict[str, Any]:
    """Return a choice as it may leave: which releases were taken is as exact as a count of images.

    So it leaves only where figures leave as they are, and on no fewer images than the policy asks for.
    """
    policy = site.policy
    if policy.coarse or choice.own is None or choice.judged < policy.min_evaluated:
        return {"how": choice.how}
    rows = [
        {"site": name, "alone": accuracy, "chosen": int(name in choice.chosen)}
        for name, accuracy in choice.alone.items()
    ]
    return {"how": choice.how, "judged": choice.judged, "own": choice.own, "candidates": rows}
