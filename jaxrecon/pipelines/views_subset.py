"""Some of the views of a folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxrecon.pipelines.views import Views

_LISTS = ("names", "indices", "ground_truth", "detections")
_ARRAYS = (
    *("sizes", "images", "mask", "valid", "landmarks2d", "landmark_weights", "expression"),
    *("intrinsics", "film_focal", "has_mask"),
)
_PIXELS = ("images", "mask", "valid")


def chosen_views(views: Views, rows: Sequence[int]) -> Views:
    """The views in some rows, padded no more than they need.

    Args:
        views: loaded.
        rows: places among the loaded views, not their numbers in the folder.
    """
    rows = list(rows)
    if rows == list(range(len(views.names))):
        return views
    height, width = views.sizes[rows].max(axis=0)
    changes: dict[str, Any] = {}
    for name in _LISTS:
        values = getattr(views, name)
        changes[name] = tuple(values[i] for i in rows) if values else ()
    for name in _ARRAYS:
        array = getattr(views, name)
        if array is not None:
            chosen = array[rows]
            changes[name] = chosen[:, :height, :width] if name in _PIXELS else chosen
    if views.cameras is not None:
        changes["cameras"] = jax.tree.map(lambda x: np.asarray(x)[rows], views.cameras)
    return dataclasses.replace(views, **changes)
