"""Who takes part, and every exchange with them: each answer becomes a file as it lands, never asked for twice."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

import fedkr
from fedkr import wire
from fedkr.config import Study
from fedkr.config.reading import brief
from fedkr.data.images import Shape
from fedkr.disk import write_atomic
from fedkr.documents import check_document
from fedkr.errors import StudyFailedError, UserError, one_line
from fedkr.site_name import check_site_name
from fedkr.stages import Artifact, StageStore, artifact_bytes, read_artifact
from fedkr.wire import SITE_ERROR

logger = logging.getLogger("fedkr.server")

# Each look is a request to the SuperLink, which takes processor time from the sites of a simulation: what comes quickly
# is looked for often, so that it is seen after 0.05 s or a fifth of its time, and what takes long twice a second.
POLL_SECONDS = 0.5
FIRST_POLL_SECONDS = 0.05
POLL_SHARE = 0.2
# Flower drops a message after its time to live; the deadline must come first.
SPARE_SECONDS = 600.0
T = TypeVar("T")
# What each card must hold, and what must be alike on all.
CARD_FIELDS = ("site", "version", "classes", "size", "channels", "allow")
SHARED_FIELDS = ("classes", "size", "channels")
# So many characters of one of them are shown.
SHOWN = 150


def until_next_look(waited: float) -> float:
    """Return how many seconds to sleep before answers are looked for again, after so many seconds of waiting."""
    return min(max(FIRST_POLL_SECONDS, POLL_SHARE * waited), POLL_SECONDS)


@dataclass(frozen=True)
class Member:
    """A site of the federation: its node and its card."""

    name: str
    node: int
    card: dict[str, Any]


@dataclass
class Pending:
    """One stage's messages, by site, and the files of the sites that had answered before.

    Attributes:
        messages: to the sites that have not answered yet.
        waiting: site by message id, once sent.
        paths: where each site's answer is kept.
        until: when a site counts as silent, on the monotonic clock.
        lost: gets why, by site, of sites without an answer, where the study can go on with them; else None.
    """

    messages: dict[str, Message]
    paths: dict[str, Path]
    waiting: dict[str, str] = field(default_factory=dict)
    until: float = 0.0
    lost: dict[str, str] | None = None


def content_bytes(content: RecordDict) -> int:
    """Return the payload of a message in bytes."""
    return sum(record.count_bytes() for record in content.values())


def _packed(accept: Callable[[str, RecordDict], Artifact], site: str, message: Message, down: int) -> bytes:
    """Return the file of what ``accept`` makes of an answer, with the bytes that it took up and its question down."""
    artifact = accept(site, message.content)
    artifact.info |= {"bytes_up": content_bytes(message.content), "bytes_down": down}
    return artifact_bytes(artifact)


def card_shape(card: Mapping[str, Any]) -> Shape:
    """Return the image shape and number of classes that a site's card names."""
    return Shape(card["channels"], card["size"], len(card["classes"]))


def site_order(name: str) -> tuple[list[int], str]:
    """Sort key that puts site-2 before site-10."""
    return [int(number) for number in re.findall(r"\d+", name)], name


