"""Colours of one surface point in several photographs: what views say about geometry without any
model of colour.

Ours; the paper leaves consistency of views to its rendering network, which can learn a wrong place.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxrecon.geometry import cameras as camera_ops
from jaxrecon.geometry.interpolation import bilinear
from jaxrecon.geometry.transforms import safe_norm
from jaxrecon.types import Cameras

GRAZING, FACING = 0.3, 0.6
"""Cosines to the viewing direction below which a view does not count, and above which it does."""


def photo_consistency(
    points: Float[Array, "v p 3"],
    normals: Float[Array, "v p 3"],
    weights: Float[Array, "v p"],
    colours: Float[Array, "v p 3"],
    images: Float[Array, "v h w 3"],
    usable: Float[Array, "v h w"],
    cameras: Cameras,
    expression: Int[Array, "v"],
) -> Float[Array, ""]:
    """Mean L1 difference between the colour of a pixel and those that other views of the same
    expression have where its surface point falls.

    The mean difference of each pair of views is taken out, so that exposure may differ. Points
    that a view sees at a grazing angle, or outside its subject, do not count there; of occlusion
    only that is known, so that the difference should be robust, as L1 is.

    Args:
        points: surface points of p pixels of each of v views, canonical space; gradients flow.
        normals: outward there, of any length; constant.
        weights: 1 where the pixel shows the surface.
        colours: of the pixels, RGB.
        images: the photographs.
        usable: 1 on the subject where the mask is known.
        cameras: v cameras in canonical space; gradients flow.
        expression: (v,) which expression a view shows.

    Returns:
        mean over pixels and other views; 0 where no two views show one expression.
    """
    views, count = weights.shape
    others = max(views - 1, 1)
    fixed, centres = jax.lax.stop_gradient((points, camera_ops.camera_centres(cameras)))
    normals = jax.lax.stop_gradient(normals)
    normals = normals / jnp.maximum(safe_norm(normals), 1e-6)[..., None]

    def seen_by(camera, centre, image, usable, own):
        pixels, _ = camera_ops.project(camera, points.reshape(-1, 3))
        known = bilinear(usable[..., None], jax.lax.stop_gradient(pixels)) > 0.99
        towards = centre[None, None, :] - fixed
        cosine = jnp.sum(towards * normals, axis=-1) / jnp.maximum(safe_norm(towards), 1e-6)
        facing = jnp.clip((cosine - GRAZING) / (FACING - GRAZING), 0.0, 1.0)
        weight = facing * known.reshape(views, count) * (expression == own)[:, None]
        return bilinear(image, pixels).reshape(views, count, 3), weight

    # leading axes: the view that looks, the view whose pixel it was
    looked, weight = jax.vmap(seen_by)(cameras, centres, images, usable, expression)
    same = jnp.eye(views)[:, :, None]
    by_own = jnp.sum(weight * same, axis=0)
    weight = weight * (1.0 - same) * (by_own * weights)[None]
    difference = looked - colours[None]
    total = jnp.maximum(jnp.sum(weight, axis=2), 1e-6)[..., None]
    offset = jnp.sum(weight[..., None] * difference, axis=2) / total
    difference = jnp.sum(jnp.abs(difference - offset[:, :, None, :]), axis=-1)
    return jnp.sum(weight * difference) / (views * count * others)
