"""How a site joins a network: its SuperNode, started as the site file says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NoReturn

import yaml

from fedkr.data.withdrawn import drop_withdrawn
from fedkr.errors import UserError
from fedkr.network.offline import flower_environment
from fedkr.network.signing import read_publisher
from sites.private_files import close
from sites.workspace import DECODED_FOLDER, SiteFile, read_site_file

FLOWER_FOLDER = "flower"


def join_network(path: Path) -> NoReturn:
    """Become the SuperNode of a site file's ``connection``; this process does not come back.

    Raises:
        UserError: a connection that is not whole, or whose files cannot be read.
    """
    site = read_site_file(path)
    home = Path(site.workspace) / FLOWER_FOLDER
    os.umask(0o077)
    close(Path(site.workspace), Path(site.records), home)
    drop_withdrawn(site.data, Path(site.workspace) / DECODED_FOLDER)
    command = supernode_command(path, site, home)
    os.chdir(home)
    os.execvpe(command[0], command, flower_environment(home))


def supernode_command(path: Path, site: SiteFile, home: Path) -> list[str]:
    """Return the command line of a site's SuperNode, and write the list of its publishers.

    The SuperNode runs bundles that a publisher of that list signed, and no others; its own API is for this machine.

    Args:
        path: the site file.
        site: what it holds.
        home: a folder that is there, and gets the list.

    Raises:
        UserError: a connection that is not whole, or whose files cannot be read.
    """
    connection, publishers = site.connection, home / "publishers.yaml"
    check_connection(path, site)
    publishers.write_text(yaml.safe_dump(connection.publishers), encoding="utf-8")
    command = ["flower-supernode", "--superlink", connection.coordinator, "--root-certificates", connection.authority]
    command += ["--auth-supernode-private-key", connection.key, "--trusted-entities", str(publishers)]
    command += ["--node-config", f"site-file={json.dumps(str(path.absolute()))}"]
    return [*command, "--host", "127.0.0.1", "--port", str(connection.port)]


def check_connection(path: Path, site: SiteFile) -> None:
    """Raise :class:`UserError` for a connection of the site file ``path`` that is not whole, or files not readable."""
    connection = site.connection
    for name in ("coordinator", "authority", "key", "publishers"):
        if not getattr(connection, name):
            raise UserError(f"{path}: connection.{name} is missing; sites/README.md shows a whole connection")
    for name in ("authority", "key"):
        if not os.access(getattr(connection, name), os.R_OK):
            raise UserError(f"{path}: connection.{name}={getattr(connection, name)}: cannot be read")
    for name, key in connection.publishers.items():
        read_publisher(name, key, f"{path}: connection")
