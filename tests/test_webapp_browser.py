"""The app's pages in a real browser. Without Chromium these tests are skipped."""

import pytest
from browser import no_faults

PAGES = ["data"]


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_no_serious_fault_of_accessibility(name, serve, open_page, samples):
    page = open_page(serve("eye", samples["eye"]), f"/{name}")
    page.wait_for_selector("#grid img")
    no_faults(page)
