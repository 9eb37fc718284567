"""Colours of random people at surface points: procedural albedo under random lighting, sampled on
the device.
"""

from __future__ import annotations

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from data_pipelines import head_points
from data_pipelines.head_points import HeadSampler, SampleConfig
from data_pipelines.lighting import sample_lighting, shade
from jaxrecon.models.parametric import procedural_albedo
from jaxrecon.models.parametric.face import kept_vertices

COLOUR_PARAMETERS = procedural_albedo.PARAMETERS + 27


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ColourSampler:
    """Per-vertex masks of a head model and the scale of the colour parameters."""

    surface: dict
    """leaves (v, ...), see `procedural_albedo.albedo_surface`"""
    mean: Array
    """(p,) mean of (albedo, lighting) parameters"""
    deviation: Array
    """(p,) standard deviation; codes are standardised parameters"""


def make_colour_sampler(path: str | pathlib.Path) -> ColourSampler:
    """Masks of the vertices that `load_face_model(path)` keeps, and the statistics of 4,096 random
    people.
    """
    ids = kept_vertices(path)
    surface = {k: v[ids] for k, v in procedural_albedo.albedo_surface(path).items()}
    draws = jax.jit(jax.vmap(draw_parameters))(jax.random.split(jax.random.key(0), 4096))
    return ColourSampler(surface, jnp.mean(draws, axis=0), jnp.std(draws, axis=0) + 1e-3)


def draw_parameters(key: Array) -> Float[Array, "p"]:
    """Albedo and lighting parameters of a random person, flat."""
    k_albedo, k_light = jax.random.split(key)
    lighting = sample_lighting(k_light)
    return jnp.concatenate([procedural_albedo.sample_parameters(k_albedo), lighting.ravel()])


def standardise(colours: ColourSampler, parameters: Float[Array, "*n p"]) -> Float[Array, "*n p"]:
    """Codes of known colour parameters: zero mean, unit deviation over random people."""
    shape = (1,) * (parameters.ndim - 1) + (-1,)
    return (parameters - colours.mean.reshape(shape)) / colours.deviation.reshape(shape)


def colour_points(
    sampler: HeadSampler,
    colours: ColourSampler,
    config: SampleConfig,
    key: Array,
    vertices: Float[Array, "v 3"],
    parameters: Float[Array, "p"],
) -> dict:
    """Coloured surface points of one person.

    Args:
        sampler, colours: of the same head model.
        config: number of points N.
        key: typed key.
        vertices: canonical vertices of the person.
        parameters: of `draw_parameters`.

    Returns:
        points, normals, colours (N, 3) in canonical space, RGB in [0, 1]; views (N, 3): unit
        directions from a camera that sees the point.
    """
    k_points, k_view = jax.random.split(key)
    split = procedural_albedo.PARAMETERS
    albedo = procedural_albedo.vertex_albedo(parameters[:split], colours.surface)
    triangles, bary = head_points.draw_triangles(sampler, k_points, config.surface)
    corners = vertices[triangles]
    normals = jnp.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = normals / jnp.maximum(jnp.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    lit = shade(
        jnp.einsum("nc,ncx->nx", bary, albedo[triangles]), normals, parameters[split:].reshape(9, 3)
    )
    # One camera a person, somewhere in front; points that face away are turned round, so that all
    # are seen.
    spread = jax.random.normal(k_view, (3,)) * jnp.array([1.0, 0.4, 0.3])
    towards = jnp.array([0.0, 0.0, 1.2]) + spread
    towards = jnp.broadcast_to((towards / jnp.linalg.norm(towards))[None], normals.shape)
    facing = jnp.sum(towards * normals, axis=1, keepdims=True)
    towards = towards - 2.0 * jnp.minimum(facing, 0.0) * normals
    points = jnp.einsum("nc,ncx->nx", bary, corners)
    return {"points": points, "normals": normals, "colours": lit, "views": -towards}


def sample_colours(
    sampler: HeadSampler, colours: ColourSampler, config: SampleConfig, key: Array
) -> dict:
    """A batch of random people with colours.

    Returns:
        z_id (S, k), z_exp (S, e), z_colour (S, p) standardised; points, normals, colours and views
        (S, N, 3) of `colour_points`.
    """

    def one(key):
        k_codes, k_colour, k_points = jax.random.split(key, 3)
        identity, expression = head_points.sample_codes(sampler, config, k_codes)
        vertices = head_points.canonical_vertices(sampler, identity, expression)
        parameters = draw_parameters(k_colour)
        codes = {"z_id": identity, "z_exp": expression}
        points = colour_points(sampler, colours, config, k_points, vertices, parameters)
        return codes | {"z_colour": standardise(colours, parameters)} | points

    return jax.vmap(one)(jax.random.split(key, config.heads))
