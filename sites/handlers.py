"""What a site does for each message: from an opened site and a request to the content of the answer."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from flwr.app import RecordDict
from torch import Tensor, nn

import fedkr
from fedkr import wire
from fedkr.audit.document import audit_document
from fedkr.audit.rounds import ROLES, PooledRounds, unpacked
from fedkr.audit.targets import CONTROLS, PERSONAL, RELEASE, ROUNDS
from fedkr.config import dp_sgd, own_search
from fedkr.config.reading import brief
from fedkr.data.images import Shape
from fedkr.errors import UserError
from fedkr.generators.base import may_draw_nearer, parts_of
from fedkr.learning.classifier import ClassifierTraining, real_batches
from fedkr.learning.models import load_classifier, norm_of
from fedkr.learning.private_training import Mechanism, PrivateTraining, steps_of, units_of
from fedkr.learning.training import DivergedError
from fedkr.privacy.sampled import noise_for
from fedkr.progress import SilentProgress
from fedkr.recycle.drawer import own_knobs
from fedkr.recycle.quality import poor
from fedkr.release import Release, ReleasedSets, check_release
from sites.audit import SiteAudit
from sites.contestants import searches, trains_privately
from sites.figures import figures_of, public_count, public_manifest, public_tuning, seconds_since, utility_of
from sites.findings import check_enough, public_comparison, public_findings
from sites.naming import model_name, own_name
from sites.personal import finetune, kept_model, personalise
from sites.policy import PolicyError
from sites.workspace import Site

logger = logging.getLogger(__name__)


def describe(site: Site, request: wire.Request) -> RecordDict:
    """Answer ``query.describe``: the site card. What is to be known of its splits stays in the site's own log."""
    for line in site.warnings:
        logger.warning("%s", line)
    # Whether images changed since an earlier study is nothing that noise hides: a guarantee is of unchanged images.
    told = {} if site.policy.privacy.required else {"data": site.data_digest}
    return RecordDict({wire.CARD: wire.document(site_card(site) | told)})


def site_card(site: Site) -> dict[str, Any]:
    """Return what the server learns of a site, but for the digest of its images, which takes the site's secret."""
    train, policy = site.data.train, site.policy
    card: dict[str, Any] = {
        "site": site.name,
        "version": fedkr.__version__,
        "classes": list(train.classes),
        "size": train.size,
        "channels": train.channels,
        "allow": policy.allow,
        "recipients": policy.recipients,
        "threads": torch.get_num_threads(),
    }
    if policy.exact_counts:
        splits = ("train", "val", "test", "holdout")
        card["counts"] = {name: getattr(site.data, name).class_counts().tolist() for name in splits}
    return card


def train_local(site: Site, request: wire.Request) -> RecordDict:
    """Answer ``train.local``: train the site's own model, keep it, return its figures."""
    started = time.perf_counter()
    model = own_model(site)
    metrics: dict[str, wire.Metric | None] = {"seconds": seconds_since(site, started)}
    for split, data in (("test", site.data.test), ("global", site.global_test)):
        metrics |= figures_of(site, model, data, split, own_name(site.study, "local"))
    return wire.metrics_reply(metrics | public_tuning(site, site.pipeline.own_model().info))


def train_release(site: Site, request: wire.Request) -> RecordDict:
    """Answer ``train.release``: run Knowledge Recycling and return regenerated images with soft labels."""
    started = time.perf_counter()
    recycle = site.study.recycle
    # Tuning may choose any of its candidates.
    shown = [balance for balance in (recycle.balance, *recycle.tune_balances) if balance != "balanced"]
    if shown and not site.policy.exact_counts and not site.study.privacy.guaranteed:
        raise PolicyError(
            f"recycle.balance={recycle.balance!r} with recycle.tune_balances={recycle.tune_balances} could show the "
            "site's class counts: set recycle.balance=balanced and recycle.tune_balances=[], or exact_counts: true in "
            "the site's policy"
        )
    release = site.pipeline.release(int(request.setting("round")), site.most_images)
    quality = site.pipeline.quality(int(request.setting("round")), site.most_images)
    untried = _untried(site) if quality else []
    for line in poor(quality, site.data.train.classes, untried):
        logger.warning("%s: %s", site.name, line)
    if nearer := site.pipeline.drawn_nearer():
        classes = ", ".join(map(repr, nearer))
        logger.warning("%s: recycle.doubt draws %s nearer to the class, as your teacher doubts it", site.name, classes)
    made = release.manifest | ({"quality": quality} if quality else {})
    manifest = public_manifest(site, made, own_name(site.study, RELEASE))
    return wire.release_reply(dataclasses.replace(release, manifest=manifest), seconds_since(site, started))


