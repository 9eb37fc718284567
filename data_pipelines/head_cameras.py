"""Cameras around a head, and what they see of it.

Units are millimetres; +x is the subject's left, +y up, +z out of the face.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrecon.types import Cameras

VISIBILITY_TOLERANCE = 4.0  # mm


def orbit_camera(
    azimuth: float,
    elevation: float,
    roll: float,
    distance: float,
    focal: float,
    centre: np.ndarray,
    target: np.ndarray,
) -> Cameras:
    """A camera at a distance from a target on its optical axis.

    Args:
        azimuth, elevation: of the camera seen from the target, radians; 0, 0 is the front (+z),
            azimuth grows towards +x and elevation towards +y.
        roll: about the optical axis, radians.
        distance: from the target, mm.
        focal: focal length, pixels.
        centre: (2,) principal point, pixels.
        target: (3,) world point, mm.

    Returns:
        one `Cameras`, float64 NumPy arrays.
    """
    direction = np.array(
        [
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
            np.cos(elevation) * np.cos(azimuth),
        ]
    )
    z = -direction
    x = np.cross(z, [0.0, 1.0, 0.0])
    x /= np.linalg.norm(x)
    c, d = np.cos(roll), np.sin(roll)
    R = np.array([[c, -d, 0], [d, c, 0], [0, 0, 1.0]]) @ np.stack([x, np.cross(z, x), z])
    K = np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1.0]])
    return Cameras(K=K, R=R, t=-R @ (target + distance * direction))


def sample_cameras(key: jax.Array, views: int, size: int, target: np.ndarray) -> Cameras:
    """Cameras on an arc in front of the face, with a little roll and off-centre principal points.

    Args:
        key: typed key.
        views: n pictures; azimuths cover -40 to 40 degrees (one view: near the front).
        size: height and width, pixels.
        target: (3,) world point the cameras look at, mm.

    Returns:
        `Cameras` of batch (n,), float64 NumPy arrays.
    """
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
    spread = np.linspace(-1, 1, views) if views > 1 else np.zeros(1)
    K, R, t = [], [], []
    for s in spread:
        azimuth = np.radians(33.0 * s + rng.uniform(-7, 7))
        elevation = np.radians(rng.uniform(-8, 12))
        roll = np.radians(rng.uniform(-3, 3))
        distance = rng.uniform(850, 1050)
        # A head of 290 mm fills 85 % of the height.
        focal = size * 0.85 * distance / 290.0 * rng.uniform(0.97, 1.03)
        centre = size / 2 + rng.uniform(-4, 4, 2) * size / 256
        camera = orbit_camera(azimuth, elevation, roll, distance, focal, centre, target)
        K.append(camera.K)
        R.append(camera.R)
        t.append(camera.t)
    return Cameras(K=np.array(K), R=np.array(R), t=np.array(t))


@jax.jit
def visible_points(
    points: jax.Array, centre: jax.Array, vertices: jax.Array, faces: jax.Array
) -> jax.Array:
    """Whether the ray from the camera centre reaches each point (n,) to within 4 mm (all
    triangles are tested).
    """
    corners = vertices[faces]
    origin, edge1, edge2 = (
        corners[:, 0],
        corners[:, 1] - corners[:, 0],
        corners[:, 2] - corners[:, 0],
    )

    # Moller & Trumbore (1997).
    def reaches(point):
        ray = point - centre
        distance = jnp.linalg.norm(ray)
        direction = jnp.broadcast_to((ray / distance)[None], edge1.shape)
        p = jnp.cross(direction, edge2)
        determinant = (edge1 * p).sum(-1)
        inverse = 1 / jnp.where(jnp.abs(determinant) < 1e-12, jnp.inf, determinant)
        offset = centre[None] - origin
        u = (offset * p).sum(-1) * inverse
        q = jnp.cross(offset, edge1)
        v = (direction * q).sum(-1) * inverse
        depth = (edge2 * q).sum(-1) * inverse
        hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (inverse != 0) & (depth > 0)
        return ~jnp.any(hit & (depth < distance - VISIBILITY_TOLERANCE))

    return jax.lax.map(reaches, points)
