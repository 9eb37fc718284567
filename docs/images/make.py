"""The picture of the README: `python docs/images/make.py` after `make demo`."""

from __future__ import annotations

import pathlib

import jax
import numpy as np
from PIL import Image

from jaxrecon.geometry.mesh_io import load_mesh
from jaxrecon.pipelines.report import normal_maps, render_mesh_views
from jaxrecon.pipelines.views import load_views
from jaxrecon.types import Cameras

ROOT = pathlib.Path(__file__).resolve().parents[2]


def rgb(picture) -> np.ndarray:
    """uint8 RGB on white."""
    picture = np.asarray(picture)
    if picture.dtype != np.uint8:
        picture = (np.clip(picture, 0.0, 1.0) * 255).astype(np.uint8)
    if picture.shape[-1] == 4:
        alpha = picture[..., 3:] / 255.0
        picture = (picture[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return picture


def main() -> None:
    """Inputs, renders and normal maps of the demo, one row each."""
    views = load_views(ROOT / "jaxrecon" / "assets" / "samples" / "demo")
    mesh = load_mesh(ROOT / "out" / "demo" / "mesh.ply")
    cameras = Cameras(*(np.asarray(getattr(views.cameras, n), np.float32) for n in ("K", "R", "t")))
    height, width = views.images.shape[1:3]
    rows = (
        views.images,
        render_mesh_views(mesh, cameras, height, width),
        normal_maps(mesh, cameras, height, width),
    )
    # One row of nine: photographs, reconstruction, normals.
    picture = np.concatenate([rgb(p) for row in rows for p in jax.device_get(row)], axis=1)
    size = (picture.shape[1] // 2, picture.shape[0] // 2)
    Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS).save(
        ROOT / "docs" / "images" / "demo.png", optimize=True
    )


if __name__ == "__main__":
    main()
