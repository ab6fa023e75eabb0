"""The words of ``python -m simulations.evidence.privacy``.

``out=DIR`` receives what each pipeline left as soon as it is done, and ``privacy.json``, ``.md`` and ``.png``; the same
command again goes on where it was stopped. Others:

- ``dataset=digits|pneumoniamnist|breastmnist|bloodmnist``, ``data_root=DIR`` (files of MedMNIST; nothing is
  downloaded);
- ``variants=NAME,NAME``, as in the module ``variants``; the usual ones where none are named;
- ``members=N``, images that a pipeline trains on, and schedules for sites of so many; else each dataset's usual number;
- ``tail=N``, the last class keeps N times fewer of its images than the first, which keeps all; give ``members``;
- ``pipelines=8``, ``processes=N``, ``seed=0``, ``device=auto|cpu|cuda``, ``precision=auto|float32|bfloat16``;
- ``stages=DIR``, where the trained models lie (``out``'s folder ``stages``);
- ``group.option=value``, options of the study for all variants;
- ``summary``: train nothing, and write the figures of what is there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fedkr.config import nearest
from fedkr.errors import UserError

WORDS = (
    *("out", "dataset", "data_root", "members", "tail", "variants", "pipelines", "processes", "seed"),
    *("device", "precision", "stages"),
)
SUMMARY = "summary"
LEAST_PIPELINES = 4


def main(words: Sequence[str]) -> int:
    """Run a sweep, or go on with it, and write its figures."""
    # Before NumPy is loaded, here and in the processes that inherit it: one thread each.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    own, options = _read(words)
    if SUMMARY not in words:
        _run(own, options)
    from simulations.evidence.privacy.summary import write_summary

    print(write_summary(Path(own["out"])))
    return 0


def _run(own: dict[str, str], options: list[str]) -> None:
    from simulations.evidence.privacy.answers import write_bench
    from simulations.evidence.privacy.bench import Settings, bench_of
    from simulations.evidence.privacy.schedule import run_all
    from simulations.evidence.privacy.variants import USUAL, read_variant

    out = Path(own["out"]).absolute()
    out.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        dataset=own.get("dataset", "digits"),
        data_root=str(Path(own.get("data_root", "data")).absolute()),
        members=_count(own, "members", 0),
        pipelines=_count(own, "pipelines", 8),
        seed=_count(own, "seed", 0),
        device=own.get("device", "auto"),
        precision=own.get("precision", "auto"),
        options=tuple(options),
        stages=str(Path(own.get("stages", out / "stages")).absolute()),
        out=str(out),
        tail=_count(own, "tail", 1),
    )
    if settings.tail < 1:
        raise UserError(f"tail={settings.tail:g}: 1, which is none, or more")
    if settings.pipelines < LEAST_PIPELINES or settings.pipelines % 2:
        raise UserError(f"pipelines={settings.pipelines}: an even number, {LEAST_PIPELINES} or more")
    variants = [read_variant(name) for name in own.get("variants", ",".join(USUAL)).split(",")]
    write_bench(bench_of(settings))
    for line in run_all(settings, variants, max(1, _count(own, "processes", os.cpu_count() or 1))):
        print(line, flush=True)


def _read(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the command's own words by name, and the options of the study."""
    own, options = dict[str, str](), list[str]()
    for word in words:
        name, sign, value = word.partition("=")
        if word == SUMMARY:
            continue
        if sign and "." in name:
            options.append(word)
        elif sign and name in WORDS:
            own[name] = value
        else:
            raise UserError(f"{word!r}: not a word of this command{nearest(name, {*WORDS, SUMMARY})}")
    if "out" not in own:
        raise UserError("out=DIR: name the folder of the results")
    return own, options


def _count(own: dict[str, str], name: str, usual: int) -> int:
    text = own.get(name, str(usual))
    if not text.isdecimal():
        raise UserError(f"{name}={text}: expected a whole number")
    return int(text)
