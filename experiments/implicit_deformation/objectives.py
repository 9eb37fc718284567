"""The three stages of training as named objectives, and what is measured on unseen people."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

from data_pipelines import head_points
from data_pipelines.head_points import HeadSampler
from experiments.implicit_deformation.batches import code_table, pad
from experiments.implicit_deformation.config import Stage, TrainConfig
from jaxrecon.systems.implicit_deformation import losses, networks
from jaxrecon.training.objectives import Objective

HELD_OUT_PEOPLE = 32
HELD_OUT_POINTS = 192
"""Of each; with the people, 6,144 points: a hundredth of the time between two evaluations."""
HELD_OUT_SEED = 2_000_000
"""Seed of the first unseen person; training takes seeds below `config.SEEDS`."""


@functools.partial(jax.jit, static_argnums=0)
def _initial_networks(network: networks.Config, key: jax.Array) -> dict:
    return networks.init(key, network)["params"]


def initial_parameters(config: TrainConfig, sampler: HeadSampler) -> dict:
    """{reference, deformation, rendering} at the start of a run; with a table of learned codes
    also codes {z_id, z_exp} and colour_codes.
    """
    params = _initial_networks(config.network, jax.random.key(config.seed))
    if config.codes == "coefficients":
        return params
    table = code_table(config, sampler)
    codes = {name: table[name] for name in ("z_id", "z_exp")}
    return params | {"codes": codes, "colour_codes": table["z_colour"]}


def make_optimiser(stage: Stage) -> optax.GradientTransformation:
    """Adam, after a clip of the gradient's norm (a guard of ours)."""
    rate = stage.rate
    if stage.decay:
        warm = min(100, stage.steps // 10)
        rate = optax.warmup_cosine_decay_schedule(0.0, rate, warm, stage.steps, 0.01 * rate)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def stage_objective(config: TrainConfig, name: str) -> Objective:
    """What a stage minimises, and over which parameters (Sec. 3.3 of the paper)."""
    table = config.codes == "table"
    loss, trainable = {
        "reference": (reference_loss, ["reference"]),
        "deformation": (deformation_loss, ["reference", "deformation"] + ["codes"] * table),
        "rendering": (rendering_loss, ["rendering"] + ["colour_codes"] * table),
    }[name]
    optimiser = make_optimiser(getattr(config, name))
    return Objective(name, functools.partial(loss, config), optimiser, tuple(trainable))


def reference_loss(config: TrainConfig, params: dict, batch: dict):
    """Eq. 8 of the reference shape alone."""
    return losses.geometry_loss(config.network, params, batch, config.weights)


def deformation_loss(config: TrainConfig, params: dict, batch: dict):
    """Eq. 8, with codes from the batch or from the table in the parameters."""
    weights = config.weights
    if config.codes == "coefficients":  # known codes need no regulariser
        weights = dataclasses.replace(weights, code=0.0)
    return losses.geometry_loss(config.network, params, with_codes(config, params, batch), weights)


def with_codes(config: TrainConfig, params: dict, batch: dict) -> dict:
    """A batch with its z_id and z_exp, which are in the table of the parameters where the batch
    names its rows by `index`.
    """
    if "index" not in batch:
        return batch
    codes, row = params["codes"], batch["index"]
    return batch | {"z_id": codes["z_id"][row // config.expressions], "z_exp": codes["z_exp"][row]}


def rendering_loss(config: TrainConfig, params: dict, batch: dict):
    """Eq. 10 at the network's own surface points (one Newton step from the model's), and |z_c| of
    Eq. 9 where z_colour is learned.
    """
    net, weights = config.network, losses.RenderWeights()
    batch = with_codes(config, params, batch)
    learned = "index" in batch
    if learned:
        person = batch["index"] // config.expressions
        batch = batch | {"z_colour": params["colour_codes"][person]}

    def one(z_id, z_exp, z_colour, points, views):
        conditioning = networks.condition(params, jnp.concatenate([z_id, z_exp]))
        values, gradients, _, _ = losses.surface_query(net, conditioning, points)
        squared = jnp.maximum(jnp.sum(gradients**2, axis=-1), 0.1)
        points = points - (values / squared)[:, None] * gradients
        _, gradients, features, _ = losses.surface_query(net, conditioning, points)
        points, normals, features = jax.lax.stop_gradient(
            (points, losses.normalise(gradients), features)
        )
        layers = networks.condition_colour(params, z_colour)
        return networks.colour(net, layers, points, normals, views, features)

    predicted = jax.vmap(one)(
        batch["z_id"], batch["z_exp"], batch["z_colour"], batch["points"], batch["views"]
    )
    rgb = losses.rgb_loss(predicted, batch["colours"], jnp.ones(predicted.shape[:-1]))
    loss, metrics = weights.rgb * rgb, {"rgb": rgb / 3.0}
    if learned:
        metrics["code"] = jnp.mean(losses.safe_norm(batch["z_colour"]))
        loss = loss + weights.code * metrics["code"]
    return loss, metrics


@functools.partial(jax.jit, static_argnums=0)
def held_out_batch(config: TrainConfig, sampler: HeadSampler) -> dict:
    """Points and normals (S, N, 3) of people that training cannot draw, the same for every run,
    with their codes: {z_id, z_exp, points, normals}.
    """
    sample = dataclasses.replace(
        config.deformation.sample, heads=1, surface=HELD_OUT_POINTS, volume=2
    )
    seeds = HELD_OUT_SEED + jnp.arange(HELD_OUT_PEOPLE)

    def person(seed):
        k_codes, k_points = jax.random.split(jax.random.key(seed))
        identity, expression = head_points.sample_codes(sampler, sample, k_codes)
        vertices = head_points.canonical_vertices(sampler, identity, expression)
        points = head_points.sample_points(sampler, sample, k_points, vertices)
        return {
            "z_id": pad(identity, config.network.id_dim),
            "z_exp": pad(expression, config.network.exp_dim),
            "points": points["points"],
            "normals": points["normals"],
        }

    return jax.lax.map(person, seeds)


def point_errors(net: networks.Config, params: dict, code, points, normals):
    """(|s| / |gradient|, cosine of the normals) (n,) at true surface points (n, 3) of an instance;
    without a code, of the reference shape. Canonical units.
    """
    conditioning = networks.condition(params, code)
    values, gradients, _, _ = losses.surface_query(net, conditioning, points)
    error = jnp.abs(values) / losses.safe_norm(gradients)
    return error, jnp.sum(losses.normalise(gradients) * normals, axis=-1)


@functools.partial(jax.jit, static_argnums=0)
def held_out_errors(net: networks.Config, params: dict, batch: dict) -> dict:
    """Surface error |s| / |gradient| (mm) and normal cosine at points of people with known
    codes.
    """

    def one(person):
        code = jnp.concatenate([person["z_id"], person["z_exp"]])
        return point_errors(net, params, code, person["points"], person["normals"])

    error, cosine = jax.lax.map(one, {k: batch[k] for k in ("z_id", "z_exp", "points", "normals")})
    error = error * head_points.HEAD_SCALE_MM
    return {
        "held_out_mm": jnp.mean(error),
        "held_out_median_mm": jnp.median(error),
        "held_out_p95_mm": jnp.quantile(error, 0.95),
        "held_out_cosine": jnp.mean(cosine),
    }