class Coordinator:
    """The server's side of the federation.

    Args:
        grid: Flower's grid.
        study: all settings.
        stages: the server's finished work.
        restartable: whether a driver starts the run again when a site's process died.
        registered: the operator's names of the sites, by node; no other node takes part. Without it, as in simulations,
            a site's name is what its card says.
    """

    def __init__(
        self,
        grid: Grid,
        study: Study,
        stages: StageStore,
        restartable: bool = False,
        registered: Mapping[int, str] | None = None,
    ) -> None:
        self.grid, self.study, self.stages, self.restartable = grid, study, stages, restartable
        self.registered = registered
        self.study_json = study.to_json()
        self.members: dict[str, Member] = {}
        self.missing: dict[str, str] = {}

    @property
    def least(self) -> int:
        """How many sites must answer for the study to go on."""
        return self.study.federation.min_sites or self.study.federation.sites

    def gather_members(self) -> None:
        """Wait for the sites, ask each for its card, and keep those that fit together.

        Raises:
            StudyFailedError: too few sites appeared or answered in time.
        """
        nodes = self._wait_for_nodes()
        self.members = {name: Member(name, node, {}) for node, name in nodes.items()}
        content = wire.request_content(self.study_json)
        messages = [self._message(content, wire.DESCRIBE, node, "describe") for node in nodes]
        cards = self.exchange(messages, self._read_card)
        self._name_members(cards)
        self._keep_same_shape()
        self._check_enough()

    def _read_card(self, site: str, reply: Message) -> dict[str, Any]:
        """Return a site's card; raise :class:`UserError` for one that no site of this version and name sends."""
        card = wire.read_document(reply.content, wire.CARD)
        check_document(wire.CARD, card)
        for name in CARD_FIELDS:
            if name not in card:
                raise UserError(f"its card lacks {name!r}; is its fedkr of version {fedkr.__version__}?")
        check_site_name(card["site"], "`name` in its site file")
        if card["version"] != fedkr.__version__:
            other = brief(card["version"])
            raise UserError(
                f"{card['site']} runs fedkr {other}, the server {fedkr.__version__}: install the same version"
            )
        if self.registered is not None and card["site"] != site:
            raise UserError(f"it calls itself {card['site']!r}: set `name: {site}` in its site file")
        return card

    def _name_members(self, cards: Mapping[str, dict[str, Any]]) -> None:
        """Call the members by the names on their cards; of two with one name nobody knows which it is."""
        named = Counter(card["site"] for card in cards.values())
        found = {}
        for site, card in cards.items():
            if named[card["site"]] > 1:
                self.lose(site, f"it calls itself {card['site']!r}, as another node does: each needs a name of its own")
            else:
                found[card["site"]] = Member(card["site"], self.members[site].node, card)
        self.members = {name: found[name] for name in sorted(found, key=site_order)}

    def _wait_for_nodes(self) -> dict[int, str]:
        """Return the nodes that appeared in time, each with the name that the operator gave it, else with its id."""
        wanted, until = self.study.federation.sites, time.monotonic() + self.study.federation.register_deadline
        nodes: dict[int, str] = {}
        while len(nodes) < wanted and time.monotonic() < until:
            nodes = self._known(self.grid.get_node_ids())
            if len(nodes) < wanted:
                time.sleep(POLL_SECONDS)
        if len(nodes) < self.least:
            seconds = self.study.federation.register_deadline
            raise StudyFailedError(
                f"{len(nodes)} of {wanted} sites appeared within federation.register_deadline={seconds:g} s; "
                f"start the others (`flwr run` of a simulation: --federation-config 'num-supernodes={wanted}') "
                "or set federation.sites"
            )
        if len(nodes) < wanted:
            self.missing[f"{wanted - len(nodes)} of {wanted} sites"] = "did not appear in time"
        return nodes

    def _known(self, nodes: Iterable[int]) -> dict[int, str]:
        if self.registered is None:
            return {node: str(node) for node in sorted(nodes)}
        return {node: self.registered[node] for node in sorted(nodes) if node in self.registered}

    def _keep_same_shape(self) -> None:
        """Lose the sites whose classes and image shape are not those of most; of equally many, the first's."""
        shapes = {
            name: tuple(map(str, (member.card[f] for f in SHARED_FIELDS))) for name, member in self.members.items()
        }
        if not shapes:
            return
        (common, _), *_ = Counter(shapes.values()).most_common()
        like = next(name for name, shape in shapes.items() if shape == common)
        for name in [name for name, shape in shapes.items() if shape != common]:
            own, other = self.members[name].card, self.members[like].card
            field = next(f for f in SHARED_FIELDS if own[f] != other[f])
            self.lose(
                name,
                f"it has {field}={one_line(str(own[field]), SHOWN)}, {like} has {one_line(str(other[field]), SHOWN)}: "
                "all sites must name the study's classes and image shape alike",
            )

    @property
    def card(self) -> dict[str, Any]:
        """Return the card that all members share in classes and shape."""
        return next(iter(self.members.values())).card

    def data_of(self, sites: Iterable[str]) -> list[str]:
        """Return what tells a site's images from others that it had before, for the keys of what depends on them."""
        return [str(self.members[site].card.get("data")) for site in sites if site in self.members]

    def allowing(self, kind: str) -> list[str]:
        """Return the sites whose policy lets this kind of record leave."""
        return [name for name, member in self.members.items() if kind in member.card["allow"]]

    def passing_on(self) -> list[str]:
        """Return the sites whose policy lets their releases go to other sites."""
        return [name for name, member in self.members.items() if member.card.get("recipients") == "federation"]

    def compose(
        self,
        stage: str,
        message_type: str,
        contents: Mapping[str, RecordDict],
        about: str = "",
        lost: dict[str, str] | None = None,
    ) -> Pending:
        """Make a request for each site that has not answered this stage yet; nothing is sent.

        Args:
            stage: names the answers' files.
            message_type: what is asked.
            contents: by site.
            about: tells answers on one thing from those on another, such as the digest of the model that is sent.
            lost: gets the sites without an answer, which then stay in the study; None loses them.
        """
        key = {"study": self.study.identity(), "stage": stage, "about": about}
        paths = {site: self.stages.path(f"{stage}-{site}", key | {"data": self.data_of([site])}) for site in contents}
        messages = {
            site: self._message(content, message_type, self.members[site].node, stage)
            for site, content in contents.items()
            if site in self.members and not paths[site].exists()
        }
        return Pending(messages, paths, lost=lost)

    def _message(self, content: RecordDict, message_type: str, node: int, group: str) -> Message:
        ttl = self.study.federation.deadline + SPARE_SECONDS
        return Message(content, dst_node_id=node, message_type=message_type, group_id=group, ttl=ttl)

    def send(self, pending: Pending) -> Pending:
        """Send what was composed; the deadline starts now."""
        for site, message in pending.messages.items():
            # Flower counts the time to live from here; on a backend that works off one site after the other, those
            # at the end would be too late otherwise.
            message.metadata.created_at = time.time()
            # A message that cannot be delivered gets no id.
            sent = [name for name in self.grid.push_messages([message]) if name]
            if sent:
                pending.waiting[sent[0]] = site
            else:
                self.lose(site, "its node is gone, or the message is too large for it", pending.lost)
        pending.until = time.monotonic() + self.study.federation.deadline
        return pending

    def _arrivals(self, waiting: dict[str, str], until: float) -> Iterator[tuple[str, Message | None]]:
        """Yield each site and its answer as it arrives, one in memory at a time, until all came or time is up.

        An answer is of the site that was asked under the id for which it came: what it says of itself is the sender's
        word. None is one that cannot even be unpacked. Who has answered is taken out of ``waiting``, site by id.
        """
        asked = time.monotonic()
        while waiting:
            # One id a call: the grid reads all that it is asked for before it returns.
            for name in list(waiting):
                try:
                    messages = list(self.grid.pull_messages([name]))[:1]
                except (httpx.HTTPError, OSError):
                    # It is the way to the SuperLink that failed, and no site.
                    raise
                except Exception:
                    logger.debug("An answer cannot be unpacked", exc_info=True)
                    yield waiting.pop(name), None
                    continue
                while messages:
                    yield waiting.pop(name), messages.pop()
            now = time.monotonic()
            if not waiting or now > until:
                return
            time.sleep(until_next_look(now - asked))

    def keep(self, pending: Pending, accept: Callable[[str, RecordDict], Artifact]) -> dict[str, Path]:
        """Accept each answer and write it before the next is taken; sites without one are lost (see ``Pending.lost``).

        Args:
            pending: what was sent.
            accept: turns an answer into what is kept; a :class:`UserError` from it rejects the answer.

        Returns:
            The file of each site that answered, now or in an earlier run, in the sites' order.

        Raises:
            StudyFailedError: too few sites are left, or the backend itself broke.
        """
        for site, message in self._answers(pending):
            down = content_bytes(pending.messages[site].content)
            packed = self._accepted(site, partial(_packed, accept, site, message, down), pending.lost)
            if packed is not None:
                write_atomic(pending.paths[site], packed)
        return {s: path for s, path in sorted(pending.paths.items(), key=lambda i: site_order(i[0])) if path.exists()}

    def _answers(self, pending: Pending) -> Iterator[tuple[str, Message]]:
        """Yield each site's answer as it arrives; sites that refuse, fail or stay silent are lost."""
        silent = dict(pending.waiting)
        for site, message in self._arrivals(silent, pending.until):
            if message is None:
                self.lose(site, "its answer cannot be unpacked", pending.lost)
                continue
            self._raise_if_broken(site, message)
            if message.has_error():
                self.lose(site, f"refused or failed (error {message.error.code}); its own log says why", pending.lost)
            else:
                yield site, message
        self._lose_silent(silent, pending.lost)

    def collect_metrics(
        self, pending: Pending, check: Callable[[str, dict[str, Any]], object]
    ) -> dict[str, dict[str, Any]]:
        """Wait for answers that are metrics only; return each site's stored document.

        Args:
            pending: what was sent.
            check: reads a site's metrics as they will be used; a :class:`UserError` from it rejects the answer.

        Returns:
            For each site ``metrics``, ``bytes_up`` and ``bytes_down``.
        """

        def accept(site: str, content: RecordDict) -> Artifact:
            metrics = wire.read_metrics(content)
            check(site, metrics)
            return Artifact({}, {"metrics": {name: metrics[name] for name in wire.METRIC_NAMES & metrics.keys()}})

        files = self.keep(pending, accept)
        return {site: read_artifact(path).info for site, path in files.items()}

    def collect_documents(
        self, pending: Pending, name: str, check: Callable[[str, dict[str, Any]], None]
    ) -> dict[str, dict[str, Any]]:
        """Wait for answers that are a JSON document, the record ``name``; return it by site.

        Args:
            pending: what was sent.
            name: the record's.
            check: of a site's document; a :class:`UserError` from it rejects the answer.
        """

        def accept(site: str, content: RecordDict) -> Artifact:
            document = wire.read_document(content, name)
            check(site, document)
            return Artifact({}, {"document": document})

        files = self.keep(pending, accept)
        return {site: read_artifact(path).info["document"] for site, path in files.items()}

    def exchange(self, messages: Iterable[Message], accept: Callable[[str, Message], T]) -> dict[str, T]:
        """Send ready-made messages to members, wait, and return what ``accept`` made of each answer, by site.

        A :class:`UserError` from ``accept`` loses the site. The sites are in their order.
        """
        names = {member.node: member.name for member in self.members.values()}
        mine = {names[m.metadata.dst_node_id]: m for m in messages if m.metadata.dst_node_id in names}
        accepted: dict[str, T] = {}
        for site, message in self._answers(self.send(Pending(mine, {}))):
            taken = self._accepted(site, partial(accept, site, message))
            if taken is not None:
                accepted[site] = taken
        return {site: accepted[site] for site in sorted(accepted, key=site_order)}

    def _accepted(self, site: str, accept: Callable[[], T], lost: dict[str, str] | None = None) -> T | None:
        """Return what ``accept`` makes of a site's answer; None where it cannot, and the site is lost.

        A site can send anything, so that whatever fails here is taken for the answer's fault: it must not end the
        study of the others.
        """
        try:
            return accept()
        except UserError as error:
            why = str(error)
        except Exception as error:
            logger.debug("The answer of %s cannot be read", site, exc_info=True)
            why = f"its answer cannot be read ({type(error).__name__})"
        self.lose(site, why, lost)
        return None

    def _raise_if_broken(self, site: str, message: Message) -> None:
        """A Ray actor that died stays in Flower's pool and fails every later message: only a new run helps."""
        if message.has_error() and message.error.code != SITE_ERROR and self.restartable:
            raise StudyFailedError(f"{site}: its process failed (Flower error {message.error.code})", restart=True)

    def _lose_silent(self, silent: dict[str, str], lost: dict[str, str] | None = None) -> None:
        for site in silent.values():
            self.lose(site, f"no answer within federation.deadline={self.study.federation.deadline:g} s", lost)
        self._check_enough()

    def _check_enough(self) -> None:
        if len(self.members) < self.least:
            reasons = "; ".join(f"{site}: {why}" for site, why in self.missing.items())
            raise StudyFailedError(
                f"{len(self.members)} of {self.study.federation.sites} sites are left, {self.least} are needed "
                f"(federation.min_sites); {reasons}"
            )

    def lose(self, site: str, why: str, lost: dict[str, str] | None = None) -> None:
        """Go on without a site, or only without this answer of it where ``lost`` is to hold why."""
        # The site may have chosen parts of the reason, which goes to terminals, tables and pages.
        why = one_line(why)
        if lost is not None:
            lost[site] = why
            return
        logger.warning("├── %s is lost to the study: %s", site, why)
        self.missing[site] = why
        self.members.pop(site, None)
