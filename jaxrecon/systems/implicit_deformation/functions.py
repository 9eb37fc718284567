"""The networks as the plain functions that fitting takes."""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrecon.systems.implicit_deformation import networks
from jaxrecon.systems.implicit_deformation.networks import Config


def condition(params: dict, z_id: Float[Array, "i"], z_exp: Float[Array, "e"]) -> dict:
    """Folded geometry networks of z_geo = {z_id, z_exp}."""
    return networks.condition(params, jnp.concatenate([z_id, z_exp]))


@functools.cache
def functions(config: Config) -> dict:
    """{condition, level_set, geometry, condition_colour, colour, fine_tuned}, the same objects for
    equal configs.

    Give them to `fitting.problem.FieldFunctions(**functions(config))`, a static argument of jitted
    fits.
    """
    return {
        "condition": condition,
        "level_set": functools.partial(networks.level_set, config),
        "geometry": functools.partial(networks.geometry, config),
        "condition_colour": networks.condition_colour,
        "colour": functools.partial(networks.colour, config),
        "fine_tuned": "rendering",
    }
