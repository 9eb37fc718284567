"""A tiny training that may kill itself: FOLDER... [during:N | after:N].

The process is killed while the save of step N is being written in the background, or after it,
with the next step under way. Prints the step it starts from, of one run after
another; at its end, each writes FOLDER/final.npz.
"""

import functools
import os
import pathlib
import signal
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

import jax
import numpy as np
import optax

from data_pipelines import head_points
from data_pipelines.synthetic_head import write_synthetic_head
from jaxrecon.models.layers import Encoding
from jaxrecon.models.parametric.face import load_face_model
from jaxrecon.systems.implicit_deformation import losses, networks
from jaxrecon.training import loop, parallel
from jaxrecon.training.checkpoints import Checkpoints
from jaxrecon.training.state import create_state
from jaxrecon.training.step import train_step

STEPS, SAVE_EVERY = 20, 4
SAMPLE = head_points.SampleConfig(heads=2, surface=32, volume=16)


def main(folder: pathlib.Path, kill: str = "") -> None:
    """Train, or die."""
    moment, _, number = kill.partition(":")
    with tempfile.TemporaryDirectory() as temporary:
        face = load_face_model(write_synthetic_head(pathlib.Path(temporary) / "head.npz"))
    sampler = head_points.make_sampler(face, SAMPLE)
    config = networks.Config(
        id_dim=sampler.identities,
        exp_dim=len(face.expression_names),
        features=4,
        reference_hidden=(16,),
        deformation_hidden=(16,),
        rendering_hidden=(8,),
        encoding=Encoding(bands=2, include_input=True, scale=float(np.pi / 2)),
        weight_norm=False,
    )
    params = networks.init(jax.random.key(0), config)["params"]
    params = {name: params[name] for name in ("reference", "deformation")}

    def loss(params, batch):
        return losses.geometry_loss(config, params, batch, losses.GeometryWeights())

    optimiser = optax.adam(1e-2)
    key = jax.random.key(1)
    sample = jax.jit(functools.partial(head_points.sample_heads, sampler, SAMPLE))

    def batches(start):
        print("start", start, flush=True)
        for i in range(start, STEPS):
            if moment and i == int(number):
                # Just saved: once that is half written, or in the end complete, die.
                name = f"{number}.*tmp*" if moment == "during" else number
                patience = time.monotonic() + 20
                while not list(folder.glob(name)) and time.monotonic() < patience:
                    pass
                os.kill(os.getpid(), signal.SIGKILL)
            yield sample(jax.random.fold_in(key, i))

    mesh = parallel.make_mesh(1)
    state, finished = loop.run(
        parallel.replicate(create_state(params, optimiser, key), mesh),
        parallel.jitted(functools.partial(train_step, loss, optimiser), mesh),
        batches,
        STEPS,
        checkpoints=Checkpoints(folder),
        save_every=SAVE_EVERY,
    )
    assert finished
    leaves = jax.tree_util.tree_leaves_with_path((state.params, state.opt_state))
    values = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    np.savez(folder / "final.npz", **values)


if __name__ == "__main__":
    moments = [a for a in sys.argv[1:] if a.startswith(("during:", "after:"))]
    for argument in sys.argv[1:]:
        if argument not in moments:
            main(pathlib.Path(argument), *moments)
