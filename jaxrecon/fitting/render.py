"""Rendering sampled pixels of all views, differentiable in codes, pose and networks."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from jaxrecon.fitting.problem import FieldFunctions, FitConfig, ViewData
from jaxrecon.geometry import cameras as camera_ops
from jaxrecon.geometry.intersection import differentiable_intersection
from jaxrecon.geometry.sphere_tracing import sphere_trace
from jaxrecon.geometry.transforms import safe_normalise
from jaxrecon.types import Cameras, Field


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Samples:
    """Sampled pixels of v views, p of each."""

    pixels: Any
    """(v, p, 2) pixel centres"""
    colours: Any
    """(v, p, 3) RGB in [0, 1]"""
    subject: Any
    """(v, p) 1 subject, 0 background"""
    valid: Any
    """(v, p) 1 where the pixel counts"""
    still: Any
    """(v, p) 1 away from the mouth"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rendered:
    """What the fields show at sampled pixels, canonical space; all differentiable but hit and
    evaluations.
    """

    colours: Any
    """(v, p, 3)"""
    hit: Any
    """(v, p) 1 where the ray meets the surface"""
    least: Any
    """(v, p) least |level set| visited along the ray, at the surface (0) where it hits (the soft
    mask)
    """
    gradients: Any
    """(v, p, 3) spatial gradient at the surface"""
    offsets: Any
    """(v, p, 3) deformation there"""
    points: Any
    """(v, p, 3) surface points, canonical space"""
    evaluations: Any
    """() mean field evaluations a ray"""


def pixel_density(
    views: ViewData, valid: Float[Array, "v h w"], margin: int
) -> tuple[Float[Array, "v h"], Float[Array, "v h w"]]:
    """Uniform over valid pixels near the subject, as cumulative sums of rows and of each row's
    columns.

    Two short sums keep float32 exact enough for large photographs; one over all pixels would not.
    """
    size = 2 * margin + 1
    near = jax.lax.reduce_window(
        views.subject, 0.0, jax.lax.max, (1, size, size), (1, 1, 1), "SAME"
    )
    density = near * valid
    rows = jnp.sum(density, axis=2)
    total = jnp.maximum(jnp.sum(rows, axis=1, keepdims=True), 1e-6)
    columns = density / jnp.maximum(rows, 1e-6)[..., None]
    return jnp.cumsum(rows / total, axis=1), jnp.cumsum(columns, axis=2)


def _draw(cumulative: Float[Array, "n"], uniform: Float[Array, ""]) -> Array:
    """Index of the entry that a uniform number falls on; entries without probability are not
    drawn.
    """
    scaled = uniform * cumulative[-1]
    index = jnp.searchsorted(cumulative, scaled, side="right")
    last = jnp.searchsorted(cumulative, cumulative[-1], side="left")
    return jnp.minimum(index, last)


def neck_mask(
    cameras: Cameras, height: int, width: int, chin: Float[Array, "3"], neck: float
) -> Float[Array, "v h w"]:
    """1 for pixels whose ray passes the head's vertical axis above the neck plane, `neck` below
    the chin; cameras in canonical space.

    Pictures hold busts, shoulders or ragged necks that a head prior does not know.
    """
    grid = camera_ops.pixel_grid(height, width)
    grid = jnp.broadcast_to(grid[None], (cameras.t.shape[0], *grid.shape))
    origins, directions = camera_ops.pixel_rays(cameras, grid)
    horizontal = directions[..., jnp.array([0, 2])]
    start = origins[..., jnp.array([0, 2])]
    squared = jnp.maximum(jnp.sum(horizontal**2, axis=-1), 1e-9)
    depth = -jnp.sum(start * horizontal, axis=-1) / squared
    heights = origins[..., 1] + depth * directions[..., 1]
    return (heights > chin[1] - neck).astype(jnp.float32)


def draw_samples(
    views: ViewData, valid: Float[Array, "v h w"], cumulative: tuple, key: Array, count: int
) -> Samples:
    """Draw `count` pixels of each view."""
    height, width = views.images.shape[-3:-1]
    rows, columns = cumulative
    uniform = jax.random.uniform(key, (2, rows.shape[0], count))
    row = jax.vmap(jax.vmap(_draw, in_axes=(None, 0)))(rows, uniform[0])

    def column(columns, row, uniform):
        return jax.vmap(lambda r, u: _draw(columns[r], u))(row, uniform)

    index = row * width + jax.vmap(column)(columns, row, uniform[1])

    def gather(x):
        flat = x.reshape(x.shape[0], height * width, *x.shape[3:])
        return jax.vmap(lambda row, i: row[i])(flat, index)

    pixels = jnp.stack([index % width, index // width], axis=-1).astype(jnp.float32) + 0.5
    return Samples(
        pixels, gather(views.images), gather(views.subject), gather(valid), gather(views.still)
    )


def render_samples(
    functions: FieldFunctions,
    config: FitConfig,
    params: dict,
    codes: tuple,
    expression: Int[Array, "v"],
    cameras: Cameras,
    samples: Samples,
) -> Rendered:
    """Trace and shade the sampled pixels of every view.

    Args:
        functions: fields.
        config: tracing.
        params: network parameters.
        codes: (z_id (i,), z_exp (n, e), z_colour (c,)).
        expression: (v,) row of z_exp that each view shows.
        cameras: v cameras in canonical space.
        samples: pixels.
    """
    z_id, z_exp, z_colour = codes
    layers = functions.condition_colour(params, z_colour)

    def one(z_exp, camera, pixels):
        conditioning = functions.condition(params, z_id, z_exp)
        origins, directions = camera_ops.pixel_rays(camera, pixels)
        field = Field(Partial(functions.level_set, conditioning), lipschitz=config.lipschitz)
        trace = sphere_trace(field, origins, directions, config.trace)
        meeting = differentiable_intersection(
            lambda x: functions.geometry(conditioning, x),
            origins,
            directions,
            trace.depth,
            has_aux=True,
            moving_gradients=False,
        )
        features, offsets = meeting.aux
        normals = safe_normalise(meeting.gradients)
        colours = functions.colour(layers, meeting.points, normals, directions, features)
        # The point of least value moves with the camera, as the ray does.
        depth = jax.lax.stop_gradient(
            jnp.sum((trace.nearest_points - origins) * directions, axis=-1)
        )
        nearest = origins + depth[:, None] * directions
        least = functions.level_set(conditioning, nearest)
        evaluations = trace.evaluations.astype(jnp.float32) / pixels.shape[0]
        hit = trace.hit.astype(jnp.float32)
        return Rendered(
            colours, hit, least, meeting.gradients, offsets, meeting.points, evaluations
        )

    rendered = jax.vmap(one)(z_exp[expression], cameras, samples.pixels)
    return dataclasses.replace(rendered, evaluations=jnp.mean(rendered.evaluations))
