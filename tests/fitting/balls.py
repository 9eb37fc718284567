"""Analytic field functions for fits: a ball whose radius and centre are codes, and views of it.

z_id = (radius - 0.5) / 0.1 and a shift along x; z_exp = a shift along y, canonical units. The
"geometry network" is a scale of the radius, the "rendering network" a tint. Offsets are the shift
along y, so that losses can tell which expression was rendered.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrecon.fitting.latents import LatentSpace
from jaxrecon.fitting.problem import FieldFunctions, ViewData
from jaxrecon.geometry.sphere_tracing import TraceConfig
from tests.fitting import linear_space

SIZE = 48
TRACE = TraceConfig(tolerance=1e-4, steps=16, samples=8, stages=1, sampled_fraction=1 / 8)


def condition(params, z_id, z_exp):
    centre = jnp.stack([0.1 * z_id[1], z_exp[0], jnp.zeros_like(z_exp[0])])
    return {"centre": centre, "radius": params["geometry"]["scale"] * (0.5 + 0.1 * z_id[0])}


def level_set(conditioning, points):
    offset = points - conditioning["centre"].reshape((1,) * (points.ndim - 1) + (3,))
    return jnp.sqrt(jnp.sum(offset**2, axis=-1) + 1e-12) - conditioning["radius"]


def geometry(conditioning, points):
    shift = conditioning["centre"] * jnp.array([0.0, 1.0, 0.0])
    offsets = jnp.broadcast_to(shift.reshape((1,) * (points.ndim - 1) + (3,)), points.shape)
    return level_set(conditioning, points), (points[..., :1], offsets)


def condition_colour(params, z_colour):
    return params["rendering"]["tint"] + 0.1 * z_colour


def colour(tint, points, normals, views, features):
    return jax.nn.sigmoid(tint.reshape((1,) * (points.ndim - 1) + (3,)) + normals + 0.0 * views)


FUNCTIONS = FieldFunctions(condition, level_set, geometry, condition_colour, colour)
DIRECTIONS = linear_space.space().landmarks_mean
DIRECTIONS = DIRECTIONS / np.linalg.norm(DIRECTIONS, axis=1, keepdims=True)


def params() -> dict:
    return {
        "geometry": {"scale": jnp.float32(1.0)},
        "rendering": {"tint": jnp.array([0.3, -0.2, 0.1], jnp.float32)},
    }


def space() -> LatentSpace:
    """Landmarks follow the centre but not the radius: only pixels tell that."""
    along_x = np.zeros((2, 68, 3), np.float32)
    along_x[1, :, 0] = 0.1
    along_y = np.zeros((1, 68, 3), np.float32)
    along_y[0, :, 1] = 1.0
    arrays = {
        "id_mean": np.zeros(2),
        "id_basis": np.eye(2),
        "exp_mean": np.zeros(1),
        "exp_basis": 0.1 * np.eye(1),
        "colour_mean": np.zeros(3),
        "colour_basis": np.eye(3),
        "landmarks_mean": 0.5 * DIRECTIONS,
        "landmarks_id": along_x,
        "landmarks_exp": along_y,
    }
    return LatentSpace(**{k: jnp.asarray(v, jnp.float32) for k, v in arrays.items()})


def views(radius: float, shifts=(0.0,), angles=(-0.5, 0.1, 0.6), x: float = 0.0) -> ViewData:
    """Exact pictures of balls in millimetres; view i shows shift i modulo their number."""
    cameras = linear_space.cameras(angles, distance=900.0, focal=150.0)
    K = np.array(cameras.K)
    K[:, :2, 2] = SIZE / 2 + np.array([0.4, -0.7])
    grid = np.stack(np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5), -1)
    images, masks, pixels = [], [], []
    for i in range(len(angles)):
        R, t = np.float64(cameras.R[i]), np.float64(cameras.t[i])
        centre = 150.0 * np.array([x, shifts[i % len(shifts)], 0.0])
        d = np.concatenate([(grid - K[i, :2, 2]) / K[i, 0, 0], np.ones((SIZE, SIZE, 1))], -1) @ R
        d /= np.linalg.norm(d, axis=-1, keepdims=True)
        origin = -R.T @ t
        along = (d * (centre - origin)).sum(-1)
        squared = (150.0 * radius) ** 2 - ((centre - origin) ** 2).sum() + along**2
        mask = squared > 0
        surface = origin + (along - np.sqrt(np.maximum(squared, 0)))[..., None] * d
        normal = (surface - centre) / (150.0 * radius)
        lit = 1 / (1 + np.exp(-(np.array([0.3, -0.2, 0.1]) + normal)))
        images.append(np.where(mask[..., None], lit, 1.0))
        masks.append(mask)
        y = (centre + 75.0 * DIRECTIONS) @ R.T + t
        y = y @ np.float64(K[i]).T
        pixels.append(y[:, :2] / y[:, 2:])
    count = len(angles)
    data = ViewData(
        images=np.float32(images),
        subject=np.float32(masks),
        valid=np.ones((count, SIZE, SIZE), np.float32),
        still=np.ones((count, SIZE, SIZE), np.float32),
        cameras=type(cameras)(K=K, R=cameras.R, t=cameras.t),
        landmarks=np.float32(pixels),
        landmark_weights=np.ones((count, 68), np.float32),
        expression=(np.arange(count) % len(shifts)).astype(np.int32),
        unit=np.float32(150.0),
    )
    return jax.tree.map(jnp.asarray, data)
