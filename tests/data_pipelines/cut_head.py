"""A head model with an open neck, as those of scans are."""

import pathlib

import numpy as np

from data_pipelines.synthetic_head import synthetic_head


def write_cut_head(path: pathlib.Path) -> pathlib.Path:
    """The synthetic head with its neck cut open."""
    arrays = synthetic_head()
    corners = arrays["v_mean"][arrays["faces"].astype(int)].mean(1)
    keep = corners[:, 1] > -82.0
    arrays |= {name: arrays[name][keep] for name in ("faces", "face_part")}
    np.savez(path, **arrays)
    return path
