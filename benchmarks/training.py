"""Throughput of training the deformation stage, and how much of the machine's arithmetic it uses.

    python -m benchmarks.training [--preset small] [--model ict_head.npz] [--devices N]

Baseline: a float32 matrix product of the size 2048 (4096 on an accelerator) in the same process, at
the precision that the step uses; step and product are timed in turn, medians. A step's arithmetic
is XLA's own count for the compiled program. Without `--model`, the toy head of
`data_pipelines.synthetic_head`, whose step costs the same but for sampling. One JSON line.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp

from data_pipelines import head_points
from data_pipelines.synthetic_head import write_synthetic_head
from experiments.implicit_deformation import train
from experiments.implicit_deformation.config import PRESETS
from jaxrecon.models.parametric.face import load_face_model
from jaxrecon.systems.implicit_deformation import networks
from jaxrecon.training import parallel
from jaxrecon.training.state import create_state
from jaxrecon.training.step import train_step

ROUNDS = 9
STEPS = 4
"""A round."""


def make_sampler(path: pathlib.Path | None, sample, identities: int):
    """The head model at `path`, or the toy head, prepared for sampling."""
    with tempfile.TemporaryDirectory() as folder:
        model = load_face_model(path or write_synthetic_head(pathlib.Path(folder) / "head.npz"))
    return head_points.make_sampler(model, sample, min(identities, len(model.identity)))


def main() -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--preset", choices=sorted(PRESETS), default="small")
    parser.add_argument("--model", type=pathlib.Path, help="head model (.npz)")
    parser.add_argument("--devices", type=int, help="by default all that divide the heads")
    arguments = parser.parse_args()

    config = PRESETS[arguments.preset]
    stage, net = config.deformation, config.network
    mesh = train.stage_mesh(stage.sample.heads, arguments.devices)
    sampler = make_sampler(arguments.model, stage.sample, net.id_dim)
    table = train.code_table(config, sampler) if config.codes == "table" else None
    sample = jax.jit(functools.partial(train.geometry_batch, config, sampler, table))
    params = networks.init(jax.random.key(0), net)["params"]
    params = train.stage_parameters("deformation", params, table)
    optimiser = train.make_optimiser(stage)
    one = functools.partial(train_step, functools.partial(train.geometry_loss, config), optimiser)
    state = parallel.replicate(create_state(params, optimiser, jax.random.key(1)), mesh)
    batch = sample(jax.random.key(2))
    cost = jax.jit(one).lower(state, batch).compile().cost_analysis() or {}
    flops = cost["flops"]
    step = parallel.jitted(one, mesh)

    size = 2048 if jax.default_backend() == "cpu" else 4096
    a = parallel.shard_batch(jax.random.normal(jax.random.key(3), (size, size)), mesh)
    b = parallel.replicate(jax.random.normal(jax.random.key(4), (size, size)), mesh)
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest"))

    def steps(sampling: bool):
        nonlocal state, batch
        for i in range(STEPS):
            if sampling:
                batch = sample(jax.random.key(i))
            state, _ = step(state, batch)
        jax.block_until_ready(state)

    runs = {
        "training": lambda: steps(True),
        "step": lambda: steps(False),
        "product": lambda: jax.block_until_ready(product(a, b)),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    rate, alone = STEPS / seconds["training"], STEPS / seconds["step"]
    peak = 2 * size**3 / seconds["product"]
    points = stage.sample.heads * (stage.sample.surface + stage.sample.volume)
    line = {
        "benchmark": "training",
        "device": jax.devices()[0].device_kind,
        "devices": mesh.size,
        "preset": arguments.preset,
        "model": arguments.model.name if arguments.model else "toy",
        "steps_per_second": round(rate, 2),
        "points_per_second": round(rate * points),
        "steps_per_second_without_sampling": round(alone, 2),
        "gigaflop_per_step": round(flops / 1e9, 2),
        "matmul_peak_gigaflops": round(peak / 1e9, 1),
        "fraction_of_matmul_peak": round(rate * flops / peak, 3),
        "fraction_without_sampling": round(alone * flops / peak, 3),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