def _untried(site: Site) -> list[str]:
    """Return the options that may draw rare classes better, which the study does not have."""
    study, found, generator = site.study, [], site.pipeline.build_generator()
    # Doubt asks about what the generator's own knobs draw, and changes what the chosen ones do.
    knobs = generator.default_knobs(), own_knobs(site.pipeline.choose()["knobs"])
    if not study.recycle.doubt and all(may_draw_nearer(generator, each) for each in knobs):
        found.append("recycle.doubt=0.5")
    kinds = parts_of(study.generator)
    if not any(part.kind == "edm" and part.options.get("scale_shift") for part in kinds):
        found.append("generator=edm-rare")
    return found


def train_weights(site: Site, request: wire.Request) -> RecordDict:
    """Answer ``train``: one round of a weight-sharing strategy (McMahan et al. 2017; the proximal term is FedProx's).

    The received model is measured on val before it is trained: the curve of each setting, at no exchange of its own.
    The server chooses settings and round by ``evaluate`` on val.
    """
    started = time.perf_counter()
    model = received_model(site, request)
    val = utility_of(site, model, site.data.val, "val", model_name(site.study, request.weights or {}))
    count = 0 if val is None else public_count(site, len(site.data.val))
    try:
        trained, diverged = _train_round(site, model, request), 0
    except DivergedError:
        # An answer, not a failure: the server gives up the candidate, not the site.
        trained, diverged = request.weights or {}, 1
    metrics: dict[str, wire.Metric | None] = {
        "num-examples": public_count(site, len(site.data.train)),
        "val-correct": 0 if val is None else val.accuracy * count,
        "val-loss": 0 if val is None else val.loss * count,
        "val-count": count,
        "diverged": diverged,
        "seconds": seconds_since(site, started),
    }
    return wire.round_content(trained, metrics)


def _train_round(site: Site, model: nn.Module, request: wire.Request) -> dict[str, torch.Tensor]:
    if "contestant" in request.settings:
        return _train_privately(site, model, request)
    # Never behind class shares: classes that a site has not would be kept down by it, and are by no other, which cost
    # the averaged model up to 18 points of balanced accuracy where sites are skewed (simulations/results/skew.md).
    config = dataclasses.replace(site.study.student, logit_adjustment=0.0)
    train, round_number = site.data.train, int(request.setting("server-round"))
    steps = max(1, math.ceil(int(request.setting("local-epochs")) * len(train) / config.batch))
    job = site.pipeline.job.seeded("weights", request.setting("candidate"), round_number)
    work = LocalTraining(
        model,
        dataclasses.replace(config, lr=float(request.setting("lr"))),
        real_batches(train, config.batch, *job.seed),
        dataclasses.replace(job, progress=SilentProgress()),
        factor=lambda step: 1.0,
    )
    work.proximal = float(request.settings.get("proximal-mu", 0.0))
    work.advance(steps, f"round {round_number}")
    return dict(work.model.state_dict())


