"""One site as its machine knows it: name, private data, policy, and the folder for its stages."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Annotated, Any

from fedkr.config import Count, DataConfig, Study, at_most, check_values, parse_study, read_dataclass
from fedkr.data import ImageSet, SiteData, Source, load_source, partition_sites, prepare_site, study_source
from fedkr.data.dataset_files import file_stamp
from fedkr.data.images import content_digest, image_digests
from fedkr.data.leaks import shared_own_tests
from fedkr.data.registry import OF_SINGLE_FILES
from fedkr.data.split import without_rare_classes
from fedkr.errors import UserError
from fedkr.learning.runtime import Runtime
from fedkr.progress import FileProgress
from fedkr.recycle import SitePipeline, pipeline_class
from fedkr.recycle.pipeline import site_job
from fedkr.recycle.terms import NO_TERMS, Terms
from fedkr.site_name import check_site_name
from fedkr.stages import StageStore
from sites.plain_yaml import read_yaml
from sites.policy import SIMULATED, Policy
from sites.secret import keyed
from sites.splits import SiteSplit
from sites.studies import StudyRules
from sites.terms import guaranteed_terms, release_terms

# In the workspace; with the list of the files that gave no image.
DECODED_FOLDER = "decoded"


@dataclass
class Connection:
    """How a site joins a network.

    Attributes:
        coordinator: ``HOST:PORT`` of the coordinator's gate.
        authority: file with the certificate of the authority that signed the gate's.
        key: file with the private key whose public half the coordinator registered (NIST EC, OpenSSH).
        publishers: public keys (``ssh-ed25519 ...``), by name, of those whose bundles this site runs.
        port: of the SuperNode's own API, which only this machine can reach.
    """

    coordinator: str = ""
    authority: str = ""
    key: str = ""
    publishers: dict[str, str] = field(default_factory=dict)
    port: Annotated[Count, at_most(65_535)] = 9094


@dataclass
class SiteFile:
    """A hospital's own file: who it is, where its images are, what may leave, how it joins."""

    name: str
    workspace: str
    data: DataConfig
    policy: Policy = field(default_factory=Policy)
    device: str = "auto"
    threads: Annotated[Count, at_most(1024)] = 1
    connection: Connection = field(default_factory=Connection)
    records: str = ""
    split: SiteSplit = field(default_factory=SiteSplit)
    studies: StudyRules = field(default_factory=StudyRules)


@dataclass(frozen=True)
class Site:
    """A site opened for one study; a hospital's with ``warnings`` of its splits, for its own engineer.

    ``elsewhere`` returns digests of what the other sites train on; None where the site cannot see their images.
    """

    name: str
    data: SiteData
    global_test: ImageSet
    policy: Policy
    pipeline: SitePipeline
    study: Study
    records: Path
    warnings: tuple[str, ...] = ()
    elsewhere: Callable[[], frozenset[bytes]] | None = None

    @cached_property
    def data_digest(self) -> str:
        """64 hex digits that tell the server when this site's images are others than before, and nothing else of them.

        Keyed by a secret that stays at the site: who guesses at images cannot try the guess.
        """
        data = self.data
        splits = [data.train, data.val, data.test, data.holdout, self.global_test]
        content = "".join(content_digest(split) for split in splits).encode()
        return keyed(self.records, content).hex()

    @property
    def most_images(self) -> int:
        """How many images one release may hold: as many as leave room for all exchanges of the study."""
        return self.policy.max_images // self.study.recycle.exchanges

    @property
    def least_released(self) -> int:
        """How many images a release will hold that takes long to make; 0 for others, which are counted once made.

        A guarantee's noise alone may tell how many those are, and what was trained before may have left already.
        """
        if self.study.privacy.guaranteed or self.pipeline.has_generator:
            return 0
        return math.prod(self.pipeline.slices(self.most_images))

    @property
    def runtime(self) -> Runtime:
        """Device and precision of this process."""
        return self.pipeline.job.runtime


def read_site_file(path: Path) -> SiteFile:
    """Read a site file (YAML).

    Raises:
        UserError: the file is missing, is no YAML, or has an unknown or misfitting field.
    """
    values = read_yaml(path)
    required = [name for name in ("name", "workspace", "data") if not isinstance(values, dict) or name not in values]
    if required:
        raise UserError(f"{path}: field {required[0]!r} is missing; a site file has name, workspace, data and policy")
    site = read_dataclass(SiteFile, values, str(path))
    check_site_name(site.name, f"{path}: name")
    site.policy.check(str(path))
    site.split.check(str(path))
    _check_fixed(site, str(path))
    site.studies.check(str(path))
    check_values(site, str(path))
    if not site.workspace:
        raise UserError(f"{path}: workspace is empty; name a folder of this site's own")
    site.records = site.records or f"{path.stem}-records"
    for holder, name in (
        *((site, "workspace"), (site, "records"), (site.data, "path")),
        *((site.connection, "authority"), (site.connection, "key")),
    ):
        if getattr(holder, name):
            setattr(holder, name, _beside(path, getattr(holder, name)))
    return site


def _check_fixed(site: SiteFile, where: str) -> None:
    """Raise :class:`UserError` where one image could change what the card of a site tells that requires a guarantee."""
    if not site.policy.privacy.required:
        return
    for name in ("classes", *(("size", "channels") if site.data.name in OF_SINGLE_FILES else ())):
        if not getattr(site.data, name):
            raise UserError(
                f"{where}: policy.privacy.required: data.{name} is not set, so that one image more could change it and "
                "the server would see that; write it out"
            )


def site_source(file: SiteFile) -> Source:
    """Return a hospital's dataset; images of single files are decoded once and kept in its workspace."""
    return load_source(file.data, Path(file.workspace) / DECODED_FOLDER)


