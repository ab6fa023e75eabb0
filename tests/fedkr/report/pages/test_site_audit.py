import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from fedkr.audit.challenge import build_challenge
from fedkr.audit.copies import check_copies
from fedkr.audit.counted import Counted
from fedkr.audit.findings import AuditReport, report_from_scores
from fedkr.audit.run_release import audit_release
from fedkr.audit.subject import Subject
from fedkr.config import AuditConfig
from fedkr.data.images import ImageSet
from fedkr.release import Release
from fedkr.report.pages.site_audit import BANNER, MOST_EXPOSED, write_local_report


def image_set(count, seed):
    rng = np.random.default_rng(seed)
    return ImageSet(rng.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8), np.arange(count) % 2, ("well", "<ill>"))


def pictures(page):
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


@pytest.fixture(scope="module")
def challenge():
    return build_challenge(image_set(60, 0), image_set(50, 1))


@pytest.fixture(scope="module")
def page(challenge, tmp_path_factory):
    images = np.concatenate([image_set(30, 2).images, challenge.members.images[7:9]])
    release = Release(images, np.full((32, 2), 0.5, np.float16), {})
    settings = {"site": "ward-<7>", "seed": 0}
    subject = Subject("release", "ward-<7>", challenge, AuditConfig(bootstrap=20), 0)
    report = audit_release([release], image_set(20, 3), subject)
    copies = check_copies([release], challenge, **settings)
    path = tmp_path_factory.mktemp("site") / "audit.html"
    return write_local_report(path, "ward-<7>", [report], challenge, copies).read_text()


def test_the_page_says_first_that_it_must_not_leave_the_site(page):
    assert page.index(BANNER) < page.index("<section")
    assert "must not leave the site" in BANNER


def test_the_page_says_what_an_interval_resamples_and_shows_no_image_that_does_not_count(challenge, tmp_path):
    scores = {"loss": np.arange(110.0)}
    config = AuditConfig(attacks=["loss"], headline="loss", bootstrap=5)
    counted = Counted(np.arange(110) < 100, 0)
    counted.mask[[58, 59]] = False
    report = report_from_scores(scores, Subject("student", "s", challenge, config, 0, counted=counted))
    page = write_local_report(tmp_path / "audit.html", "s", [report], challenge).read_text()
    assert "; by image: images are resampled)" in page
    shown = [int(row) for row in re.findall(r'<td class="number">(\d+)</td><td class="number">\d+</td>', page)]
    assert shown[:3] == [57, 56, 55]


def test_the_page_needs_nothing_from_outside(page):
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert "default-src 'none'" in page and "<script" not in page and "url(" not in page


def test_the_most_exposed_members_come_first_with_their_label_and_image(page, challenge):
    section = page[page.index('id="target-release"') : page.index('id="copies"')]
    rows = re.findall(r"<tr class=.*?</tr>", section)
    assert len(rows) == MOST_EXPOSED
    shown = [int(re.search(r'<td class="number">(\d+)</td>', row).group(1)) for row in rows]
    assert set(shown[:2]) == {7, 8}
    assert "&lt;ill&gt;" in rows[0] or "well" in rows[0]
    first = pictures(rows[0])[0]
    np.testing.assert_array_equal(first[::12, ::12, 0], challenge.members.images[shown[0], :, :, 0])


def test_the_closest_pairs_stand_side_by_side_with_their_distance(page):
    section = page[page.index('id="copies"') :]
    row = re.search(r"<tr class=.*?</tr>", section).group(0)
    member, released = pictures(row)
    np.testing.assert_array_equal(member, released)
    assert "suspected copy" in row and '<td class="number">0</td>' in row


def test_names_are_escaped(page):
    assert "ward-&lt;7&gt;" in page and "ward-<7>" not in page and "<ill>" not in page


def test_a_report_without_single_scores_says_so(challenge, tmp_path):
    path = write_local_report(tmp_path / "audit.html", "s", [AuditReport("student", [])], challenge)
    assert "No scores of single images" in path.read_text()
    assert not pictures(path.read_text())
