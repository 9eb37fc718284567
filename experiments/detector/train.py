"""Train a detector.

    python -m experiments.detector.train --preset face --data DATA/faces --out runs/face

DATA/faces/train and DATA/faces/validation hold shards of `data_pipelines.detector_faces`
(`detector_bodies` for `--preset person`). The run saves under OUT, is interrupted by SIGINT,
SIGTERM or `--minutes` without loss, and goes on when called again (exit code 0: finished, 130:
call again). `release.py` turns it into weights. Needs jax, flax, optax, orbax and numpy alone.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import re
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.detector.config import PRESETS, TrainConfig
from experiments.detector.data import batches, load_backgrounds, load_split
from experiments.detector.objectives import make_loss, take_pictures, total_loss
from experiments.run_folder import require_same, write_records
from jaxrecon.detect.network import DetectorNetwork
from jaxrecon.errors import InputError
from jaxrecon.training import loop
from jaxrecon.training.checkpoints import Checkpoints
from jaxrecon.training.state import TrainState, create_state
from jaxrecon.training.step import train_step

WARM_UP = 200
"""Steps in which the learning rate rises."""
CLIP = 10.0
"""Norm that gradients are clipped to."""
FIRST_SCALE = 0.1
"""Of what residual convolutions add that the weights of `--start` lack."""
HELD_OUT = 128
"""Pictures that a run measures itself on."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train a detector of faces or people."""

    data: pathlib.Path
    """Folder with train and validation shards."""
    out: pathlib.Path
    """Folder of the run: checkpoints, metrics.jsonl, config.json."""
    preset: str = "face"
    """face, person or tiny."""
    steps: int | None = None
    """Instead of the preset's."""
    batch: int | None = None
    """Instead of the preset's."""
    learning_rate: float | None = None
    """Instead of the preset's."""
    seed: int = 0
    """Of initialisation, order and pictures."""
    start: pathlib.Path | None = None
    """Weights to start from, of `release`, instead of random ones; they may have fewer blocks."""
    photos: pathlib.Path | None = None
    """Folder of photographs without people, as backgrounds in half of the pictures."""
    minutes: float | None = None
    """Stop after this time from the start of the command, with all saved; exit code 130."""


