"""Train the head prior: `python -m experiments.implicit_deformation.train --preset small --model ict_head.npz --out runs/x`.

Three stages (Sec. 3.3 and 4.1 of the paper): the reference shape, the deformation with codes, the rendering network.
Every stage saves under OUT/<stage>, is interrupted by SIGINT or SIGTERM without loss, and resumes when called again.
`release.py` turns the result into weights.

Deviation: the rendering network is trained on coloured surface points, with the geometry fixed, not on traced pixels.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from data_pipelines import head_colours, head_points
from data_pipelines.head_points import HeadSampler, SampleConfig
from experiments.implicit_deformation.config import PRESETS, Stage, TrainConfig
from jaxrecon.errors import InputError
from jaxrecon.models.parametric.face import load_face_model
from jaxrecon.systems.implicit_deformation import losses, networks
from jaxrecon.training import loop
from jaxrecon.training.checkpoints import Checkpoints
from jaxrecon.training.state import TrainState, create_state
from jaxrecon.training.step import train_step

STAGES = ("reference", "deformation", "rendering")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train the head prior of implicit_deformation."""

    model: pathlib.Path
    """Linear head model (.npz), such as ict_head.npz."""
    out: pathlib.Path
    """Folder of the run: checkpoints, metrics.jsonl, config.json."""
    preset: str = "small"
    """tiny, small or paper."""
    codes: str | None = None
    """`coefficients` or `table`; the preset's choice if not given."""
    steps: float = 1.0
    """Factor on the number of steps of every stage."""
    seed: int = 0
    """Seed of initialisation and data."""


def pad(codes: jax.Array, width: int) -> jax.Array:
    """Codes cut or zero-padded to `width` channels."""
    codes = codes[..., :width]
    return jnp.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, width - codes.shape[-1])])


def make_optimiser(stage: Stage) -> optax.GradientTransformation:
    """Adam, after a clip of the gradient's norm (a guard of ours)."""
    rate = stage.rate
    if stage.decay:
        warm = min(100, stage.steps // 10)
        rate = optax.warmup_cosine_decay_schedule(0.0, rate, warm, stage.steps, 0.01 * rate)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def code_table(config: TrainConfig, sampler: HeadSampler) -> dict:
    """Known coefficients and starting codes of a fixed set of people, for `codes=table`.

    Codes start at N(0, 1 / dim) (i3DMM); one z_id a person, one z_exp a person and expression.
    """
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 77), 4)
    people, faces = config.identities, config.identities * config.expressions
    net = config.network
    return {
        "identity": jnp.clip(jax.random.normal(keys[0], (people, sampler.identities)), -3, 3),
        "expression": jax.vmap(lambda k: head_points.sample_expression(sampler, k))(
            jax.random.split(keys[1], faces)
        ),
        "z_id": jax.random.normal(keys[2], (people, net.id_dim)) / np.sqrt(net.id_dim),
        "z_exp": jax.random.normal(keys[3], (faces, net.exp_dim)) / np.sqrt(net.exp_dim),
    }


