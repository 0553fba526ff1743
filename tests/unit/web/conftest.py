import pytest

from support.web_homes import small_home
from support.web_sites import visiting


@pytest.fixture(scope="module")
def visitor(tmp_path_factory):
    """The pages of a small home, which no test of a module changes."""
    root = tmp_path_factory.mktemp("web") / "home"
    small_home(root)
    with visiting(root) as visitor:
        yield visitor
