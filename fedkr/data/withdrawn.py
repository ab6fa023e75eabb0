"""Images that were taken from a dataset, and what is still kept of them: nothing, once it is asked for."""

from __future__ import annotations

import importlib
from pathlib import Path

from fedkr.config import DataConfig
from fedkr.data.decoded import drop_others
from fedkr.data.decoding import dependencies, listed
from fedkr.data.registry import BUILT_IN, OF_SINGLE_FILES
from fedkr.errors import UserError


def drop_withdrawn(config: DataConfig, cache: Path) -> None:
    """Remove decoded images from ``cache`` unless they are those of the dataset's files as they are now.

    Nothing is decoded. Where folder or table is not there, as of a share that is away, nothing is removed; where it is
    there and holds no dataset any longer, everything.
    """
    if not cache.is_dir():
        return
    if config.name not in OF_SINGLE_FILES:
        drop_others(cache)
        return
    try:
        stamp = listed(importlib.import_module(BUILT_IN[config.name]).listing, config, cache).stamp()
    except UserError:
        return
    drop_others(cache, dependencies(config, stamp))