def _train_privately(site: Site, model: nn.Module, request: wire.Request) -> dict[str, torch.Tensor]:
    """Return the weights after a site's part of a round by DP-SGD, whose noise is that of all rounds together.

    All that the guarantee rests on is the study's, as far as it is not the site's own. Other weights get other noise.
    """
    study, name, weights = site.study, str(request.setting("contestant")), request.weights or {}
    if not trains_privately(study, name):
        # Neither a plain round in place of one that was promised noise, nor this at a hospital under another name.
        raise UserError(f"contestant={brief(repr(name))}: the study compares no dp-fedavg of this name")
    if norm_of(weights) != "group":
        raise UserError(f"{name}: norms over a batch would make one gradient of all its images; take group norms")
    options = study.strategy.options.get(name, {})
    own, search = dp_sgd(name, options), own_search(name, options, study.strategy)
    units, privacy = units_of(site.data.train), study.privacy
    rate, steps = min(1.0, own.batch / len(units)), steps_of(len(units), own.batch, search.local_epochs[0])
    noise = noise_for(privacy.epsilon, privacy.delta, rate, steps * search.rounds)
    job = site.pipeline.job.seeded("private", name, int(request.setting("server-round")), wire.weights_digest(weights))
    recipe = dataclasses.replace(study.student, lr=float(request.setting("lr")))
    mechanism = Mechanism(rate, own.clip, noise, max(1.0, rate * len(units)))
    work = PrivateTraining(model, recipe, site.data.train, mechanism, job)
    work.advance(steps, name)
    return dict(work.model.state_dict())


class LocalTraining(ClassifierTraining):
    """A site's part of a round, held near the weights that it began with (FedProx, Li et al. 2020)."""

    proximal = 0.0

    @cached_property
    def anchor(self) -> list[Tensor]:
        """The weights that were received."""
        return [p.detach().clone() for p in self.model.parameters()]

    def penalty(self) -> Tensor | None:
        """Return mu/2 times the squared distance from the weights that training began with; None for mu 0."""
        if not self.proximal:
            return None
        pairs = zip(self.model.parameters(), self.anchor, strict=True)
        return 0.5 * self.proximal * torch.stack([(p - a).square().sum() for p, a in pairs]).sum()


def evaluate(site: Site, request: wire.Request) -> RecordDict:
    """Answer ``evaluate``: the received model's figures on the site's own test split, or on val when asked for."""
    started = time.perf_counter()
    model = received_model(site, request)
    split = str(request.settings.get("split", "test"))
    if split not in ("test", "val"):
        raise PolicyError(f"evaluate: split={split!r} is not answered; one of: test, val")
    name = model_name(site.study, request.weights or {})
    metrics = figures_of(site, model, getattr(site.data, split), split, name)
    return wire.metrics_reply(metrics | {"seconds": seconds_since(site, started)})


def train_references(site: Site, request: wire.Request) -> RecordDict:
    """Answer ``train.references``: train the reference models that audits of these kinds need; they stay here."""
    started, work = time.perf_counter(), SiteAudit(site)
    # Before the hours that references take: no audit by them could leave.
    check_enough(site, work.challenge.smaller_side)
    others = received_others(site, request)
    work.keep_others(others)
    for kind in request.setting("kinds"):
        work.train_references(str(kind))
    counts = {"direct": site.study.audit.direct_references, "pipeline": site.study.audit.pipeline_references}
    known = {"others": 0 if others is None else sum(request.settings["sizes"])}
    return wire.metrics_reply(counts | known | {"seconds": seconds_since(site, started)})


def received_others(site: Site, request: wire.Request) -> ReleasedSets | None:
    """Return the other sites' releases of a request, checked as a server checks them; None where there are none."""
    if request.shared is None:
        return None
    sizes, sites, most = request.setting("sizes"), request.setting("sites"), site.study.federation.sites - 1
    if type(sites) is not int or not 1 <= sites <= most:
        raise UserError(f"the other sites' releases: sites={brief(sites)}, where this study has {most} other sites")
    check_release(Release(*request.shared, {}), Shape.of(site.data.train), where="the other sites' releases")
    whole = isinstance(sizes, list) and all(type(size) is int and size > 0 for size in sizes)
    if not whole or sum(sizes) != len(request.shared[0]):
        raise UserError(f"the other sites' releases: sizes={brief(sizes)} are not of {len(request.shared[0])} images")
    return ReleasedSets.of_arrays(*request.shared, sizes, sites)


