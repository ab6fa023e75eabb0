"""The data room: where images come from, who holds which, and how one site splits its own."""

from fedkr.data.canaries import plant_canaries
from fedkr.data.images import CanarySet, ImageSet, SiteData, content_digest, joined
from fedkr.data.partition import Partition, partition_pool, partition_sites
from fedkr.data.prepare import prepare_site
from fedkr.data.registry import Source, load_source
from fedkr.data.split import split_site, toss_coins

__all__ = [
    "CanarySet",
    "ImageSet",
    "Partition",
    "SiteData",
    "Source",
    "content_digest",
    "joined",
    "load_source",
    "partition_pool",
    "partition_sites",
    "plant_canaries",
    "prepare_site",
    "split_site",
    "toss_coins",
]
