"""What an answer counts as in the ledger: which model's figures leave, on whose images, and how many images leave."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Context, Message, RecordDict

from fedkr import wire
from fedkr.audit.targets import PERSONAL, RELEASE
from fedkr.config import Study, parse_study
from fedkr.errors import UserError
from sites.audit import SiteAudit
from sites.ledger import Budget, Entry, Ledger
from sites.naming import digest, model_name, own_name, personal_name, shared_names
from sites.personal import kept_model
from sites.studies import study_digest
from sites.workspace import Site, SiteFile, open_site

# Studies that nobody approved by their digest share one budget: a server can make any number of them.
UNAPPROVED = "any"
# Teacher, own model, release, and a student of that release.
OWN_MODELS = 4
# Each model is asked about on these at most.
ASKED_ON = ("test", "val", "members")
OF_IMAGES = (wire.DESCRIBE, wire.REFERENCES, wire.COMPARE)
OWN_KINDS = {wire.LOCAL: "local", wire.RELEASE: RELEASE}
SPLITS = {
    **dict.fromkeys((wire.LOCAL, wire.PERSONALISE, wire.FINETUNE), "test"),
    **dict.fromkeys((wire.RELEASE, wire.TRAIN), "val"),
    wire.AUDIT: "members",
}


class Account:
    """What one request costs a hospital's budget.

    Args:
        site: opened for the request's study.
        message_type: what is asked.
        request: the question, as it came in.
        scope: whose budget it is of: the study's digest, or :data:`UNAPPROVED`.
    """

    def __init__(self, site: Site, message_type: str, request: wire.Request, scope: str) -> None:
        self.site = site
        self.ledger, self.budget = Ledger(site.records), budget_of(site)
        asked = str(request.settings.get("split", "test")) if message_type == wire.EVALUATE else ""
        split = SPLITS.get(message_type, asked)
        self.entry = Entry(
            study=study_digest(site.study),
            scope=scope,
            message=message_type,
            model=_asked_about(site, message_type, request, split),
            split=split,
        )

    def check(self) -> None:
        """Raise :class:`~sites.policy.PolicyError` where the budget has no room, before any work is done."""
        self.ledger.check(self.entry, self.budget)

    def settle(self, content: RecordDict) -> None:
        """Write an answer into the ledger; raise :class:`UserError` where it may not leave."""
        self.ledger.write(dataclasses.replace(self.entry, **_of_content(content)), self.budget)

    def fail(self) -> None:
        """Write down that the answer is a failure, which costs as much as one with figures."""
        self.ledger.write(dataclasses.replace(self.entry, failed=True), self.budget)


@contextlib.contextmanager
def failures_counted(account: Account | None) -> Iterator[None]:
    """Count in the ledger, where there is an account, that the work in this block failed."""
    try:
        yield
    except BaseException:
        # A ledger that cannot be written changes nothing: a failure leaves as a failure.
        with contextlib.suppress(UserError):
            if account is not None:
                account.fail()
        raise


def open_account(message: Message, context: Context, file: SiteFile) -> Account:
    """Return what the answer to a message will cost; raise :class:`UserError` where the budget has no room for it."""
    request = wire.read_request(message)
    study = parse_study(request.study)
    approved = file.studies.all_approved(Path(file.records))
    site = open_site(context.node_config, study)
    account = Account(site, message.metadata.message_type, request, study_digest(study) if approved else UNAPPROVED)
    account.check()
    return account


def budget_of(site: Site) -> Budget:
    """Return how many models' figures may leave, those that the study can produce, and images, within the policy's."""
    most = site.policy.max_models
    return Budget(
        min(most, producible(site.study, "weights" in site.policy.allow)), most, images=site.policy.max_images
    )


def producible(study: Study, weights: bool) -> int:
    """Return how many models a site can meet in a study at most, each counted for all that it is asked about on.

    Where no weights leave, a contestant ends with one model that all share. Where they do, it has one a round, in the
    search for each of its settings, and the site's own update of the chosen round.
    """
    strategy, models = study.strategy, OWN_MODELS
    for name in strategy.compare:
        own = {option: getattr(strategy, option) for option in ("rounds", "search_rounds", "lrs", "local_epochs")}
        own |= {option: value for option, value in strategy.options.get(name, {}).items() if option in own}
        searched = len(own["lrs"]) * len(own["local_epochs"]) * own["search_rounds"]
        models += searched + own["rounds"] + 2 if weights else 1
    return len(ASKED_ON) * models


def _asked_about(site: Site, message_type: str, request: wire.Request, split: str) -> str:
    """Return the digest of a question: a model, and all that its answer depends on.

    Another study, split or set of references asks something else of it, and so does whoever asks again after the site's
    images changed: answers before and after show what changed.
    """
    if message_type in OF_IMAGES:
        # No model's figures leave, but whether work on private images came to its end, and what they are like.
        return digest([own_name(site.study, message_type), request.settings, shared_names(request)])
    kind = OWN_KINDS.get(message_type)
    attacked = wire.read_target(request)[1] if message_type == wire.AUDIT else None
    if request.weights is None and attacked is not None:
        kind = attacked
    if message_type in (wire.PERSONALISE, wire.FINETUNE):
        name = personal_name(site.study, request)
    elif kind == PERSONAL:
        name = str(kept_model(site, wire.read_target(request)[0]).info["name"])
    elif kind is not None:
        name = own_name(site.study, kind)
    elif request.weights is not None:
        name = model_name(site.study, request.weights)
    else:
        raise UserError(f"{message_type}: the request holds no model")
    others = SiteAudit(site).others if message_type == wire.AUDIT else None
    return digest([name, study_digest(site.study), others and others.digest(), split, attacked, site.data_digest])


def _of_content(content: RecordDict) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if isinstance(shared := content.get(wire.SHARED), ArrayRecord):
        images = shared["images"]
        found |= {"release": hashlib.sha256(images.data).hexdigest(), "images": images.shape[0]}
    if wire.FINDINGS in content:
        rows = wire.read_document(content, wire.FINDINGS)["epsilon"]
        found |= {"guesses": sum(row.get("guesses", 0) for row in rows)}
    return found
