"""Links inside the documentation lead somewhere."""

import re

import pytest

from support.pages import PAGES, REPOSITORY, prose

_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ (?P<title>.+)$", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_resolve(page):
    for match in _LINK.finditer(prose(page)):
        target = match["target"]
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{target} is not there"
        assert place.is_relative_to(REPOSITORY)
        assert not anchor or anchor in anchors(place), f"{target} names no heading"


def anchors(page):
    """The anchors that GitHub makes of a page's headings."""
    titles = (re.sub(r"[`*\[\]]|\([^)]*\)", "", each["title"]) for each in _HEADING.finditer(prose(page)))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