def optimiser(config: TrainConfig) -> optax.GradientTransformation:
    """AdamW with a cosine schedule, gradients clipped."""
    warm = min(WARM_UP, max(1, config.steps // 4))
    rate = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warm, config.steps)
    return optax.chain(
        optax.clip_by_global_norm(CLIP), optax.adamw(rate, weight_decay=config.weight_decay)
    )


def initial_state(config: TrainConfig, start: pathlib.Path | None = None) -> TrainState:
    """A fresh state, random or of released weights.

    Raises:
        InputError: weights of another network.
    """
    network = DetectorNetwork(config.network)
    key = jax.random.key(config.seed)
    size = config.network.size
    variables = jax.jit(network.init)(key, jnp.zeros((1, size, size, 3)))
    params, stats = variables["params"], variables["batch_stats"]
    if start is not None:
        from jaxrecon.interop.weights import load_weights

        tree, _ = load_weights(start)
        tree = grown(tree, jax.device_get(dict(variables)))
        if jax.tree.map(np.shape, tree) != jax.tree.map(np.shape, dict(variables)):
            raise InputError(f"{start}: weights of another network", "those of this preset", "")
        params, stats = tree["params"], tree["batch_stats"]
    return create_state(params, optimiser(config), key, stats)


def grown(tree: dict, variables: dict) -> dict:
    """Weights with the residual convolutions of `variables` that they lack, which at first say
    little (`FIRST_SCALE`).
    """
    if set(tree) != set(variables):  # weights of something else
        return tree
    tree = {collection: dict(modules) for collection, modules in tree.items()}
    for name in variables["params"]:
        if re.fullmatch(r"(level|up)\d_\d+", name) and name not in tree["params"]:
            new = variables["params"][name]
            scale = FIRST_SCALE * new["norm"]["scale"]
            tree["params"][name] = {**new, "norm": {**new["norm"], "scale": scale}}
            tree["batch_stats"][name] = variables["batch_stats"][name]
    return tree


def resolve(arguments: Arguments) -> TrainConfig:
    """The preset with the command line's changes.

    Raises:
        InputError: values that no run can have.
    """
    if arguments.preset not in PRESETS:
        raise InputError(f"--preset {arguments.preset}", f"one of {sorted(PRESETS)}", "choose one")
    own = {
        name: getattr(arguments, name)
        for name in ("steps", "batch", "learning_rate")
        if getattr(arguments, name) is not None
    }
    try:
        return dataclasses.replace(PRESETS[arguments.preset], seed=arguments.seed, **own)
    except ValueError as error:
        raise InputError(str(error), "a configuration that can be trained") from error


def held_out(config: TrainConfig, data: dict):
    """TrainState -> metrics on fixed pictures of held-out people."""
    count = min(HELD_OUT, len(data["image"])) // config.batch * config.batch
    if count == 0:
        raise InputError(
            f"{len(data['image'])} validation examples", f"at least a batch of {config.batch}"
        )
    keys = jax.random.split(jax.random.key(config.seed + 1), count)
    chosen = {n: value[:count] for n, value in data.items() if n != "seed"} | {"key": keys}
    take = jax.jit(functools.partial(take_pictures, config))
    taken = [jax.device_get(take(part)) for part in _parts(chosen, config.batch)]
    pictures = jax.tree.map(lambda *parts: np.concatenate(parts), *taken)

    @jax.jit
    def measure(params, stats, batch):
        variables = {"params": params, "batch_stats": stats}
        output: Any = DetectorNetwork(config.network).apply(variables, batch["image"])
        value, metrics = total_loss(config.network, config.weights, output, batch)
        return metrics | {"loss": value}

    def evaluate(state: TrainState) -> dict:
        values = [
            jax.device_get(measure(state.params, state.batch_stats, part))
            for part in _parts(pictures, config.batch)
        ]
        return {f"held_out_{k}": float(np.mean([v[k] for v in values])) for k in values[0]}

    return evaluate


def _parts(data: dict, batch: int) -> list[dict]:
    count = len(data["image"])
    return [{k: v[i : i + batch] for k, v in data.items()} for i in range(0, count, batch)]


def train(
    config: TrainConfig,
    data: pathlib.Path,
    out: pathlib.Path,
    start: pathlib.Path | None = None,
    deadline: float | None = None,
    photos: pathlib.Path | None = None,
) -> tuple[TrainState, bool]:
    """(state, finished) of a run, resuming what is there.

    Raises:
        InputError: no data, or the run was started with another configuration.
    """
    examples = load_split(data / "train", config.subject)
    unseen = load_split(data / "validation", config.subject, HELD_OUT)
    behind = None if photos is None else load_backgrounds(photos)
    record(config, out, describe(examples, behind, start))
    state = initial_state(config, start)
    step = jax.jit(
        functools.partial(train_step, make_loss(config, behind), optimiser(config)),
        donate_argnums=0,
    )
    checkpoints = Checkpoints(out / "checkpoints")
    state, finished = loop.run(
        state,
        step,
        lambda first: batches(examples, config.batch, config.seed, first),
        config.steps,
        name=config.subject,
        checkpoints=checkpoints,
        save_every=250,
        metrics_file=out / "metrics.jsonl",
        evaluate=held_out(config, unseen),
        evaluate_every=500,
        deadline=deadline,
    )
    checkpoints.close()
    return state, finished


def describe(examples: dict, behind: np.ndarray | None, start: pathlib.Path | None) -> dict:
    """What a run was trained on, as OUT/data.json holds it."""
    seeds = examples["seed"]
    return {
        "examples": len(seeds),
        "seeds": [int(seeds.min()), int(seeds.max())],
        "photographs": 0 if behind is None else len(behind),
        "start": None if start is None else start.name,
    }


def record(config: TrainConfig, out: pathlib.Path, data: dict) -> None:
    """Write OUT/config.json and OUT/data.json, or see that they agree with those there.

    Raises:
        InputError: the run was started with another configuration, or with other data: batches
            would not be those of an uninterrupted run.
    """
    records = {"config.json": dataclasses.asdict(config), "data.json": data}
    for name, content in records.items():
        require_same(out / name, content)
    write_records(out, records)


def main(arguments: Arguments) -> int:
    """Run the training; exit code."""
    deadline = None
    if arguments.minutes is not None:
        deadline = time.monotonic() + 60.0 * arguments.minutes
    try:
        config = resolve(arguments)
        _, finished = train(
            config, arguments.data, arguments.out, arguments.start, deadline, arguments.photos
        )
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print("finished" if finished else "interrupted; call again to resume", file=sys.stderr)
    return 0 if finished else 130


if __name__ == "__main__":
    from experiments.command_line import parse

    sys.exit(main(parse(Arguments)))
