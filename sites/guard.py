"""The mod around every handler: the policy is asked before and after, and no traceback, path or pixel leaves.

Whatever is refused or fails leaves as one constant: which of both it was, or by which exception, could be a figure of
private images that no threshold of the site's guards.
"""

from __future__ import annotations

import contextlib
import logging
import traceback
from functools import partial
from pathlib import Path

from flwr.app import Context, Error, Message
from flwr.clientapp.typing import ClientAppCallable

from fedkr import wire
from fedkr.audit.document import AuditQuestion, check_comparison
from fedkr.config import parse_study
from fedkr.documents import check_choice
from fedkr.errors import UserError, one_line
from fedkr.failure import leave_note
from fedkr.wire import SITE_ERROR
from sites.accounting import Account, failures_counted, open_account
from sites.admission import keep_split, permit, tell_of_data, workplace
from sites.asked import check_settings
from sites.known_data import keep_data
from sites.limits import within_limits
from sites.policy import Check, PolicyError, check_reply, weight_shapes
from sites.promises import check_promises
from sites.workspace import open_site, site_folder

logger = logging.getLogger(__name__)

REFUSED = "refused or failed"
LONGEST_REASON, LONGEST_TRACE = 2_000, 100_000


def guard(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Answer with what the policy allows, or with an error that is the same whatever was wrong."""
    with workplace(context.node_config) as caught:
        try:
            return _guarded(message, context, call_next)
        except caught as error:
            keep_at_site(error, message, context)
            return Message(Error(code=SITE_ERROR, reason=REFUSED), reply_to=message)


def _guarded(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    message_type, study = message.metadata.message_type, wire.study_of(message)
    _, file = permit(context.node_config, message_type, study)

    def work() -> tuple[Message, dict[str, tuple[int, ...]], Check | None, Account | None]:
        """Return the answer with what it is checked by, and the account that it counts on."""
        # What is refused up to here is refused by rule, for what the message and the site's own records say. From here
        # on an answer of any kind could depend on an image, and counts.
        account = None if file is None else open_account(message, file)
        with failures_counted(account):
            if file is not None:
                tell_of_data(file)
                keep_split(file)
                keep_data(file, parse_study(study), message_type)
            if account is not None and message_type == wire.RELEASE:
                account.check_room(open_site(context.node_config, parse_study(study)).least_released)
            # Read before the handler runs, which could change the request in place.
            weights, answers = weight_shapes(message.content), answer_check(message, context)
            return call_next(message, context), weights, answers, account

    if file is None:
        reply, weights, answers, account = work()
    else:
        check_settings(message_type, wire.settings_of(message), parse_study(study))
        rules, folders = file.studies, [Path(file.workspace), Path(file.records)]
        reply, weights, answers, account = within_limits(work, folders, rules.hours, rules.gigabytes)
    with failures_counted(account):
        if reply.has_error():
            raise PolicyError("the handler answered with an error of its own, whose text may not leave")
        # Read again: what the work kept to, an edit of the site file during it may have tightened.
        policy, now = permit(context.node_config, message_type, study)
        if file is not None and now is not None and now.policy != file.policy:
            raise PolicyError(
                "the policy in the site file changed during the work; the next message is held to the new"
            )
        check_reply(policy, message_type, reply.content, weights, answers)
        if account is not None:
            check_promises(open_site(context.node_config, parse_study(study)), message_type, reply.content)
            account.settle(reply.content)
    # A new message: only the checked content leaves, not what a handler wrote into the metadata.
    return Message(reply.content, reply_to=message)


def answer_check(message: Message, context: Context) -> Check | None:
    """Return what raises unless a document answers this question; None where no such document is asked for."""
    if message.metadata.message_type not in (wire.AUDIT, wire.COMPARE, wire.PERSONALISE):
        return None
    request = wire.read_request(message)
    if message.metadata.message_type == wire.PERSONALISE:
        return partial(check_choice, list(wire.read_offer(request)))
    site = open_site(context.node_config, parse_study(request.study))
    if message.metadata.message_type == wire.COMPARE:
        return partial(check_comparison, wire.read_pairs(request), site.name)
    question = AuditQuestion(*wire.read_target(request), len(site.data.train.classes), site.study.audit)
    return partial(question.check, site.name, exact=site.policy.exact_counts)


def keep_at_site(error: BaseException, message: Message, context: Context) -> None:
    """Write what went wrong into the site's own workspace and log, where its engineer looks."""
    reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    # The server chose much of what an error quotes: not so long that it fills the disk, and no lines of its own.
    logger.error("%s failed: %s", message.metadata.message_type, one_line(reason, LONGEST_REASON))
    # The failure is told to the server in any case; a workspace that cannot be written, or a request that names none,
    # must neither hide it nor raise an error of its own, whose text Flower would send.
    with contextlib.suppress(Exception):
        folder = site_folder(context.node_config, wire.read_request(message).study)
        trace = traceback.format_exc()[-LONGEST_TRACE:]
        leave_note(folder, reason[:LONGEST_REASON], message=message.metadata.message_type, traceback=trace)
