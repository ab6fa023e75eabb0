"""A hospital's rehearsal: a coordinator's study, read as a message would be, on this site's images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fedkr.config import Study, parse_study
from fedkr.errors import UserError
from sites.private_files import private_files
from sites.rehearsal import AS_IS, Rehearsed, changed, moved, rehearse, rehearsed_study, usual_changes
from sites.studies import named_modules, study_digest
from sites.workspace import SiteFile, open_site, read_site_file

# In the workspace, so that it counts in studies.gigabytes; may be deleted at any time.
FOLDER = "rehearsal"


def rehearse_study(
    study_file: Path, site_file: Path, references: int, changes: Sequence[str] | None
) -> Iterator[Rehearsed]:
    """Yield the rehearsal of a study as it is, then with each change alone; what is done is kept in the workspace.

    ``changes`` are ``group.option=value``, or several with spaces between; None takes those that usually help.

    Raises:
        UserError: no study or site file, or a study or change that this site would refuse.
    """
    try:
        study = parse_study(study_file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{study_file}: cannot be read ({error})") from None
    site = read_site_file(site_file)
    workspace = Path(site.workspace)
    # From the first approval on, bounds count for all other studies only.
    approved = study_digest(study) in site.studies.all_approved(Path(site.records))
    study = rehearsed_study(study, references)
    wanted = usual_changes(study) if changes is None else changes
    studies = {AS_IS: study} | {change: changed(study, change) for change in wanted}
    for change, each in studies.items():
        _refuse(site, each, bounded=not approved or change != AS_IS)
    with private_files(Path(site.records), workspace):
        for change, each in studies.items():
            opened = open_site({"site-file": str(site_file)}, each)
            yield rehearse(moved(opened, workspace / FOLDER), change)


def _refuse(site: SiteFile, study: Study, bounded: bool) -> None:
    """Raise :class:`UserError` for a study that this site would not run: it comes from another machine."""
    for option, name in named_modules(study):
        if name not in site.studies.modules:
            raise UserError(f"{option}={name!r}: a module that is not in this site file's studies.modules")
    for line in site.studies.outside(study) if bounded else []:
        raise UserError(line)
    site.split.allow(study)
