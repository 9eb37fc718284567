"""Turn a training run into released weights.

`python -m experiments.implicit_deformation.release --model ict_head.npz --run runs/x --out NAME`

Writes NAME.safetensors and NAME.json: networks, principal components of the codes, and landmarks
as a linear map of the codes. Stages that have not finished are released from their newest
checkpoint, and said so.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import pathlib
import sys

import jax
import numpy as np

from data_pipelines import head_colours, head_points
from experiments.implicit_deformation import train
from experiments.implicit_deformation.batches import code_table, pad
from experiments.implicit_deformation.config import TrainConfig
from jaxrecon.errors import InputError
from jaxrecon.fitting.latents import linear_landmarks, principal_components
from jaxrecon.interop.weights import config_from_dict, save_weights
from jaxrecon.models.parametric.face import load_face_model
from jaxrecon.training.checkpoints import Checkpoints
from jaxrecon.training.state import create_state

SAMPLES = 8192


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


def restore(config: TrainConfig, run: pathlib.Path, sampler) -> tuple[dict, dict[str, int]]:
    """(parameters, steps done of each stage) of a run."""
    params = train.initial_parameters(config)
    table = code_table(config, sampler) if config.codes == "table" else None
    done = {}
    for name in train.STAGES:
        if not (run / name).is_dir():
            done[name] = 0
            continue
        part = train.stage_parameters(name, params, table)
        like = create_state(part, train.make_optimiser(getattr(config, name)), jax.random.key(0))
        checkpoints = Checkpoints(run / name)
        if checkpoints.latest() is None:
            checkpoints.close()
            done[name] = 0
            continue
        state = checkpoints.restore(like)
        checkpoints.close()
        params |= state.params
        done[name] = int(state.step)
    if table is not None:  # codes of stages that have not begun
        params.setdefault("codes", {k: table[k] for k in ("z_id", "z_exp")})
        params.setdefault("colour_codes", table["z_colour"])
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
        return vertices(identity, expression)[:, sampler.landmarks]

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
        config = config_from_dict(TrainConfig, json.loads(path.read_text()), str(path))
        face = load_face_model(arguments.model)
        sampler = head_points.make_sampler(
            face, config.deformation.sample, min(config.network.id_dim, face.identity.shape[0])
        )
        params, done = restore(config, arguments.run, sampler)
        colours = head_colours.make_colour_sampler(arguments.model)
        space = latent_space(config, params, sampler, colours, arguments)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    params = {k: params[k] for k in ("reference", "deformation", "rendering")}
    digest = hashlib.sha256(arguments.model.read_bytes()).hexdigest()
    for name, steps in done.items():
        if steps < getattr(config, name).steps:
            print(f"warning: {name} is unfinished: {steps} steps", file=sys.stderr)
    to_numpy = functools.partial(np.asarray, dtype=np.float32)
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
    tree = jax.tree.map(to_numpy, {"params": params, "latent": space})
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    save_weights(arguments.out, tree, header)
    print(
        f"{arguments.out}.safetensors  steps {done}  components "
        f"{ {k: v.shape[0] for k, v in space.items() if k.endswith('basis')} }"
    )
    return 0


if __name__ == "__main__":
    import tyro

    sys.exit(main(tyro.cli(Arguments)))
