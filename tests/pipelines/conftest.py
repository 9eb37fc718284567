"""The shipped sample as a user's photographs, and as what is true of them."""

import pytest

from jaxrecon.pipelines.views import load_views
from tests.pipelines.fake_detector import DEMO, bare


@pytest.fixture(scope="session")
def truth():
    """The sample with all that is known of it."""
    return load_views(DEMO)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """The sample's photographs alone, in a folder."""
    return bare(DEMO, tmp_path_factory.mktemp("bare") / "anna")
