"""The ledger: one line for each answer that left a site, kept beside the site file whatever becomes of the workspace.

That work on private images failed is an answer, too: whoever chooses what fails could ask by it. So a question that is
new has its place in the budget before any image is read, and its answer's line is on the disk before that leaves. A
process that dies in between counts an answer too many, never one too few.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from fedkr.errors import UserError
from fedkr.privacy.accountant import epsilon_of, together
from sites.policy import PolicyError, PrivacyBudget
from sites.secret import LEDGER_FILE, SECRET_FILE, secret_of

# Of an epsilon, where it is held against a budget; of a delta, as a share.
ROUNDING = 1e-6
# In characters, of a table that nothing is cut from.
WIDEST = 10_000


@with_config(ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
@dataclass(frozen=True)
class Entry:
    """One answer.

    Attributes:
        study: digest of the study that asked.
        scope: what the answer's model is counted in: that study where the site approved it, else all the others.
        message: the type of message that was answered.
        model: digest of the model whose figures left, empty where none did.
        split: whose images the figures are of.
        release: digest of the released images, empty where none left.
        images: how many those are.
        guesses: how many coins an audit guessed.
        failed: no figure left, only that the work failed or that its result may not leave.
        begun: the work began; the line counts as long as none of its answer stands below, as a failure.
        epsilon: of a guarantee, as the study that asked for it has it; None for an answer.
        mu: what the guarantee costs in Gaussian differential privacy (:mod:`fedkr.privacy.accountant`), 0 where it is
            none of that.
        delta: then, with ``epsilon``, all that is known of it.
        mechanism: digest of what it is of: the same answer of the same images costs once.
        when: seconds since 1970.
    """

    study: str
    scope: str
    message: str
    model: str = ""
    split: str = ""
    release: str = ""
    images: int = 0
    guesses: int = 0
    failed: bool = False
    begun: bool = False
    epsilon: float | None = None
    mu: float = 0.0
    delta: float = 0.0
    mechanism: str = ""
    when: float = dataclasses.field(default=0.0, compare=False)


_LINE = TypeAdapter(Entry)


@dataclass(frozen=True)
class Budget:
    """How many different models' figures may leave, of one study and in a scope; and how many images in all.

    Without a number of ``images`` none are counted.
    """

    of_study: int
    of_scope: int
    images: int | None = None


class Ledger:
    """A site's ledger; several processes may read and write it at a time."""

    def __init__(self, records: Path) -> None:
        self.path = records / LEDGER_FILE

    def entries(self) -> list[Entry]:
        """Return all answers, and what began without one, oldest first; raise :class:`UserError` for an unread file."""
        if not any((self.path.parent / name).exists() for name in (SECRET_FILE, LEDGER_FILE)):
            return []
        with self.locked() as handle:
            lines = _read(handle)
        answered = {_question(entry) for entry in lines if not entry.begun}
        return [entry for entry in lines if not entry.begun or _question(entry) not in answered]

    def begin(self, entry: Entry, budget: Budget) -> None:
        """Give a question that is new its place in the budget, before any work on it.

        Raises:
            PolicyError: the budget is spent.
            UserError: the ledger cannot be written, so that no work may begin.
        """
        with self.locked() as handle:
            before = _read(handle)
            _check_models(before, entry, budget)
            if _question(entry) not in map(_question, before):
                _append(handle, dataclasses.replace(entry, begun=True, failed=True))

    def write(self, entry: Entry, budget: Budget) -> None:
        """Check an answer and add it, in one step for all processes; it may leave once this returns.

        Raises:
            PolicyError: the budget is spent, or these images are more than it has left.
            UserError: the ledger cannot be written, so that nothing may leave.
        """
        with self.locked() as handle:
            before = _read(handle)
            _check_models(before, entry, budget)
            check_images(before, entry, budget)
            _append(handle, entry)

    def charge(self, entry: Entry, budget: PrivacyBudget) -> None:
        """Write down what a guarantee costs, before the images are read for it; what is known costs nothing again.

        Raises:
            PolicyError: all guarantees together would come to more than the budget.
            UserError: the ledger cannot be written, so that no noise may be drawn.
        """
        with self.locked() as handle:
            before = _read(handle)
            if entry.mechanism in {other.mechanism for other in before}:
                return
            total = epsilon_spent([*before, entry], budget.delta)
            if math.isinf(total):
                raise PolicyError(f"privacy.delta: {delta_spent(budget.delta)}")
            if total > budget.epsilon + ROUNDING:
                raise PolicyError(
                    f"privacy.epsilon={entry.epsilon:g}: with what earlier studies spent it comes to {total:.3g} at "
                    f"delta={budget.delta:g}, more than policy.privacy.epsilon={budget.epsilon:g} of all studies"
                )
            _append(handle, entry)

    @contextmanager
    def locked(self) -> Iterator[IO[bytes]]:
        """Keep all other processes from the ledger; raise :class:`UserError` where it cannot be opened."""
        # New records get both, and others that lack one of them have lost it.
        secret_of(self.path.parent)
        if not self.path.exists():
            raise UserError(
                f"{self.path}: is gone; nothing leaves before it is restored from a backup (or made anew and empty, "
                "where nothing ever left this site)"
            )
        try:
            with open(self.path, "r+b", opener=lambda path, _: os.open(path, os.O_RDWR | os.O_APPEND)) as handle:
                fcntl.flock(handle, fcntl.LOCK_EX)
                yield handle
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror}; nothing leaves without the ledger") from None


def _read(handle: IO[bytes]) -> list[Entry]:
    """Return all lines; raise :class:`UserError` for one that is no answer's: left out, it would be spent again.

    A dying process leaves a last line without an end, whose answer never left: it counts if it is whole all the same.
    """
    handle.seek(0)
    *lines, last = handle.read().split(b"\n")
    lines += [last] if _is_entry(last) else []
    return [_entry(line, f"{handle.name}: line {number}") for number, line in enumerate(lines, start=1)]