def audit(site: Site, request: wire.Request) -> RecordDict:
    """Answer ``evaluate.audit``: attack a model, received or the site's own, or its releases, on its private images."""
    started, work = time.perf_counter(), SiteAudit(site)
    target, kind = wire.read_target(request)
    challenge = work.challenge_of(kind)
    check_enough(site, challenge.smaller_side)
    if kind == RELEASE:
        report, copies = work.attack_releases()
        document = audit_document(report, [copies.figures.counts(site.name)])
    else:
        model, about = audited_model(site, request, kind, target), wire.weights_digest(request.weights)
        document = audit_document(work.attack(target, model, about, kind))
    document = public_findings(site, document, challenge)
    return wire.document_reply(wire.FINDINGS, document, seconds_since(site, started))


def compare(site: Site, request: wire.Request) -> RecordDict:
    """Answer ``evaluate.compare``: members against non-members without any model, and audited targets in pairs."""
    started, work = time.perf_counter(), SiteAudit(site)
    compared = [work.compare(pair) for pair in wire.read_pairs(request)]
    smaller_sides = [work.challenge.smaller_side, *(count for _, count in compared)]
    check_enough(site, min(smaller_sides))
    document = {"blind": [work.blind()], "paired": [row for row, _ in compared]}
    document = public_comparison(site, document, smaller_sides)
    work.write_report()
    return wire.document_reply(wire.COMPARISON, document, seconds_since(site, started))


def audited_model(site: Site, request: wire.Request, kind: str, target: str = "") -> nn.Module:
    """Return the model under audit: the one received, else one that the site has or makes itself."""
    if kind == ROUNDS:
        return received_rounds(site, request)
    if request.weights is not None:
        return received_model(site, request)
    if kind == "teacher":
        return site.pipeline.labeller().teacher
    if kind == "local":
        return own_model(site)
    if kind in CONTROLS:
        return _classifier(site, SiteAudit(site).control(kind).tensors)
    if kind == PERSONAL:
        return _classifier(site, kept_model(site, target).tensors)
    raise UserError(f"evaluate.audit: kind={kind!r} came without a model")


def received_model(site: Site, request: wire.Request) -> nn.Module:
    """Return the study's classifier with the request's weights, in evaluation mode.

    Raises:
        UserError: no weights, or others than the study's, among them those of a norm that it does not say.
    """
    return _received(site, request.weights)


def received_rounds(site: Site, request: wire.Request) -> PooledRounds:
    """Return the models of a site's rounds that a request holds; :class:`UserError` for what :func:`unpacked` refuses.

    Each model is checked as :func:`received_model` checks one.
    """
    rounds = unpacked(request.weights or {})
    before, after = ([_received(site, getattr(each, role)) for each in rounds] for role in ROLES)
    return PooledRounds(before, after)


def _received(site: Site, weights: Mapping[str, Tensor] | None) -> nn.Module:
    if weights is None:
        raise UserError("the request holds no model")
    norm, known = norm_of(weights), {site.study.student.norm}
    known = known.union(*(search.norms for _, search in searches(site.study)))
    if norm not in known:
        raise UserError(f"the received model has {norm} norms; the study says {', '.join(sorted(known))}")
    return _classifier(site, weights)


def own_model(site: Site) -> nn.Module:
    """Return the site's own model, trained on its real images."""
    return _classifier(site, site.pipeline.own_model().tensors)


def _classifier(site: Site, weights: Mapping[str, Tensor]) -> nn.Module:
    return load_classifier(site.study.student, Shape.of(site.data.train), weights, site.runtime)


HANDLERS: dict[str, Callable[[Site, wire.Request], RecordDict]] = {
    wire.DESCRIBE: describe,
    wire.LOCAL: train_local,
    wire.PERSONALISE: personalise,
    wire.FINETUNE: finetune,
    wire.RELEASE: train_release,
    wire.TRAIN: train_weights,
    wire.EVALUATE: evaluate,
    wire.REFERENCES: train_references,
    wire.AUDIT: audit,
    wire.COMPARE: compare,
}
