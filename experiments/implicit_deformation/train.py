"""Train the head prior.

    python -m experiments.implicit_deformation.train --model ict_head.npz --out runs/x

Three stages (Sec. 3.3 and 4.1 of the paper): the reference shape, the deformation with codes, the
rendering network. With `codes=table` all codes are learned, as in the paper: z_id and z_exp in
stage 2, z_colour in stage 3; every person of the table has one albedo and lighting.
Every stage saves under OUT/<stage>, is interrupted by SIGINT, SIGTERM or `--minutes` without loss,
and resumes when called again (exit code 0: finished, 130: call again). `release.py` turns the
result into weights. Needs jax, flax, optax, orbax and numpy alone.

Deviation: the rendering network is trained on coloured surface points, with the geometry fixed,
not on traced pixels.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
import sys
import time

import jax
import jax.numpy as jnp

from data_pipelines import head_colours, head_points
from data_pipelines.head_points import HeadSampler, SampleConfig
from experiments.implicit_deformation.batches import (
    code_table,
    geometry_batch,
    reference_batch,
    rendering_batch,
)
from experiments.implicit_deformation.config import PRESETS, STAGES, TrainConfig
from experiments.implicit_deformation.objectives import (
    held_out_batch,
    held_out_errors,
    initial_parameters,
    stage_objective,
)
from experiments.run_folder import require_same, write_records
from jaxrecon.errors import InputError
from jaxrecon.models.parametric.face import load_face_model
from jaxrecon.training import loop, parallel
from jaxrecon.training.checkpoints import Checkpoints
from jaxrecon.training.objectives import create_objectives_state, objectives_step
from jaxrecon.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train the head prior of implicit_deformation."""

    model: pathlib.Path
    """Linear head model (.npz), such as ict_head.npz."""
    out: pathlib.Path
    """Folder of the run: checkpoints, metrics.jsonl, config.json, run.json."""
    preset: str = "small"
    """tiny, small or paper."""
    codes: str | None = None
    """`coefficients` or `table`; the preset's choice if not given."""
    steps: float = 1.0
    """Factor on the number of steps of every stage."""
    seed: int = 0
    """Seed of initialisation and data, below 900,000; people to measure on have greater ones."""
    devices: int | None = None
    """Devices to train on; by default all, in stages whose number of heads divides by theirs."""
    chunks: int | None = None
    """Parts of a batch whose gradients are computed one after another; by default of
    about 500 points each on a CPU, where that is faster, and the whole batch elsewhere."""
    minutes: float | None = None
    """Stop after this time from the start of the command, with all saved; exit code 130."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """What changes how fast a run is, and its results by rounding alone."""

    devices: int | None = None
    """See `Arguments`."""
    chunks: int | None = None
    """See `Arguments`."""
    deadline: float | None = None
    """Of `loop.run`."""

    def mesh(self, heads: int) -> jax.sharding.Mesh:
        """The devices of a stage with `heads` heads a batch: those asked for, or one if it has
        fewer heads; all if not asked, or one if its heads do not divide by theirs.

        Raises:
            InputError: there are fewer devices, or the heads do not divide by those asked for.
        """
        mesh, devices = parallel.make_mesh(self.devices), self.devices
        if devices is not None and heads >= devices and heads % devices:
            divisor = f"a divisor of the {heads} heads of a batch"
            raise InputError(f"--devices {devices}", divisor, "")
        return mesh if heads % mesh.size == 0 else parallel.make_mesh(1)

    def parts(self, sample: SampleConfig, mesh: jax.sharding.Mesh) -> int:
        """Chunks of a stage's batch on a mesh.

        Raises:
            InputError: the heads of a device do not divide by the chunks asked for.
        """
        own = sample.heads // mesh.size
        if self.chunks is None:
            if jax.default_backend() != "cpu":
                return 1
            # Activations of some 500 points stay in the caches of a CPU core: 1.5 times as fast.
            each = sample.surface + sample.volume
            return max(
                d for d in range(1, own + 1) if own % d == 0 and (d == 1 or own // d * each >= 500)
            )
        if sample.heads == 1:
            return 1
        if self.chunks < 1 or own % self.chunks:
            divisor = f"a divisor of the {own} heads of a device's batch"
            raise InputError(f"--chunks {self.chunks}", divisor, "")
        return self.chunks


def run_sampler(config: TrainConfig, model: pathlib.Path) -> HeadSampler:
    """The head model of a run, prepared for sampling."""
    face = load_face_model(model)
    modes = min(config.network.id_dim, face.identity.shape[0])
    return head_points.make_sampler(face, config.deformation.sample, modes)


def stage_batch(config: TrainConfig, name: str, sampler: HeadSampler, model: pathlib.Path):
    """key -> batch of a stage."""
    if name == "reference":
        return functools.partial(reference_batch, config, sampler)
    table = code_table(config, sampler) if config.codes == "table" else None
    if name == "deformation":
        return functools.partial(geometry_batch, config, sampler, table)
    colours = head_colours.make_colour_sampler(model)
    return functools.partial(rendering_batch, config, sampler, colours, table)


def run_stage(
    name: str,
    config: TrainConfig,
    sampler: HeadSampler,
    model: pathlib.Path,
    out: pathlib.Path,
    params: dict,
    machine: Machine,
) -> tuple[dict, bool]:
    """One stage: (all parameters after it, finished)."""
    stage = getattr(config, name)
    mesh = machine.mesh(stage.sample.heads)
    chunks = machine.parts(stage.sample, mesh)
    objectives = [stage_objective(config, name)]
    key = jax.random.fold_in(jax.random.key(config.seed), STAGES.index(name))
    state = parallel.replicate(create_objectives_state(params, objectives, key), mesh)
    checkpoints = Checkpoints(out / name)
    step = parallel.jitted(functools.partial(objectives_step, objectives, chunks=chunks), mesh)
    sample = jax.jit(stage_batch(config, name, sampler, model))

    def batches(start):
        while True:
            yield sample(jax.random.fold_in(jax.random.fold_in(key, 1), start))
            start += 1

    measure = name == "deformation" and config.codes == "coefficients"
    unseen = held_out_batch(config, sampler) if measure else None

    def held_out(state: TrainState) -> dict:
        errors = held_out_errors(config.network, state.params, unseen)
        return {k: float(v) for k, v in errors.items()}

    state, finished = loop.run(
        state,
        step,
        batches,
        stage.steps,
        name=name,
        checkpoints=checkpoints,
        metrics_file=out / "metrics.jsonl",
        evaluate=held_out if measure else None,
        deadline=machine.deadline,
    )
    checkpoints.close()
    # Off the mesh: the next stage may have another.
    return jax.tree.map(jnp.asarray, jax.device_get(state.params)), finished


def train(
    config: TrainConfig, model: pathlib.Path, out: pathlib.Path, machine: Machine | None = None
) -> tuple[dict, bool]:
    """All stages, resuming what is there: (parameters as `initial_parameters`, finished)."""
    machine = machine or Machine()
    for name in STAGES:  # bad requests before the first stage, not after it
        sample = getattr(config, name).sample
        machine.parts(sample, machine.mesh(sample.heads))
    sampler = run_sampler(config, model)
    params, finished = initial_parameters(config, sampler), True
    for name in STAGES:
        params, finished = run_stage(name, config, sampler, model, out, params, machine)
        if not finished:
            break
    return params, finished


def resolve(arguments: Arguments) -> TrainConfig:
    """The preset with the command line's changes.

    Raises:
        InputError: values that no run can have.
    """
    if arguments.preset not in PRESETS:
        raise InputError(f"--preset {arguments.preset}", f"one of {sorted(PRESETS)}", "choose one")
    config = PRESETS[arguments.preset]
    stages = {
        s: dataclasses.replace(
            getattr(config, s), steps=max(1, round(arguments.steps * getattr(config, s).steps))
        )
        for s in STAGES
    }
    codes = arguments.codes or config.codes
    try:
        return dataclasses.replace(config, seed=arguments.seed, codes=codes, **stages)
    except ValueError as error:
        raise InputError(str(error), "a configuration that can be trained") from error


def describe_model(model: pathlib.Path) -> dict:
    """{model, model_sha256} of a head model's file, as `run.json` holds them."""
    return {"model": model.name, "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest()}


def record(config: TrainConfig, model: pathlib.Path, out: pathlib.Path) -> None:
    """Write OUT/config.json and OUT/run.json, or see that they agree with those there.

    Raises:
        InputError: the run was started with another configuration or another head model.
    """
    load_face_model(model)  # a file that is none must not be recorded
    settings, data = dataclasses.asdict(config), out / "run.json"
    require_same(out / "config.json", settings)
    if data.exists():
        require_model(data, model)
    write_records(out, {"run.json": describe_model(model), "config.json": settings})


def require_model(data: pathlib.Path, model: pathlib.Path) -> None:
    """See that `model` is the file that a run's `run.json` names.

    Raises:
        InputError: it is another, or `run.json` is damaged.
    """
    try:
        before = json.loads(data.read_text())
        name, digest = before["model"], before["model_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{data}: damaged", "the run.json of a training run") from error
    if digest != describe_model(model)["model_sha256"]:
        raise InputError(
            f"{model}: not the head model of this run, which {data} names",
            f"{name} with sha256 {digest}",
            "give that file, or use another --out",
        )


def main(arguments: Arguments) -> int:
    """Run the training; exit code."""
    deadline = None
    if arguments.minutes is not None:
        deadline = time.monotonic() + 60.0 * arguments.minutes
    machine = Machine(arguments.devices, arguments.chunks, deadline)
    try:
        config = resolve(arguments)
        record(config, arguments.model, arguments.out)
        _, finished = train(config, arguments.model, arguments.out, machine)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print("finished" if finished else "interrupted; call again to resume", file=sys.stderr)
    return 0 if finished else 130


if __name__ == "__main__":
    from experiments.command_line import parse

    sys.exit(main(parse(Arguments)))
