"""The data room: where images come from, who holds which, and how one site splits its own."""

from fedkr.data.canaries import plant_canaries
from fedkr.data.images import CanarySet, ImageSet, SiteData, content_digest, joined
from fedkr.data.partition import partition_sites
from fedkr.data.registry import Source, check_facts, counted_facts, load_source, study_source
from fedkr.data.split import prepare_site, split_site, toss_coins
