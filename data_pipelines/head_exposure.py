"""Which faces of a head can be seen from outside in some expression.

Linear head models hold surface that no photograph or scan shows: the backs of the eyeballs, folded
lid and lip skin. Trained on, it costs capacity and fights the lids in front of it; on ICT-FaceKit
it is 13 % of the area within 95 mm of the nose tip.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxrecon.geometry.cameras import intrinsics, look_at
from jaxrecon.geometry.rasterise import rasterise
from jaxrecon.types import Cameras

FRONT = tuple((a, e) for e in (-40.0, -10.0, 20.0) for a in (-55.0, -20.0, 20.0, 55.0))
"""(azimuth, elevation) in degrees; an open neck shows the inside only from below and behind."""
AROUND = (*FRONT, *((a, e) for e in (0.0, 40.0) for a in (-90.0, 90.0, 180.0)), (0.0, 80.0))


def orbit(directions: tuple[tuple[float, float], ...], size: int) -> Cameras:
    """Cameras (n,) that look at the canonical cube's origin from `directions`, 6 units away."""
    azimuth, elevation = np.radians(np.asarray(directions, np.float32)).T
    eye = np.stack(
        [
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
            np.cos(azimuth) * np.cos(elevation),
        ],
        axis=1,
    )
    return look_at(6.0 * jnp.asarray(eye), jnp.zeros(3), intrinsics(2.4 * size, size, size))


@functools.partial(jax.jit, static_argnames=("directions", "size"))
def exposed_faces(
    heads: Float[Array, "n v 3"],
    faces: Array,
    directions: tuple[tuple[float, float], ...] = FRONT,
    size: int = 512,
) -> Bool[Array, "f"]:
    """Faces that the z-buffer of some head and direction shows from their outer side.

    Their hidden neighbours are left out on purpose: the inner sides of the lids face the eyeballs,
    and points behind the eyes would take them for the nearest surface, seen from outside.

    Args:
        heads: vertices of n heads in canonical space (1 unit = 150 mm).
        faces: (f, 3) vertex indices, counter-clockwise from outside.
        directions: (azimuth, elevation), degrees, 0 in front (static).
        size: pixels a side of the z-buffer (static); faces that cover no pixel's centre are missed.
    """
    count = faces.shape[0]
    cameras = orbit(directions, size)

    def of_view(vertices, camera: Cameras):
        corners = vertices[faces]
        normals = jnp.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        eye = -jnp.matmul(camera.R.T, camera.t, precision="highest")
        outside = jnp.sum((eye[None] - corners[:, 0]) * normals, axis=1) > 0
        ids = rasterise(vertices, faces, camera, size, size).face.ravel()
        shown = jnp.zeros(count + 1, bool).at[jnp.where(ids < 0, count, ids)].set(True)
        return shown[:count] & outside

    def of_head(vertices):
        return jnp.any(jax.lax.map(lambda c: of_view(vertices, c), cameras), axis=0)

    return jnp.any(jax.lax.map(of_head, heads), axis=0)
