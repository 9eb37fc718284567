"""Train the head prior.

    python -m experiments.implicit_deformation.train --model ict_head.npz --out runs/x

Three stages (Sec. 3.3 and 4.1 of the paper): the reference shape, the deformation with codes, the
rendering network. With `codes=table` all codes are learned, as in the paper: z_id and z_exp in
stage 2, z_colour in stage 3; every person of the table has one albedo and lighting.
Every stage saves under OUT/<stage>, is interrupted by SIGINT or SIGTERM without loss, and resumes
when called again. `release.py` turns the result into weights.

Deviation: the rendering network is trained on coloured surface points, with the geometry fixed,
not on traced pixels.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import optax

from data_pipelines import head_colours, head_points
from experiments.implicit_deformation.batches import (
    code_table,
    geometry_batch,
    reference_batch,
    rendering_batch,
)
from experiments.implicit_deformation.config import PRESETS, Stage, TrainConfig
from jaxrecon.errors import InputError
from jaxrecon.models.parametric.face import load_face_model
from jaxrecon.systems.implicit_deformation import losses, networks
from jaxrecon.training import loop, parallel
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
    devices: int | None = None
    """Devices to train on; by default all, in stages whose number of heads divides by theirs."""


def make_optimiser(stage: Stage) -> optax.GradientTransformation:
    """Adam, after a clip of the gradient's norm (a guard of ours)."""
    rate = stage.rate
    if stage.decay:
        warm = min(100, stage.steps // 10)
        rate = optax.warmup_cosine_decay_schedule(0.0, rate, warm, stage.steps, 0.01 * rate)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


@functools.partial(jax.jit, static_argnums=0)
def _initial_parameters(network: networks.Config, key: jax.Array) -> dict:
    return networks.init(key, network)["params"]


def initial_parameters(config: TrainConfig) -> dict:
    """{reference, deformation, rendering} at the start of a run."""
    return _initial_parameters(config.network, jax.random.key(config.seed))


def geometry_loss(config: TrainConfig, params: dict, batch: dict):
    """Eq. 8, with codes from the batch or from the table in the parameters."""
    if "index" in batch:
        codes = params["codes"]
        row = batch["index"]
        batch = batch | {
            "z_id": codes["z_id"][row // config.expressions],
            "z_exp": codes["z_exp"][row],
        }
    weights = config.weights
    if config.codes == "coefficients":  # known codes need no regulariser
        weights = dataclasses.replace(weights, code=0.0)
    return losses.geometry_loss(config.network, params, batch, weights)


def rendering_loss(config: TrainConfig, geometry: dict, params: dict, batch: dict):
    """Eq. 10 at the network's own surface points (one Newton step from the model's), and |z_c| of
    Eq. 9 where z_colour is learned.
    """
    net, weights = config.network, losses.RenderWeights()
    learned = "person" in batch
    if learned:
        batch = batch | {"z_colour": params["colour_codes"][batch["person"]]}

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
    rgb = losses.rgb_loss(predicted, batch["colours"], jnp.ones(predicted.shape[:-1]))
    loss, metrics = weights.rgb * rgb, {"rgb": rgb / 3.0}
    if learned:
        metrics["code"] = jnp.mean(losses.safe_norm(batch["z_colour"]))
        loss = loss + weights.code * metrics["code"]
    return loss, metrics


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


def stage_mesh(heads: int, devices: int | None) -> jax.sharding.Mesh:
    """The devices of a stage with `heads` heads a batch: those asked for, or one if it has fewer
    heads; all if not asked, or one if its heads do not divide by theirs.

    Raises:
        InputError: there are fewer devices, or the heads do not divide by those asked for.
    """
    mesh = parallel.make_mesh(devices)
    if devices is not None and heads >= devices and heads % devices:
        raise InputError(f"--devices {devices}", f"a divisor of the {heads} heads of a batch", "")
    return mesh if heads % mesh.size == 0 else parallel.make_mesh(1)


def run_stage(
    name: str,
    config: TrainConfig,
    out: pathlib.Path,
    params: dict,
    loss,
    sample,
    mesh: jax.sharding.Mesh,
):
    """One stage: (trained parameters, finished)."""
    stage: Stage = getattr(config, name)
    optimiser = make_optimiser(stage)
    key = jax.random.fold_in(jax.random.key(config.seed), STAGES.index(name))
    state = parallel.replicate(create_state(params, optimiser, key), mesh)
    checkpoints = Checkpoints(out / name)
    step = parallel.jitted(functools.partial(train_step, loss, optimiser), mesh)
    sample = jax.jit(sample)

    def batches(start):
        while True:
            yield sample(jax.random.fold_in(jax.random.fold_in(key, 1), start))
            start += 1

    def held_out(state: TrainState) -> dict:
        batch = sample_held_out(state)
        return {
            k: float(v) for k, v in held_out_errors(config.network, state.params, batch).items()
        }

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
    # Off the mesh: the next stage may have another.
    return jax.tree.map(jnp.asarray, jax.device_get(state.params)), finished


def _held_out_batch(config: TrainConfig, sample):
    batch = sample(jax.random.key(10_000 + config.seed))
    return lambda state: batch


def train(
    config: TrainConfig, model: pathlib.Path, out: pathlib.Path, devices: int | None = None
) -> tuple[dict, bool]:
    """All stages, resuming what is there: (parameters, finished).

    Parameters are {reference, deformation, rendering}; with a table also codes {z_id, z_exp} and
    colour_codes.
    """
    meshes = {name: stage_mesh(getattr(config, name).sample.heads, devices) for name in STAGES}
    face = load_face_model(model)
    sampler = head_points.make_sampler(
        face,
        config.deformation.sample,
        identities=min(config.network.id_dim, face.identity.shape[0]),
    )
    params = initial_parameters(config)
    part, finished = run_stage(
        "reference",
        config,
        out,
        stage_parameters("reference", params, None),
        functools.partial(geometry_loss, config),
        functools.partial(reference_batch, config, sampler),
        meshes["reference"],
    )
    params |= part
    if not finished:
        return params, False

    table = code_table(config, sampler) if config.codes == "table" else None
    sample = functools.partial(geometry_batch, config, sampler, table)
    part, finished = run_stage(
        "deformation",
        config,
        out,
        stage_parameters("deformation", params, table),
        functools.partial(geometry_loss, config),
        sample,
        meshes["deformation"],
    )
    params |= part
    if not finished:
        return params, False
    if table is not None:
        table = table | params["codes"]
    geometry = {k: params[k] for k in ("reference", "deformation")}
    colours = head_colours.make_colour_sampler(model)
    part, finished = run_stage(
        "rendering",
        config,
        out,
        stage_parameters("rendering", params, table),
        functools.partial(rendering_loss, config, geometry),
        functools.partial(rendering_batch, config, sampler, colours, table),
        meshes["rendering"],
    )
    return params | part, finished


def stage_parameters(name: str, params: dict, table: dict | None) -> dict:
    """What a stage trains, at its start: networks, and the codes of the table."""
    if name == "reference":
        return {"reference": params["reference"]}
    if name == "deformation":
        part = {k: params[k] for k in ("reference", "deformation")}
        return part if table is None else part | {"codes": {k: table[k] for k in ("z_id", "z_exp")}}
    part = {"rendering": params["rendering"]}
    return part if table is None else part | {"colour_codes": table["z_colour"]}


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
        _, finished = train(config, arguments.model, arguments.out, arguments.devices)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print("finished" if finished else "interrupted; call again to resume", file=sys.stderr)
    return 0 if finished else 130


if __name__ == "__main__":
    import tyro

    sys.exit(main(tyro.cli(Arguments)))
