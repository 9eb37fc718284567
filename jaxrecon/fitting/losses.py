"""Losses of a test-time fit: named functions of one `Context`, each a scalar >= 0.

Replace, drop or add any: `fit(..., losses=DEFAULT | {"mine": my_loss})` with a weight of the same
name in `Hyper.weights`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrecon.fitting.consistency import photo_consistency
from jaxrecon.fitting.problem import ViewData, default_weights
from jaxrecon.fitting.render import Rendered, Samples
from jaxrecon.geometry.gradients import eikonal as eikonal_of
from jaxrecon.geometry.transforms import safe_norm
from jaxrecon.models.image_losses import mask_loss, rgb_loss


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """Everything a loss of one step may read."""

    views: ViewData
    """the subject's views"""
    samples: Samples
    """pixels of this step"""
    rendered: Rendered
    """what the fields show there"""
    switched: Rendered | None
    """the same pixels with another view's expression (Eq. 17), or None when the switch is off"""
    variables: Any
    """w_id, w_exp, w_colour, r_id, r_exp, r_colour, pose, cameras, params"""
    codes: Any
    """(z_id, z_exp, z_colour)"""
    landmark_errors: Any
    """(v, 68) L1 distance of projected and given landmarks, canonical units at the landmark's
    depth
    """
    alpha: Any
    """() sharpness of the soft mask, per canonical unit"""
    weights: Any = None
    """loss name -> weight, as in `Hyper`; None for the defaults (the view switch weighs its
    parts)
    """
    cameras: Any = None
    """v cameras in canonical space"""
    camera_deviations: Any = None
    """(v, 7) how far cameras moved, in standard deviations; None where they are exact"""
    landmark_trust: Any = 1.0
    """() weight of the landmarks by their noise, in (0, 1]"""


Loss = Callable[[Context], Float[Array, ""]]


def _covered(rendered: Rendered, samples: Samples) -> Array:
    return rendered.hit * samples.subject * samples.valid


def rgb(c: Context) -> Float[Array, ""]:
    """Eq. 10 over pixels that are hit and inside the mask; the divisor is the number of pixels."""
    return rgb_loss(c.rendered.colours, c.samples.colours, _covered(c.rendered, c.samples))


def mask(c: Context) -> Float[Array, ""]:
    """Eq. 11: cross-entropy of sigmoid(-alpha s) over alpha, where ray and mask do not agree
    already (IDR's P_out).
    """
    weight = c.samples.valid * (1.0 - c.rendered.hit * c.samples.subject)
    return mask_loss(c.rendered.least, c.samples.subject, weight, c.alpha)


def switch(c: Context) -> Float[Array, ""]:
    """Eq. 17: RGB and mask loss under another view's expression, without the mouth."""
    if c.switched is None:
        return jnp.zeros(())
    covered = _covered(c.switched, c.samples) * c.samples.still
    uncovered = c.samples.valid * c.samples.still * (1.0 - c.switched.hit * c.samples.subject)
    weights = default_weights() if c.weights is None else c.weights
    colour = rgb_loss(c.switched.colours, c.samples.colours, covered)
    outline = mask_loss(c.switched.least, c.samples.subject, uncovered, c.alpha)
    return weights["rgb"] * colour + weights["mask"] * outline


def deformation(c: Context) -> Float[Array, ""]:
    """Eq. 6 at the hit points."""
    return jnp.mean(c.rendered.hit * safe_norm(c.rendered.offsets))


def eikonal(c: Context) -> Float[Array, ""]:
    """Eq. 7 at the traced points (IDR mixes them in; the networks are fixed, so that only codes
    feel it).
    """
    return eikonal_of(c.rendered.gradients)


def code(c: Context) -> Float[Array, ""]:
    """L'_reg of Eq. 9: |z_geo| + |z_c|, mean over expressions."""
    z_id, z_exp, z_colour = c.codes
    rows = jnp.broadcast_to(z_id[None, :], (z_exp.shape[0], z_id.shape[0]))
    return jnp.mean(safe_norm(jnp.concatenate([rows, z_exp], axis=1))) + safe_norm(z_colour)


def landmarks(c: Context) -> Float[Array, ""]:
    """Mean L1 distance of landmarks, less where they are noisy: Eq. 12 for points that are not on
    their own ray. Ours.
    """
    weights = c.views.landmark_weights
    mean = jnp.sum(weights * c.landmark_errors) / jnp.maximum(jnp.sum(weights), 1.0)
    return c.landmark_trust * mean


def consistency(c: Context) -> Float[Array, ""]:
    """Colours of a surface point agree between views (`fitting.consistency`). Ours."""
    if c.cameras is None:
        return jnp.zeros(())
    return photo_consistency(
        c.rendered.points, c.rendered.gradients, _covered(c.rendered, c.samples),
        c.samples.colours, c.views.images, c.views.subject * c.views.valid, c.cameras,
        c.views.expression,
    )  # fmt: skip


def prior(c: Context) -> Float[Array, ""]:
    """Sum of squared PCA weights: their log prior, since rows of the basis are standard
    deviations. Ours.
    """
    v = c.variables
    return jnp.sum(v["w_id"] ** 2) + jnp.sum(v["w_exp"] ** 2) + 0.2 * jnp.sum(v["w_colour"] ** 2)


def residual(c: Context) -> Float[Array, ""]:
    """Sum of squared residual codes; the paper leaves their weight open."""
    v = c.variables
    return jnp.sum(v["r_id"] ** 2) + jnp.sum(v["r_exp"] ** 2) + jnp.sum(v["r_colour"] ** 2)


def pose(c: Context) -> Float[Array, ""]:
    """Squared change of scale since the landmarks. Ours."""
    return c.variables["pose"][6] ** 2


def cameras(c: Context) -> Float[Array, ""]:
    """Sum of squared deviations of the cameras: their log prior. Ours."""
    if c.camera_deviations is None:
        return jnp.zeros(())
    return jnp.sum(c.camera_deviations**2)


DEFAULT: dict[str, Loss] = {
    f.__name__: f
    for f in (
        *(rgb, mask, switch, deformation, eikonal, code),
        *(landmarks, consistency, prior, residual, pose, cameras),
    )
}
