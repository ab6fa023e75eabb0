"""One site's images for one study: split, with canaries planted and coins tossed where the study asks for them."""

from __future__ import annotations

from fedkr.config import Study
from fedkr.data.canaries import plant_canaries
from fedkr.data.images import ImageSet, SiteData
from fedkr.data.split import split_site, toss_coins


def prepare_site(pool: ImageSet, study: Study, site: str) -> SiteData:
    """Return the splits of a site that holds ``pool``, the same wherever it is called.

    Raises:
        UserError: too few images to split, for the canaries asked for, or for ``audit.coins``.
    """
    data = split_site(pool, study.split, study.seed, site)
    data = plant_canaries(data, study.audit, study.seed, site)
    return toss_coins(data, study.seed, site) if study.audit.coins else data
