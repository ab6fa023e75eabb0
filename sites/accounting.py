"""What an answer counts as in the ledger: which model's figures leave, on whose images, and how many images leave.

All of it is known before the images are read. That they cannot be read, split or prepared for a study is an answer as
well, and has its place in the budget like any other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Message, RecordDict

from fedkr import wire
from fedkr.audit.targets import CONTROLS, PERSONAL, RELEASE, ROUNDS
from fedkr.config import Study, most_tried, parse_study
from fedkr.data.dataset_files import file_digest
from fedkr.errors import UserError
from sites.audit import kept_others
from sites.contestants import searches
from sites.ledger import Budget, Entry, Ledger, check_images
from sites.naming import digest, model_name, own_name, personal_name, shared_names
from sites.policy import Policy
from sites.records import bind
from sites.studies import study_digest
from sites.workspace import DECODED_FOLDER, SiteFile, stages_at, study_at

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
        file: the site's own.
        message_type: what is asked.
        request: the question, as it came in.
        scope: whose budget it is of: the study's digest, or :data:`UNAPPROVED`.
    """

    def __init__(self, file: SiteFile, message_type: str, request: wire.Request, scope: str) -> None:
        self.file, self.study = file, study_at(file, parse_study(request.study))
        self.ledger, self.budget = Ledger(Path(file.records)), budget_of(file, self.study)
        asked = str(request.settings.get("split", "test")) if message_type == wire.EVALUATE else ""
        split = SPLITS.get(message_type, asked)
        self.entry = Entry(
            study=study_digest(self.study),
            scope=scope,
            message=message_type,
            model=self._asked_about(message_type, request, split),
            split=split,
        )

    def begin(self) -> None:
        """Take the question's place in the budget; raise :class:`~sites.policy.PolicyError` where there is none."""
        self.ledger.begin(self.entry, self.budget)

    def check_room(self, images: int) -> None:
        """Raise :class:`~sites.policy.PolicyError`, before the work on so many images, where the cap leaves no room.

        A release that left before costs nothing again.
        """
        before = self.ledger.entries()
        again = any(e.release and (e.study, e.model) == (self.entry.study, self.entry.model) for e in before)
        if images and not again:
            check_images(before, dataclasses.replace(self.entry, release="to come", images=images), self.budget)

    def settle(self, content: RecordDict) -> None:
        """Write an answer into the ledger; raise :class:`UserError` where it may not leave."""
        self.ledger.write(dataclasses.replace(self.entry, **_of_content(content)), self.budget)

    def fail(self) -> None:
        """Write down that the answer is a failure, which costs as much as one with figures."""
        self.ledger.write(dataclasses.replace(self.entry, failed=True), self.budget)

    def _asked_about(self, message_type: str, request: wire.Request, split: str) -> str:
        """Return the digest of a question: a model, and all that its answer depends on.

        Another study, split or set of references asks something else of it, and so does whoever asks again after the
        site's images changed: answers before and after show what changed.
        """
        study = study_digest(self.study)
        images = file_digest(self.file.data, Path(self.file.workspace) / DECODED_FOLDER)
        if message_type in OF_IMAGES:
            # No model's figures leave, but whether work on private images ended well, and what they are like.
            sent = [own_name(self.study, message_type), request.settings, shared_names(request)]
            return digest([*sent, images])
        attacked = wire.read_target(request)[1] if message_type == wire.AUDIT else None
        others = kept_others(stages_at(Path(self.file.workspace)), self.study) if attacked else None
        name = self._model(message_type, request, attacked)
        # Whether a round's release is refused is an answer of its own.
        number = request.settings.get("round", 1) if message_type == wire.RELEASE else None
        return digest([name, study, others and others.digest(), split, attacked, number, images])

    def _model(self, message_type: str, request: wire.Request, attacked: str | None) -> str:
        """Return the digest of the model that a message is about; ``attacked`` is the kind of an audit's target."""
        if message_type in (wire.PERSONALISE, wire.FINETUNE):
            return personal_name(self.study, request)
        if request.weights is not None and message_type not in OWN_KINDS:
            return model_name(self.study, request.weights)
        kind = OWN_KINDS.get(message_type, attacked)
        if kind == PERSONAL:
            return digest([own_name(self.study, kind), wire.read_target(request)[0], self._personal()])
        if kind is None:
            raise UserError(f"{message_type}: the request holds no model")
        return own_name(self.study, kind)

    def _personal(self) -> list[str]:
        """Return what personalised models were made of, the latest first: each contestant's latest is what is kept.

        Of whatever study, as studies that train alike share what is kept.
        """
        made = [entry.model for entry in self.ledger.entries() if entry.message in (wire.PERSONALISE, wire.FINETUNE)]
        return list(dict.fromkeys(reversed(made)))


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


def open_account(message: Message, file: SiteFile) -> Account:
    """Return what an answer will cost, already paid for; raise :class:`UserError` where the budget has no room."""
    request = wire.read_request(message)
    closed = file.studies.closed(Path(file.records))
    scope = study_digest(parse_study(request.study)) if closed else UNAPPROVED
    bind(Path(file.workspace), Path(file.records))
    account = Account(file, message.metadata.message_type, request, scope)
    account.begin()
    return account


def budget_of(file: SiteFile, study: Study) -> Budget:
    """Return how many models' figures may leave, those that the study can produce, and images, within the policy's."""
    policy = file.policy
    known = producible(study, "weights" in policy.allow)
    return Budget(min(policy.max_models, known), policy.max_models, images=policy.max_images)


def producible(study: Study, weights: bool) -> int:
    """Return how many models a site can meet in a study at most, each counted for all that it is asked about on.

    Where no weights leave, a contestant ends with one model that all share. Where they do, it has one a round, in the
    search for each setting that it tries, the site's own update of the chosen round, and some rounds together.
    """
    models = OWN_MODELS + len({*CONTROLS} & {*study.audit.targets})
    models += study.recycle.exchanges - 1
    sharing = [search for _, search in searches(study)] if weights else []
    together = int(ROUNDS in study.audit.targets)
    models += sum(most_tried(study, search) * search.search_rounds + search.rounds + 2 + together for search in sharing)
    models += len(study.strategy.compare) - len(sharing)
    return len(ASKED_ON) * models


def beyond_budget(study: Study, policy: Policy) -> Iterator[str]:
    """Yield, where a study can ask about more models than the policy allows, that it may end before it is over."""
    asked = producible(study, "weights" in policy.allow)
    if asked > policy.max_models:
        yield (
            f"may ask for figures of {asked} models, each split of one: policy.max_models={policy.max_models} can end "
            "it before"
        )


def _of_content(content: RecordDict) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if isinstance(shared := content.get(wire.SHARED), ArrayRecord):
        images = shared["images"]
        found |= {"release": hashlib.sha256(images.data).hexdigest(), "images": images.shape[0]}
    if wire.FINDINGS in content:
        rows = wire.read_document(content, wire.FINDINGS)["epsilon"]
        found |= {"guesses": sum(row.get("guesses", 0) for row in rows)}
    return found
