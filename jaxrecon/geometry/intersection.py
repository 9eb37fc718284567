"""The ray-surface intersection as a differentiable function of field, latents and camera.

IDR (Yariv et al. 2020, eq. 3) and the face paper (implicit deformation, eq. 18): with x0 = c + t0 v
on the surface,

    x(θ, c, v) = c + t v,   t = t0 - (f(c + t0 v; θ) - [f]) / ([∇f(x0)] . [v]),   [.] = constant,

whose value is x0 and whose first derivatives are those of the implicit function theorem. No
derivative goes through the tracing loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrecon.geometry.gradients import value_and_gradient
from jaxrecon.geometry.transforms import safe_norm


class Intersection(NamedTuple):
    """Surface points of n rays, differentiable in field parameters, origins and directions."""

    points: Any
    """(n, 3) origin + depth direction"""
    depth: Any
    """(n,)"""
    values: Any
    """(n,) f at the points (their residual, about 0), differentiable in the parameters at fixed
    depth"""
    gradients: Any
    """(n, 3) spatial gradient of f there: un-normalised outward normals"""
    cosine: Any
    """(n,) unit normal . direction, negative on front faces; constant"""
    aux: Any = None
    """what the field returned beside its values, at fixed depth"""


def differentiable_intersection(
    field: Callable,
    origins: Float[Array, "n 3"],
    directions: Float[Array, "n 3"],
    depth: Float[Array, "n"],
    smallest_cosine: float = 0.05,
    has_aux: bool = False,
    moving_gradients: bool = True,
) -> Intersection:
    """Give traced depths their derivatives, with one value-and-gradient pass of the field.

    Only first derivatives are right. Where the ray grazes, |n . v| is clamped to `smallest_cosine`
    with its sign, which bounds the derivatives of silhouettes. Rays without a hit get finite,
    meaningless derivatives: mask them.

    Args:
        field: points (n, 3) -> values (n,); with `has_aux` (values, aux).
        origins: (n, 3); gradients flow.
        directions: (n, 3) unit; gradients flow.
        depth: (n,) from `sphere_trace` or `march`; taken as constant.
        smallest_cosine: clamp of the unit normal . direction.
        has_aux: whether the field returns a pair.
        moving_gradients: give `gradients` the term by which the normal changes as the point slides
            along the ray (one more tangent pass); without it they are differentiable at fixed depth
            only.
    """
    depth = jax.lax.stop_gradient(depth)
    with jax.default_matmul_precision("highest"):
        x0 = origins + depth[..., None] * directions
        values, gradients, *aux = value_and_gradient(field, x0, has_aux)
        fixed, v = jax.lax.stop_gradient((gradients, directions))
        length = jnp.maximum(safe_norm(fixed), 1e-8)
        cosine = jnp.sum(fixed * v, axis=-1) / length
        # front faces look at the camera: an exact zero counts as negative
        sign = jnp.where(cosine > 0, 1.0, -1.0).astype(cosine.dtype)
        slope = length * sign * jnp.maximum(jnp.abs(cosine), smallest_cosine)
        shift = -(values - jax.lax.stop_gradient(values)) / slope  # zero, with a derivative
        if moving_gradients:
            along = _directional(field, jax.lax.stop_gradient(x0), v, has_aux)
            gradients = gradients + jax.lax.stop_gradient(along) * shift[..., None]
    t = depth + shift
    points = origins + t[..., None] * directions
    return Intersection(points, t, values, gradients, cosine, aux[0] if has_aux else None)


def _directional(field, x0, v, has_aux):
    """(n, 3) derivative of ∇f along v, Hessian v, of constants."""
    constant = jax.lax.stop_gradient(field)

    def gradient(x):
        return value_and_gradient(constant, x, has_aux)[1]

    return jax.jvp(gradient, (x0,), (v,))[1]