def sample_table(config: TrainConfig, sample: SampleConfig, sampler: HeadSampler, table: dict, key) -> dict:
    """A batch of people of the table; `index` (S,) names their expression rows."""

    def one(key):
        k_row, k_points = jax.random.split(key)
        row = jax.random.randint(k_row, (), 0, config.identities * config.expressions)
        identity = table["identity"][row // config.expressions]
        vertices = head_points.canonical_vertices(sampler, identity, table["expression"][row])
        return {"index": row, **head_points.sample_points(sampler, sample, k_points, vertices)}

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
    return batch | {"z_id": pad(batch["z_id"], net.id_dim), "z_exp": pad(batch["z_exp"], net.exp_dim)}


def geometry_loss(config: TrainConfig, params: dict, batch: dict):
    """Eq. 8, with codes from the batch or from the table in the parameters."""
    if "index" in batch:
        codes = params["codes"]
        row = batch["index"]
        batch = batch | {"z_id": codes["z_id"][row // config.expressions], "z_exp": codes["z_exp"][row]}
    weights = config.weights
    if config.codes == "coefficients":  # known codes need no regulariser
        weights = dataclasses.replace(weights, code=0.0)
    return losses.geometry_loss(config.network, params, batch, weights)


def rendering_batch(config: TrainConfig, sampler: HeadSampler, colours, table: dict | None, key) -> dict:
    """A batch of stage 3; the codes of geometry are those of stage 2."""
    if table is not None:
        raise InputError(
            "stage `rendering` with codes=table",
            "codes=coefficients",
            "train the rendering network on known coefficients",
        )
    batch = head_colours.sample_colours(sampler, colours, config.rendering.sample, key)
    net = config.network
    return batch | {
        "z_id": pad(batch["z_id"], net.id_dim),
        "z_exp": pad(batch["z_exp"], net.exp_dim),
        "z_colour": pad(batch["z_colour"], net.colour_dim),
    }


def rendering_loss(config: TrainConfig, geometry: dict, params: dict, batch: dict):
    """Eq. 10 at the network's own surface points (one Newton step from the model's)."""
    net = config.network

    def one(z_id, z_exp, z_colour, points, views):
        conditioning = networks.condition(geometry, jnp.concatenate([z_id, z_exp]))
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
    loss = losses.rgb_loss(predicted, batch["colours"], jnp.ones(predicted.shape[:-1]))
    return loss, {"rgb": loss / 3.0}


@functools.partial(jax.jit, static_argnums=0)
def held_out_errors(net: networks.Config, params: dict, batch: dict) -> dict:
    """Surface error |s| / |gradient| (mm) and normal cosine at points of unseen people."""

    def one(z_id, z_exp, points, normals):
        conditioning = networks.condition(params, jnp.concatenate([z_id, z_exp]))
        values, gradients, _, _ = losses.surface_query(net, conditioning, points)
        error = jnp.abs(values) / losses.safe_norm(gradients) * head_points.HEAD_SCALE_MM
        return error, jnp.sum(losses.normalise(gradients) * normals, axis=-1)

    error, cosine = jax.vmap(one)(batch["z_id"], batch["z_exp"], batch["points"], batch["normals"])
    return {
        "held_out_mm": jnp.mean(error),
        "held_out_median_mm": jnp.median(error),
        "held_out_p95_mm": jnp.quantile(error, 0.95),
        "held_out_cosine": jnp.mean(cosine),
    }


def run_stage(name: str, config: TrainConfig, out: pathlib.Path, params: dict, loss, sample):
    """One stage: (trained parameters, finished)."""
    stage: Stage = getattr(config, name)
    optimiser = make_optimiser(stage)
    key = jax.random.fold_in(jax.random.key(config.seed), STAGES.index(name))
    state = create_state(params, optimiser, key)
    checkpoints = Checkpoints(out / name)
    step = jax.jit(functools.partial(train_step, loss, optimiser), donate_argnums=0)
    sample = jax.jit(sample)

    def batches(start):
        while True:
            yield sample(jax.random.fold_in(jax.random.fold_in(key, 1), start))
            start += 1

    def held_out(state: TrainState) -> dict:
        batch = sample_held_out(state)
        return {k: float(v) for k, v in held_out_errors(config.network, state.params, batch).items()}

    sample_held_out = _held_out_batch(config, sample) if name == "deformation" else None
    state, finished = loop.run(
        state,
        step,
        batches,
        stage.steps,
        name=name,
        checkpoints=checkpoints,
        metrics_file=out / "metrics.jsonl",
        evaluate=held_out if sample_held_out and config.codes == "coefficients" else None,
    )
    checkpoints.close()
    return state.params, finished


def _held_out_batch(config: TrainConfig, sample):
    batch = sample(jax.random.key(10_000 + config.seed))
    return lambda state: batch


def train(config: TrainConfig, model: pathlib.Path, out: pathlib.Path) -> tuple[dict, bool]:
    """All stages, resuming what is there: ({reference, deformation, rendering[, codes]}, finished)."""
    face = load_face_model(model)
    sampler = head_points.make_sampler(
        face, config.deformation.sample, identities=min(config.network.id_dim, face.identity.shape[0])
    )
    params = networks.init(jax.random.key(config.seed), config.network)["params"]
    part = {"reference": params["reference"]}
    sample = functools.partial(reference_batch, config, sampler)
    part, finished = run_stage(
        "reference", config, out, part, functools.partial(geometry_loss, config), sample
    )
    params |= part
    if not finished:
        return params, False

    table = code_table(config, sampler) if config.codes == "table" else None
    part = {k: params[k] for k in ("reference", "deformation")}
    if table is not None:
        part["codes"] = {k: table[k] for k in ("z_id", "z_exp")}
    sample = functools.partial(geometry_batch, config, sampler, table)
    part, finished = run_stage(
        "deformation", config, out, part, functools.partial(geometry_loss, config), sample
    )
    params |= part
    if not finished:
        return params, False
    geometry = {k: params[k] for k in ("reference", "deformation")}
    colours = head_colours.make_colour_sampler(model)
    sample = functools.partial(rendering_batch, config, sampler, colours, table)
    loss = functools.partial(rendering_loss, config, geometry)
    part, finished = run_stage(
        "rendering", config, out, {"rendering": params["rendering"]}, loss, sample
    )
    return params | part, finished


def resolve(arguments: Arguments) -> TrainConfig:
    """The preset with the command line's changes."""
    if arguments.preset not in PRESETS:
        raise InputError(f"--preset {arguments.preset}", f"one of {sorted(PRESETS)}", "choose one")
    config = dataclasses.replace(PRESETS[arguments.preset], seed=arguments.seed)
    if arguments.codes is not None:
        config = dataclasses.replace(config, codes=arguments.codes)
    stages = {
        s: dataclasses.replace(
            getattr(config, s), steps=max(1, round(arguments.steps * getattr(config, s).steps))
        )
        for s in STAGES
    }
    return dataclasses.replace(config, **stages)


def main(arguments: Arguments) -> int:
    """Run the training; exit code."""
    try:
        config = resolve(arguments)
        arguments.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(dataclasses.asdict(config), indent=1)
        previous = arguments.out / "config.json"
        if previous.exists() and previous.read_text() != text:
            raise InputError(
                f"{previous}: differs from this configuration",
                "the configuration the run was started with",
                "use another --out, or the same options",
            )
        previous.write_text(text)
        _, finished = train(config, arguments.model, arguments.out)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print("finished" if finished else "interrupted; call again to resume", file=sys.stderr)
    return 0 if finished else 130


if __name__ == "__main__":
    import tyro

    sys.exit(main(tyro.cli(Arguments)))
