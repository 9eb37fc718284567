"""Turn a training run into released weights.

    python -m experiments.detector.release --run runs/face --out jaxrecon/assets/detector_face

Writes NAME.safetensors (float16) and NAME.json. A run that has not finished is released from its
newest checkpoint, and said so in the header.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys

import jax
import numpy as np

from experiments.detector.config import TrainConfig
from experiments.detector.train import initial_state
from jaxrecon.errors import InputError
from jaxrecon.interop.weights import config_from_dict, save_weights
from jaxrecon.training.checkpoints import Checkpoints


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Release the weights of a run."""

    run: pathlib.Path
    """Folder of the run."""
    out: pathlib.Path
    """Path of the weights, without suffix."""
    data: str = ""
    """What it was trained on, in words; copied into the header."""
    notice: str = ""
    """Copyright and licence notices of the models the data were rendered from."""


def release(arguments: Arguments) -> dict:
    """Write the weights; returns the header."""
    text = json.loads((arguments.run / "config.json").read_text())
    config = config_from_dict(TrainConfig, text, f"{arguments.run}/config.json")
    checkpoints = Checkpoints(arguments.run / "checkpoints")
    state = checkpoints.restore(initial_state(config))
    checkpoints.close()
    tree = {"params": dict(state.params), "batch_stats": dict(state.batch_stats)}
    half = jax.tree.map(lambda x: np.asarray(x, np.float16), jax.device_get(tree))
    header = {
        "system": f"detector_{config.subject}",
        "network": dataclasses.asdict(config.network),
        "training": {
            **dataclasses.asdict(config),
            "steps_done": int(state.step),
            "data": arguments.data,
            **_described(arguments.run / "data.json"),
        },
        "notice": arguments.notice,
        "licence": "Apache-2.0",
    }
    save_weights(arguments.out, half, header)
    return header


def _described(path: pathlib.Path) -> dict:
    """What `train.describe` wrote."""
    return json.loads(path.read_text()) if path.exists() else {}


def main(arguments: Arguments) -> int:
    """Exit code."""
    try:
        header = release(arguments)
    except (InputError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{arguments.out}: {header['training']['steps_done']} steps", file=sys.stderr)
    return 0


if __name__ == "__main__":
    from experiments.command_line import parse

    sys.exit(main(parse(Arguments)))
