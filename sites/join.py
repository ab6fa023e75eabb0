"""How a site joins a network: its SuperNode, started as the site file says."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import yaml

from fedkr.data.withdrawn import drop_withdrawn
from fedkr.errors import UserError
from fedkr.network.addresses import read_address
from fedkr.network.certificates import check_authority, check_node_key
from fedkr.network.offline import flower_environment
from fedkr.network.signing import read_publisher
from sites.private_files import close
from sites.workspace import DECODED_FOLDER, SiteFile, read_site_file

FLOWER_FOLDER = "flower"
# Checkpoints, reference models and releases of a small study.
LEAST_FREE = 2**30


def join_network(path: Path) -> NoReturn:
    """Become the SuperNode of a site file's ``connection``; this process does not come back.

    Raises:
        UserError: a connection that is not whole, whose files are not what they should be, or a folder that takes none.
    """
    site = read_site_file(path)
    for problem in folder_problems(site):
        raise UserError(f"{path}: {problem}")
    for line in room_problems(site):
        print(f"fedkr: warning: {line}", file=sys.stderr, flush=True)
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
    """Raise :class:`UserError` for a connection of the site file ``path`` that is not whole, or not of such files."""
    connection = site.connection
    for name in ("coordinator", "authority", "key", "publishers"):
        if not getattr(connection, name):
            raise UserError(f"{path}: connection.{name} is missing; sites/README.md shows a whole connection")
    try:
        read_address(connection.coordinator)
    except UserError as error:
        raise UserError(f"{path}: connection.coordinator={error}") from None
    check_authority(Path(connection.authority), f"{path}: connection.authority")
    check_node_key(Path(connection.key), f"{path}: connection.key")
    for name, key in connection.publishers.items():
        read_publisher(name, key, f"{path}: connection")


def folder_problems(file: SiteFile) -> Iterator[str]:
    """Yield which of the folders that a site file names takes no files."""
    for name, folder in (("workspace", Path(file.workspace)), ("records", Path(file.records))):
        there = _nearest(folder)
        if not there.is_dir() or not os.access(there, os.R_OK | os.W_OK | os.X_OK):
            yield f"{folder}: cannot be written by this account; name another {name} in the site file"


def room_problems(file: SiteFile) -> Iterator[str]:
    """Yield that the workspace's disk has less room than a study takes."""
    if (free := shutil.disk_usage(_nearest(Path(file.workspace))).free) < LEAST_FREE:
        yield (
            f"{file.workspace}: {free / 1e9:.1f} GB are free there, a study takes more than {LEAST_FREE / 1e9:.1f}; "
            "free some, or name another workspace in the site file"
        )


def _nearest(folder: Path) -> Path:
    """Return the folder, or the nearest above it that is there."""
    return next(parent for parent in (folder, *folder.parents) if parent.exists())
