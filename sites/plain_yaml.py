"""The YAML of a site file: plain values without aliases, and of a size that is read at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from fedkr.config.reading import brief
from fedkr.config.sizes import DEEPEST, check_sizes
from fedkr.errors import UserError

LARGEST_FILE = 30_000


class _Loader(yaml.SafeLoader):
    """Knows no aliases, a few lines of which unfold to more than memory holds, and no brackets without end.

    A name that stands twice in a group is refused: by itself the last one counts, and the policy above it is gone.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose the next node; raise :class:`yaml.YAMLError` for an alias, or for one too deep in others."""
        if self.depth > 2 * DEEPEST:
            raise yaml.YAMLError("groups and lists too deep in one another")
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias (*name); write the value out")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a group; raise :class:`yaml.YAMLError` for a name that stands twice in it."""
        self.flatten_mapping(node)
        names = set[Any]()
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name is not None and name in names:
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: {brief(name)} stands twice in one group")
            names.add(name)
        return super().construct_mapping(node, deep)


# YAML 1.1 takes 1e-5 for a text, as it has no point.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> Any:
    """Return the values in a YAML file.

    Raises:
        UserError: the file is missing, too large, or no YAML; or a value is no text, number, list or group of ordinary
            size.
    """
    try:
        with path.open("rb") as handle:
            content = handle.read(LARGEST_FILE + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name the site file in site-file=...") from None
    if len(content) > LARGEST_FILE:
        raise UserError(f"{path}: more than {LARGEST_FILE} bytes; is it a site file?")
    try:
        values = yaml.load(content.decode(), _Loader)
    except Exception as error:  # what makes a value of a tag raises whatever a wrong one leads it to
        raise UserError(f"{path}: not valid YAML ({brief(' '.join(str(error).split()))})") from None
    try:
        check_sizes(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return values
