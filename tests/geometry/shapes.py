"""Analytic level sets as module-level functions of parameters and points, with closed forms to test
against."""

import jax.numpy as jnp
import numpy as np

from jaxrecon.types import field


def sphere(params, points):
    """|x - centre| - radius."""
    offset = points - jnp.broadcast_to(params["centre"], points.shape)
    return jnp.linalg.norm(offset, axis=-1) - params["radius"]


def torus(params, points):
    """A ring about the y axis: `major` to the tube's middle, `minor` the tube's radius."""
    ring = jnp.sqrt(points[..., 0] ** 2 + points[..., 2] ** 2) - params["major"]
    return jnp.sqrt(ring**2 + points[..., 1] ** 2) - params["minor"]


def box(params, points):
    """A rotated box: x_box = R (x - centre), half sizes `half`; the exact distance."""
    local = (points - jnp.broadcast_to(params["centre"], points.shape)) @ params["R"].T
    q = jnp.abs(local) - jnp.broadcast_to(params["half"], local.shape)
    return jnp.linalg.norm(jnp.maximum(q, 0.0), axis=-1) + jnp.minimum(jnp.max(q, axis=-1), 0.0)


def two_spheres(points):
    """The union of the parity fixture."""
    a = points - jnp.broadcast_to(jnp.array([0.35, 0.05, 0.0], points.dtype), points.shape)
    b = points + jnp.broadcast_to(jnp.array([0.3, 0.1, 0.1], points.dtype), points.shape)
    return jnp.minimum(jnp.linalg.norm(a, axis=-1) - 0.3, jnp.linalg.norm(b, axis=-1) - 0.22)


def bumpy(points):
    """A sphere with waves; not a distance (its gradient reaches about 2)."""
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    waves = jnp.sin(14 * x) * jnp.sin(13 * y) * jnp.sin(12 * z)
    return jnp.linalg.norm(points, axis=-1) - 0.55 + 0.08 * waves


def scaled(factor, function, points):
    """`factor` times a level set: the surface stays, the Lipschitz constant does not."""
    return factor * function(points)


def slab(params, points):
    """A thin plate |z| < half, unbounded in x and y."""
    return jnp.abs(points[..., 2]) - params["half"]


def occupancy_of(sharpness, function, points):
    """0.5 - probability of a level set: what an occupancy network gives."""
    return 0.5 - 1.0 / (1.0 + jnp.exp(sharpness * function(points)))


SPHERE = {"centre": jnp.zeros(3), "radius": jnp.asarray(0.5)}
TORUS = {"major": jnp.asarray(0.45), "minor": jnp.asarray(0.15)}


def mlp(params, latent, points):
    """A tiny smooth network: a sphere plus two tanh layers, conditioned on a latent."""
    h = jnp.tanh(
        points @ params["w0"] + jnp.broadcast_to(latent @ params["wz"], points.shape[:-1] + (16,))
    )
    h = jnp.tanh(h @ params["w1"])
    return jnp.linalg.norm(points, axis=-1) - 0.5 + (h @ params["w2"])[..., 0]


def mlp_parameters(seed=0, dtype=np.float64):
    """Seeded weights of `mlp` and a latent of 4 numbers, small enough to stay near a sphere."""
    rng = np.random.default_rng(seed)
    shapes = {"w0": (3, 16), "wz": (4, 16), "w1": (16, 16), "w2": (16, 1)}
    scales = {"w0": 1.0, "wz": 0.5, "w1": 0.25, "w2": 0.05}
    params = {k: (rng.standard_normal(s) * scales[k]).astype(dtype) for k, s in shapes.items()}
    return params, rng.standard_normal(4).astype(dtype)


def rays_towards(seed, n, distance=2.5, spread=0.9, dtype=np.float32):
    """n rays from a ring of origins towards points scattered within `spread` of the middle."""
    rng = np.random.default_rng(seed)
    origins = rng.standard_normal((n, 3))
    origins *= distance / np.linalg.norm(origins, axis=-1, keepdims=True)
    targets = rng.uniform(-spread, spread, (n, 3))
    directions = targets - origins
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    return jnp.asarray(origins.astype(dtype)), jnp.asarray(directions.astype(dtype))


def sphere_field():
    return field(sphere, SPHERE)
