"""What is asked of a measurement over cuts and seeds, and the file of its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkr.config import one_of
from fedkr.disk import write_json
from fedkr.environment import provenance
from fedkr.errors import StudyFailedError, UserError
from simulations.evidence.skew.cuts import CUTS
from simulations.evidence.skew.ways import WAYS

Row = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """Cuts and seeds that are measured.

    Attributes:
        out: the file of the rows; what was trained is kept beside it.
        root: where the public datasets are.
        seeds: each deals a cut anew.
        cuts: by name.
        options: those that only one measurement has.
    """

    out: Path
    root: str
    seeds: list[int]
    cuts: list[str]
    options: dict[str, str]

    @classmethod
    def read(cls, words: Sequence[str], **usual: str) -> Request:
        """Read ``OUT.json option=value ...``; ``usual`` are options of one measurement, with what they usually are."""
        if not words:
            raise UserError("name the file of the rows first, as in OUT.json data.root=DIR seeds=0")
        known = {"data.root": "data", "seeds": "0", "cuts": ",".join(CUTS)} | usual
        given = known | dict(word.partition("=")[::2] for word in words[1:])
        for option in given:
            one_of("option", option, tuple(known))
        for cut in given["cuts"].split(","):
            one_of("cuts", cut, tuple(CUTS))
        return cls(
            out=Path(words[0]),
            root=given.pop("data.root"),
            seeds=[int(seed) for seed in given.pop("seeds").split(",")],
            cuts=given.pop("cuts").split(","),
            options=given,
        )

    @property
    def ways(self) -> list[str]:
        """The ways that were asked for; :class:`UserError` for one that there is not."""
        found = self.options["ways"].split(",")
        for way in found:
            one_of("ways", way, tuple(WAYS))
        return found

    def folder(self, cut: str, seed: int) -> Path:
        """Return where a cut keeps what was trained."""
        return self.out.with_suffix(".stages") / f"{cut}-{seed}"

    def write(self, measured: Callable[[str, int], list[Row]], together: Callable[[], list[Row]] = list) -> None:
        """Write what is measured of each cut at each seed, as each ends, and which could not be, and why.

        ``together`` returns what follows from all that is measured by then.
        """
        found: list[Row] = []
        lost: list[Row] = []
        for seed in self.seeds:
            for cut in self.cuts:
                try:
                    rows = measured(cut, seed)
                except (UserError, StudyFailedError) as error:
                    print(cut, seed, error, flush=True)
                    lost.append({"cut": cut, "seed": seed, "why": str(error)})
                    continue
                found += [{"cut": cut, "set": CUTS[cut].dataset, "seed": seed} | row for row in rows]
                print(*(list(row.values()) for row in found[-len(rows) :]), sep="\n", flush=True)
                of_all = {"together": known} if (known := together()) else {}
                write_json(self.out, {"rows": found, **of_all, "lost": lost} | provenance())
