"""Losses of Implicit Neural Deformation, Eq. 4-11. Every term is a mean and >= 0.

Training batches hold S instances with N surface points each, in canonical space. Weights are the
paper's unless noted.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrecon.geometry.gradients import eikonal as eikonal_loss
from jaxrecon.geometry.transforms import safe_norm
from jaxrecon.geometry.transforms import safe_normalise as normalise
from jaxrecon.models.image_losses import mask_loss, rgb_loss
from jaxrecon.systems.implicit_deformation import networks
from jaxrecon.systems.implicit_deformation.networks import Config


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class GeometryWeights:
    """Eq. 4-5, and two terms of ours for training on a model that knows more than points."""

    surface: float = 1.0
    """lambda_l: |s| at surface points."""
    normal: float = 1.0
    """lambda_n: |n - n_true| with n the normalised gradient."""
    deformation: float = 0.01
    """lambda_d: |delta x|."""
    eikonal: float = 0.1
    """lambda_eik."""
    code: float = 1e-4
    """lambda_reg: |z_geo|."""
    surface_eikonal: float = 0.0
    """Deviation (0 in the paper): the Eikonal term at surface points. Without it a large weight of
    |s| flattens the field there.
    """
    correspondence: float = 0.0
    """Deviation (0 in the paper): |x + delta x - x_reference| where the model knows the reference
    point.
    """
    volume: float = 0.0
    """Deviation (0 in the paper): estimated distances away from the surface, with a tolerance."""


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class RenderWeights:
    """Eq. 9 and 17."""

    rgb: float = 1.0
    """tau_rgb"""
    mask: float = 100.0
    """tau_mask"""
    deformation: float = 1e-4
    """tau_d"""
    eikonal: float = 0.01
    """tau_eik"""
    code: float = 1e-4
    """tau_reg: |z_geo| + |z_c|"""
    switch: float = 0.1
    """mu: weight of the view-switch loss"""


def normal_loss(gradients: Float[Array, "*n 3"], normals: Float[Array, "*n 3"]) -> Float[Array, ""]:
    """Mean |n - n_true| with n the normalised gradient, Eq. 5."""
    return jnp.mean(safe_norm(normalise(gradients) - normals))


def surface_query(config: Config, conditioning: dict, points: Float[Array, "n 3"]):
    """(s, gradient, l_geo, delta x) in one forward and one reverse pass."""
    values, pull, (features, offsets) = jax.vjp(
        lambda x: networks.geometry(config, conditioning, x), points, has_aux=True
    )
    (gradients,) = pull(jnp.ones_like(values))
    return values, gradients, features, offsets


def geometry_loss(
    config: Config, params: dict, batch: dict, weights: GeometryWeights
) -> tuple[Float[Array, ""], dict]:
    """Eq. 4-8 for a batch of instances.

    Args:
        config: sizes (static).
        params: reference and deformation parameters.
        batch: points, normals (S, N, 3); uniform (S, M, 3) points of Eq. 7; z_id (S, d), z_exp (S,
            e) or neither (the reference shape alone); optional reference_points (S, N, 3);
            optional distance (S, M): estimated signed distance at `uniform`, NaN-free, and
                distance_tolerance (S, M), infinite where unknown.
        weights: of the terms.

    Returns:
        (loss, metrics): scalars.
    """
    code = None
    if "z_id" in batch:
        code = jnp.concatenate([batch["z_id"], batch["z_exp"]], axis=-1)

    surface = batch["points"].shape[1]

    def one(z, points, uniform):
        conditioning = networks.condition(params, z)
        # One evaluation for all points: larger matrix products, fewer of them.
        values, pull, offsets = jax.vjp(
            lambda x: networks.signed_distance(config, conditioning, x),
            jnp.concatenate([points, uniform]),
            has_aux=True,
        )
        (gradients,) = pull(jnp.ones_like(values))
        return (
            values[:surface],
            gradients[:surface],
            offsets[:surface],
            values[surface:],
            gradients[surface:],
        )

    axes = (None if code is None else 0, 0, 0)
    values, gradients, offsets, far_values, far_gradients = jax.vmap(one, in_axes=axes)(
        code, batch["points"], batch["uniform"]
    )
    terms = {
        "surface": jnp.mean(jnp.abs(values)),
        "normal": normal_loss(gradients, batch["normals"]),
        "deformation": jnp.mean(safe_norm(offsets)),
        "eikonal": eikonal_loss(far_gradients),
        "surface_eikonal": eikonal_loss(gradients),
        "code": jnp.mean(safe_norm(code)) if code is not None else jnp.zeros(()),
    }
    if "reference_points" in batch:
        terms["correspondence"] = jnp.mean(
            safe_norm(batch["points"] + offsets - batch["reference_points"])
        )
    if "distance" in batch:
        terms["volume"] = volume_loss(far_values, batch["distance"], batch["distance_tolerance"])
    # Eq. 5: the normal term sits inside the data term.
    factors = {f.name: getattr(weights, f.name) for f in dataclasses.fields(weights)}
    factors["normal"] = weights.surface * weights.normal
    loss = sum((factors[name] * value for name, value in terms.items()), jnp.zeros(()))
    return loss, terms


def volume_loss(
    values: Float[Array, "*n"], distance: Float[Array, "*n"], tolerance: Float[Array, "*n"]
) -> Float[Array, ""]:
    """Mean of |s - distance| beyond the tolerance of the estimate. Deviation: not in the paper."""
    return jnp.mean(jax.nn.relu(jnp.abs(values - distance) - tolerance))


__all__ = [
    "GeometryWeights",
    "RenderWeights",
    "eikonal_loss",
    "geometry_loss",
    "mask_loss",
    "normal_loss",
    "normalise",
    "rgb_loss",
    "safe_norm",
    "surface_query",
    "volume_loss",
]