def _is_entry(line: bytes) -> bool:
    try:
        _LINE.validate_json(line)
    except ValidationError:
        return False
    return True


def _entry(line: bytes, where: str) -> Entry:
    try:
        return _LINE.validate_json(line)
    except ValidationError as error:
        reason = error.errors()[0]
        field = ".".join(map(str, reason["loc"]))
        raise UserError(
            f"{where}: is no answer's ({field + ': ' if field else ''}{reason['msg']}); nothing leaves before the "
            "ledger is restored from a backup; if this is what a power cut left of a line, take it out"
        ) from None


def _append(handle: IO[bytes], entry: Entry) -> None:
    line = json.dumps(dataclasses.asdict(entry) | {"when": time.time()})
    _mend_last_line(handle)
    handle.write(line.encode() + b"\n")
    handle.flush()
    os.fsync(handle.fileno())


def _mend_last_line(handle: IO[bytes]) -> None:
    """End a last line that is whole, and take out one that is torn."""
    handle.seek(0)
    content = handle.read()
    start = content.rfind(b"\n") + 1
    if _is_entry(content[start:]):
        handle.write(b"\n")
    else:
        handle.truncate(start)


def _question(entry: Entry) -> tuple[str, str, str]:
    return entry.study, entry.scope, entry.model


def _check_models(entries: Iterable[Entry], entry: Entry, budget: Budget) -> None:
    if not entry.model:
        return
    known = {(other.study, other.scope, other.model) for other in entries if other.model}
    for what, most, models in (
        ("studies like this one", budget.of_scope, {model for _, scope, model in known if scope == entry.scope}),
        ("this study", budget.of_study, {model for study, _, model in known if study == entry.study}),
    ):
        if entry.model not in models and len(models) >= most:
            raise PolicyError(
                f"{entry.message}: figures of {len(models)} models left for {what}, which can have {most}; "
                "policy.max_models in the site file is the most that it allows"
            )


def check_images(entries: list[Entry], entry: Entry, budget: Budget) -> None:
    """Raise :class:`PolicyError` where a release is more than the budget has left after earlier entries."""
    total = images_released([*entries, entry])
    if entry.release and budget.images is not None and total > budget.images:
        raise PolicyError(
            f"{entry.message}: {entry.images} images, with those that left before {total}: more than "
            f"policy.max_images={budget.images} of all studies together"
        )


def images_released(entries: Iterable[Entry]) -> int:
    """Return how many images left in all; a release that was asked for again counts once."""
    return sum({entry.release: entry.images for entry in entries if entry.release}.values())


def epsilon_spent(entries: Iterable[Entry], delta: float) -> float:
    """Return the epsilon at ``delta`` of all guarantees together, 0 for none; infinity where ``delta`` is too little.

    Gaussian ones compose without loss. Of others only epsilon and delta are known, which add up.
    """
    paid = {entry.mechanism: entry for entry in entries if entry.mechanism}.values()
    added = [entry for entry in paid if entry.delta]
    left = delta - math.fsum(entry.delta for entry in added)
    if left < -ROUNDING * delta:
        return math.inf
    gaussian = epsilon_of(together(entry.mu for entry in paid), max(0.0, left))
    return gaussian + sum(entry.epsilon or 0.0 for entry in added)


def delta_spent(delta: float) -> str:
    """Return why no epsilon bounds all guarantees together at a policy's ``delta``, and the remedy."""
    return (
        f"policy.privacy.delta={delta:g} is spent, since guarantees by DP-SGD take theirs of it; a study that asks for "
        "less of it (privacy.delta) leaves some for others, or let the policy allow more"
    )


def ledger_rows(entries: Iterable[Entry], delta: float = 1e-5) -> list[dict[str, Any]]:
    """Return a row for each study, oldest first, and one of all: what left for it; epsilon at ``delta``."""
    found, by_study = list(entries), dict[str, list[Entry]]()
    for entry in found:
        by_study.setdefault(entry.study, []).append(entry)
    return [_row(study, own, delta) for study, own in by_study.items()] + [_row("all", found, delta)]


def show_ledger(site_file: Path) -> None:
    """Print a site's ledger as a table; raise :class:`UserError` for a site file or ledger that cannot be read."""
    # Imported here: a site that answers prints nothing.
    from rich.console import Console
    from rich.table import Column, Table

    from sites.workspace import read_site_file

    file = read_site_file(site_file)
    ledger = Ledger(Path(file.records))
    rows = ledger_rows(ledger.entries(), file.policy.privacy.delta)
    table = Table(*(Column(name, no_wrap=True) for name in rows[0]), title=str(ledger.path), title_justify="left")
    for row in rows:
        table.add_row(*("-" if value is None else str(value) for value in row.values()))
    # Wider than a narrow terminal, and than a pipe is taken for, rather than with figures cut short.
    Console(width=max(Console().width, Console(width=WIDEST).measure(table).maximum)).print(table)


def _row(study: str, entries: list[Entry], delta: float) -> dict[str, Any]:
    splits = Counter(entry.split for entry in entries if entry.split)
    spent = epsilon_spent(entries, delta)
    return {
        "study": study[:12],
        "answers": sum(not entry.mechanism for entry in entries),
        "failed": sum(entry.failed for entry in entries),
        "models": len({entry.model for entry in entries if entry.model}),
        **{f"on {split}": splits[split] for split in ("test", "val", "members")},
        "images": images_released(entries),
        "guesses": sum(entry.guesses for entry in set(entries)),
        "epsilon": round(spent, 3) if spent else None,
    }
