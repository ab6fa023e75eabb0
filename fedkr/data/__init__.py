"""The data room: where images come from, who holds which, and how one site splits its own."""

from fedkr.data.imageset import ImageSet, SiteData, content_digest
from fedkr.data.partition import Partition, partition_pool, partition_sites
from fedkr.data.source import Source, load_source
from fedkr.data.split import split_site

__all__ = [
    "ImageSet",
    "Partition",
    "SiteData",
    "Source",
    "content_digest",
    "load_source",
    "partition_pool",
    "partition_sites",
    "split_site",
]