def _beside(site_file: Path, name: str) -> str:
    """Return the path that a site file names, which is relative to the file itself."""
    try:
        return str(site_file.resolve().parent / Path(name).expanduser())
    except RuntimeError:
        raise UserError(f"{site_file}: {name}: this machine knows no such user's home; write the path out") from None


def site_folder(node_config: Mapping[str, Any], study_json: str) -> Path:
    """Return the folder of the node's workspace; nothing in it ever leaves the site."""
    if "site-file" in node_config:
        return Path(read_site_file(Path(str(node_config["site-file"]))).workspace)
    return Path(json.loads(study_json)["run_dir"]) / "sites" / f"site-{node_config['partition-id']}"


def open_site(node_config: Mapping[str, Any], study: Study) -> Site:
    """Return the site that this node is, opened for ``study`` (kept open for later messages of the same process).

    A node with ``site-file`` in its node config is a hospital and takes its data from that file alone; one with
    ``partition-id`` only is a simulated site and takes its part of the study's dataset.
    """
    if "site-file" in node_config:
        path = str(node_config["site-file"])
        file = read_site_file(Path(path))
        return _open_hospital(path, study.to_json(), repr((file, file_stamp(file.data))))
    if "partition-id" not in node_config:
        raise UserError("this node has no site: start it with --node-config 'site-file=\"/path/to/site.yaml\"'")
    return _open_simulated(int(node_config["partition-id"]), study.to_json())


@lru_cache(maxsize=64)
def _open_simulated(partition: int, study_json: str) -> Site:
    study = parse_study(study_json)
    if partition >= study.federation.sites:
        raise UserError(
            f"node {partition + 1} is one more than federation.sites={study.federation.sites}: "
            'start as many SuperNodes, as in --federation-config "num-supernodes=..."'
        )
    source = study_source(study)
    name = _simulated_name(partition)
    pool = source.pool.subset(_partition(study_json)[partition])
    folder = Path(study.run_dir) / "sites" / name
    data = prepare_site(pool, study, name)
    opened = Site(name, data, source.test, SIMULATED, _pipeline(folder, name, data, study, NO_TERMS), study, folder)
    return dataclasses.replace(opened, elsewhere=partial(_trained_elsewhere, partition, study_json))


def _simulated_name(partition: int) -> str:
    return f"site-{partition}"


@lru_cache(maxsize=2)
def _partition(study_json: str) -> list[Any]:
    study = parse_study(study_json)
    return partition_sites(study_source(study).pool, study)


def _trained_elsewhere(partition: int, study_json: str) -> frozenset[bytes]:
    """Return digests of the images that the other simulated sites train on."""
    return frozenset().union(*(held for other, held in enumerate(_trained(study_json)) if other != partition))


@lru_cache(maxsize=2)
def _trained(study_json: str) -> list[frozenset[bytes]]:
    """Return digests of the images that each simulated site trains on; of none at one that cannot be opened."""
    study, found = parse_study(study_json), list[frozenset[bytes]]()
    pool = study_source(study).pool
    for partition, indices in enumerate(_partition(study_json)):
        try:
            train = prepare_site(pool.subset(indices), study, _simulated_name(partition)).train
        except UserError:
            found.append(frozenset())
        else:
            found.append(frozenset(image_digests(train.images)))
    return found


@lru_cache(maxsize=8)
def _open_hospital(site_file: str, study_json: str, contents: str) -> Site:
    """Open a hospital; ``contents`` is only there to tell an edited site file, or other images, from those before."""
    site = read_site_file(Path(site_file))
    study = study_at(site, parse_study(study_json))
    source = site_source(site)
    records, data, terms = Path(site.records), *_prepared(site, source, study)
    pipeline = _pipeline(Path(site.workspace), site.name, data, study, terms)
    warnings = tuple(shared_own_tests({site.name: data}))
    return Site(site.name, data, source.test, site.policy, pipeline, study, records, warnings)


def _prepared(site: SiteFile, source: Source, study: Study) -> tuple[SiteData, Terms]:
    """Return a hospital's sets, and its terms for releases."""
    least = site.policy.min_class_count
    if not study.privacy.guaranteed:
        return site.split.prepare(source.pool, study, site.name, least), release_terms(site.policy, source)
    # Of what leaves with a guarantee, the noisy counts say which classes are rare: an exact count would tell of single
    # images. Models and figures are of a split without them, as in all studies.
    whole = site.split.prepare(source.pool, study, site.name)
    terms = guaranteed_terms(site.policy, Path(site.records), study, whole.train)
    # Where nothing else may leave, not even that no class has enough is told by an exact count.
    data = whole if site.policy.privacy.required else without_rare_classes(whole, least, site.name)
    return data, terms


def study_at(site: SiteFile, study: Study) -> Study:
    """Return a study as a hospital runs it: on its own device, and with its policy's own least count of a class."""
    study = dataclasses.replace(study, device=site.device, threads=site.threads)
    if site.policy.exact_counts:
        return study
    # Which classes are left out must not answer a server that asks with one least count after the other.
    return dataclasses.replace(study, recycle=dataclasses.replace(study.recycle, min_class_count=1))


def stages_at(workspace: Path) -> StageStore:
    """Return the stages in a site's workspace."""
    return StageStore(workspace / "stages")


def _pipeline(folder: Path, name: str, data: SiteData, study: Study, terms: Terms) -> SitePipeline:
    runtime = Runtime.choose(study.device, study.precision, study.threads)
    job = site_job(study, name, runtime, FileProgress(folder))
    return pipeline_class(study)(name, data, study, stages_at(folder), job, terms)
