"""Turn a training run into released weights.

`python -m experiments.implicit_deformation.release --model ict_head.npz --run runs/x --out NAME`

Writes NAME.safetensors and NAME.json: networks, principal components of the codes, and landmarks
as a linear map of the codes. Stages that have not finished are released from their newest
checkpoint, and said so.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import sys

import jax
import numpy as np

from data_pipelines import head_colours, head_points
from experiments.implicit_deformation import train
from experiments.implicit_deformation.batches import code_table, pad
from experiments.implicit_deformation.config import STAGES, TrainConfig
from experiments.implicit_deformation.objectives import initial_parameters, stage_objective
from jaxrecon.errors import InputError
from jaxrecon.fitting.latents import linear_landmarks, principal_components
from jaxrecon.interop.weights import config_from_dict, save_weights
from jaxrecon.training.checkpoints import Checkpoints
from jaxrecon.training.objectives import create_objectives_state

SAMPLES = 8192
DTYPES = ("float32", "float16")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Release the weights of a run."""

    model: pathlib.Path
    """The head model the run was trained on."""
    run: pathlib.Path
    """Folder of the run."""
    out: pathlib.Path
    """Path of the weights, without suffix."""
    identity_components: int | None = None
    """m_id; None keeps all identity directions the prior was trained on."""
    expression_variance: float = 0.995
    """Share of the variance of expression codes that the components explain."""
    notice: str = "see that model's own licence"
    """Copyright and licence notice of the head model; copied into the header."""
    licence: str = "that of the head model"
    """Licence of the weights; copied into the header."""
    colour_variance: float = 0.99
    """Likewise for colour codes."""
    dtype: str = "float32"
    """Of the networks: `float32`, or `float16` for files of half the size; loaded as float32."""


def restore(config: TrainConfig, run: pathlib.Path, sampler) -> tuple[dict, dict[str, int]]:
    """(parameters as `objectives.initial_parameters`, steps done of each stage) of a run."""
    params = initial_parameters(config, sampler)
    done = {}
    for name in STAGES:
        done[name] = 0
        if not (run / name).is_dir():
            continue
        checkpoints = Checkpoints(run / name)
        if checkpoints.latest() is not None:
            objective = stage_objective(config, name)
            state = checkpoints.restore(
                create_objectives_state(params, [objective], jax.random.key(0))
            )
            params, done[name] = state.params, int(state.step)
        checkpoints.close()
    return params, done


def latent_space(config: TrainConfig, params: dict, sampler, colours, arguments: Arguments) -> dict:
    """Arrays of `fitting.latents.LatentSpace` from the codes of random people."""
    net = config.network

    def person(key):
        k_codes, k_colour = jax.random.split(key)
        identity, expression = head_points.sample_codes(sampler, config.deformation.sample, k_codes)
        parameters = head_colours.draw_parameters(k_colour)
        return identity, expression, head_colours.standardise(colours, parameters)

    keys = jax.random.split(jax.random.key(config.seed + 1), SAMPLES)
    identity, expression, colour = jax.jit(jax.vmap(person))(keys)
    if config.codes == "table":
        table = code_table(config, sampler)
        rows = np.arange(len(table["expression"]))
        identity, expression = table["identity"][rows // config.expressions], table["expression"]
        z_id = params["codes"]["z_id"][rows // config.expressions]
        z_exp, z_colour = params["codes"]["z_exp"], params["colour_codes"]
    else:
        z_id, z_exp = pad(identity, net.id_dim), pad(expression, net.exp_dim)
        z_colour = pad(colour, net.colour_dim)

    @jax.jit
    def marks(identity, expression):
        vertices = jax.vmap(functools.partial(head_points.canonical_vertices, sampler))
        return head_points.landmark_points(sampler, vertices(identity, expression))

    chunks = [
        marks(identity[i : i + 64], expression[i : i + 64]) for i in range(0, len(identity), 64)
    ]
    points = np.concatenate([np.asarray(c) for c in chunks])
    z_id, z_exp, z_colour = (np.asarray(z) for z in (z_id, z_exp, z_colour))
    mean, of_id, of_exp = linear_landmarks(z_id, z_exp, points)
    if config.codes == "coefficients":
        # The model's modes are its principal components already, in order of their effect on the
        # surface.
        used = min(arguments.identity_components or net.id_dim, sampler.identities)
        id_mean, id_basis = (
            np.zeros(net.id_dim, np.float32),
            np.eye(net.id_dim, dtype=np.float32)[:used],
        )
    else:
        id_mean, id_basis = principal_components(z_id, arguments.identity_components)
    exp_mean, exp_basis = principal_components(z_exp, variance=arguments.expression_variance)
    colour_mean, colour_basis = principal_components(z_colour, variance=arguments.colour_variance)
    return {
        "id_mean": id_mean,
        "id_basis": id_basis,
        "exp_mean": exp_mean,
        "exp_basis": exp_basis,
        "colour_mean": colour_mean,
        "colour_basis": colour_basis,
        "landmarks_mean": mean,
        "landmarks_id": of_id,
        "landmarks_exp": of_exp,
    }


def main(arguments: Arguments) -> int:
    """Release; exit code."""
    import json

    path = arguments.run / "config.json"
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file", "the folder of a training run", "train first")
        if arguments.dtype not in DTYPES:
            raise InputError(f"--dtype {arguments.dtype}", f"one of {DTYPES}", "choose one")
        config = config_from_dict(TrainConfig, json.loads(path.read_text()), str(path))
        train.require_model(arguments.run / "run.json", arguments.model)
        sampler = train.run_sampler(config, arguments.model)
        params, done = restore(config, arguments.run, sampler)
        colours = head_colours.make_colour_sampler(arguments.model)
        space = latent_space(config, params, sampler, colours, arguments)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    params = {k: params[k] for k in ("reference", "deformation", "rendering")}
    digest = train.describe_model(arguments.model)["model_sha256"]
    for name, steps in done.items():
        if steps < getattr(config, name).steps:
            print(f"warning: {name} is unfinished: {steps} steps", file=sys.stderr)
    # Codes and landmarks stay float32: half precision would move landmarks by 0.04 mm.
    params = jax.tree.map(functools.partial(np.asarray, dtype=arguments.dtype), params)
    space = jax.tree.map(functools.partial(np.asarray, dtype=np.float32), space)
    header = {
        "system": "implicit_deformation",
        "network": dataclasses.asdict(config.network),
        "training": dataclasses.asdict(config) | {"network": "above"},
        "steps": done,
        "canonical": {
            "unit_mm": head_points.HEAD_SCALE_MM,
            "centre_mm": list(head_points.HEAD_CENTRE_MM),
            "axes": "x to the subject's left, y up, z out of the face",
        },
        "source": f"Trained on samples of {arguments.model.name} (sha256 {digest}); "
        f"{arguments.notice}",
        "licence": arguments.licence,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    save_weights(arguments.out, {"params": params, "latent": space}, header)
    print(
        f"{arguments.out}.safetensors  steps {done}  components "
        f"{ {k: v.shape[0] for k, v in space.items() if k.endswith('basis')} }"
    )
    return 0


if __name__ == "__main__":
    from experiments.command_line import parse

    sys.exit(main(parse(Arguments)))
