"""Batches of the three training stages: people drawn anew, or of a table of learned codes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import head_colours, head_points
from data_pipelines.head_colours import ColourSampler
from data_pipelines.head_points import HeadSampler, SampleConfig
from experiments.implicit_deformation.config import TrainConfig


def pad(codes: jax.Array, width: int) -> jax.Array:
    """Codes cut or zero-padded to `width` channels."""
    codes = codes[..., :width]
    return jnp.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, width - codes.shape[-1])])


@functools.partial(jax.jit, static_argnums=0)
def code_table(config: TrainConfig, sampler: HeadSampler) -> dict:
    """Known coefficients and starting codes of a fixed set of people, for `codes=table`.

    Codes start at N(0, 1 / dim) (i3DMM); one z_id and z_colour a person, one z_exp a person and
    expression. `colour` holds each person's albedo and lighting (`head_colours.draw_parameters`).
    """
    seed = jax.random.key(config.seed)
    keys = jax.random.split(jax.random.fold_in(seed, 77), 4)
    k_colour, k_code = jax.random.split(jax.random.fold_in(seed, 78))
    people, faces = config.identities, config.identities * config.expressions
    net = config.network

    def codes(key, count, width):
        return jax.random.normal(key, (count, width)) / np.sqrt(width)

    clip = config.deformation.sample.identity_clip
    identity = jax.random.normal(keys[0], (people, sampler.identities))
    expressions = jax.vmap(functools.partial(head_points.sample_expression, sampler))
    return {
        "identity": jnp.clip(identity, -clip, clip),
        "expression": expressions(jax.random.split(keys[1], faces)),
        "colour": jax.vmap(head_colours.draw_parameters)(jax.random.split(k_colour, people)),
        "z_id": codes(keys[2], people, net.id_dim),
        "z_exp": codes(keys[3], faces, net.exp_dim),
        "z_colour": codes(k_code, people, net.colour_dim),
    }


def table_row(config: TrainConfig, sampler: HeadSampler, table: dict, key):
    """A random row of the table: (row of its expression, row of its person, canonical vertices)."""
    row = jax.random.randint(key, (), 0, config.identities * config.expressions)
    person = row // config.expressions
    identity, expression = table["identity"][person], table["expression"][row]
    return row, person, head_points.canonical_vertices(sampler, identity, expression)


def sample_table(
    config: TrainConfig, sample: SampleConfig, sampler: HeadSampler, table: dict, key
) -> dict:
    """A batch of people of the table; `index` (S,) names their expression rows."""

    def one(key):
        k_row, k_points = jax.random.split(key)
        row, _, vertices = table_row(config, sampler, table, k_row)
        return {"index": row, **head_points.sample_points(sampler, sample, k_points, vertices)}

    return jax.vmap(one)(jax.random.split(key, sample.heads))


def sample_coloured_table(
    config: TrainConfig, sampler: HeadSampler, colours: ColourSampler, table: dict, key
) -> dict:
    """A coloured batch of people of the table; `index` (S,) names their expression rows."""
    sample = config.rendering.sample

    def one(key):
        k_row, k_points = jax.random.split(key)
        row, person, vertices = table_row(config, sampler, table, k_row)
        look = table["colour"][person]
        return {"index": row} | head_colours.colour_points(
            sampler, colours, sample, k_points, vertices, look
        )

    return jax.vmap(one)(jax.random.split(key, sample.heads))


def reference_batch(config: TrainConfig, sampler: HeadSampler, key: jax.Array) -> dict:
    """Points of the mean head with a neutral expression."""
    mean = sampler.mean
    points = head_points.sample_points(sampler, config.reference.sample, key, mean)
    del points["reference_points"]
    return jax.tree.map(lambda x: x[None], points)


def geometry_batch(config: TrainConfig, sampler: HeadSampler, table: dict | None, key) -> dict:
    """A batch of stage 2."""
    if table is not None:
        return sample_table(config, config.deformation.sample, sampler, table, key)
    batch = head_points.sample_heads(sampler, config.deformation.sample, key)
    net = config.network
    return batch | {
        "z_id": pad(batch["z_id"], net.id_dim),
        "z_exp": pad(batch["z_exp"], net.exp_dim),
    }


def rendering_batch(
    config: TrainConfig, sampler: HeadSampler, colours: ColourSampler, table: dict | None, key
) -> dict:
    """A batch of stage 3."""
    if table is not None:
        return sample_coloured_table(config, sampler, colours, table, key)
    batch = head_colours.sample_colours(sampler, colours, config.rendering.sample, key)
    net = config.network
    return batch | {
        "z_id": pad(batch["z_id"], net.id_dim),
        "z_exp": pad(batch["z_exp"], net.exp_dim),
        "z_colour": pad(batch["z_colour"], net.colour_dim),
    }
