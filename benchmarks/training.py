"""Throughput of a stage of training, and how much of the machine's arithmetic it uses.

    python -m benchmarks.training [--preset small] [--stage deformation] [--model ict_head.npz]

Baseline: a float32 matrix product of the size 2048 (4096 on an accelerator) in the same process, on
the same devices and threads, at the precision that the step uses; step, sampling and product are
timed in turn, medians. A step's arithmetic is XLA's own count for the compiled program. Without
`--model`, the toy head of `data_pipelines.synthetic_head`, whose step costs the same but for
sampling. Load on the machine at the time is printed beside the numbers: on a busy machine only the
fractions mean something. One JSON line.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import pathlib
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp

from data_pipelines.synthetic_head import write_synthetic_head
from experiments.implicit_deformation import objectives, train
from experiments.implicit_deformation.config import PRESETS, STAGES
from jaxrecon.training import parallel
from jaxrecon.training.objectives import create_objectives_state, objectives_step

ROUNDS = 9
STEPS = 4
"""A round."""


def main(argv: list[str] | None = None) -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training",
        description=(__doc__ or "").split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--preset", choices=sorted(PRESETS), default="small", help="of training")
    parser.add_argument("--stage", choices=STAGES, default="deformation", help="of the preset")
    parser.add_argument("--model", type=pathlib.Path, help="head model (.npz); None: the toy head")
    parser.add_argument("--devices", type=int, help="None: all that divide the heads of a batch")
    parser.add_argument("--chunks", type=int, help="as in training; None: what training takes")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of which medians are taken")
    parser.add_argument("--steps", type=int, default=STEPS, help="of training, a round")
    arguments = parser.parse_args(argv)
    print(json.dumps(measure(arguments)))


def measure(arguments: argparse.Namespace) -> dict:
    """What is printed."""
    config = PRESETS[arguments.preset]
    stage = getattr(config, arguments.stage)
    machine = train.Machine(arguments.devices, arguments.chunks)
    mesh = machine.mesh(stage.sample.heads)
    chunks = machine.parts(stage.sample, mesh)
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or write_synthetic_head(pathlib.Path(folder) / "head.npz")
        sampler = train.run_sampler(config, model)
        sample = jax.jit(train.stage_batch(config, arguments.stage, sampler, model))
    params = objectives.initial_parameters(config, sampler)
    players = [objectives.stage_objective(config, arguments.stage)]
    one = functools.partial(objectives_step, players)
    fresh = create_objectives_state(params, players, jax.random.key(1))
    # The whole batch at once: XLA counts the body of a loop over chunks a single time.
    whole = jax.jit(one).lower(fresh, jax.eval_shape(sample, jax.random.key(2))).compile()
    flops = (whole.cost_analysis() or {})["flops"]
    step = parallel.jitted(functools.partial(one, chunks=chunks), mesh)
    now = {"state": parallel.replicate(fresh, mesh), "batch": sample(jax.random.key(2))}

    size = 2048 if jax.default_backend() == "cpu" else 4096
    a = parallel.shard_batch(jax.random.normal(jax.random.key(3), (size, size)), mesh)
    b = parallel.replicate(jax.random.normal(jax.random.key(4), (size, size)), mesh)
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest"))

    def steps(sampling: bool):
        for i in range(arguments.steps):
            if sampling:
                now["batch"] = sample(jax.random.key(i))
            now["state"], _ = step(now["state"], now["batch"])
        jax.block_until_ready(now["state"])

    def samples():
        for i in range(arguments.steps):
            jax.block_until_ready(sample(jax.random.key(i)))

    seconds = medians(
        {
            "training": lambda: steps(True),
            "step": lambda: steps(False),
            "sampling": samples,
            "product": lambda: jax.block_until_ready(product(a, b)),
        },
        arguments.rounds,
    )
    rate, alone = arguments.steps / seconds["training"], arguments.steps / seconds["step"]
    peak = 2 * size**3 / seconds["product"]
    points = stage.sample.heads * stage.sample.surface
    if arguments.stage != "rendering":
        points += stage.sample.heads * stage.sample.volume
    return {
        "benchmark": "training",
        "device": jax.devices()[0].device_kind,
        "devices": mesh.size,
        "load_average": round(os.getloadavg()[0], 1),
        "preset": arguments.preset,
        "stage": arguments.stage,
        "model": arguments.model.name if arguments.model else "toy",
        "chunks": chunks,
        "steps_per_second": round(rate, 3),
        "points_per_second": round(rate * points),
        "steps_per_second_without_sampling": round(alone, 3),
        "sampling_share": round(seconds["sampling"] / seconds["training"], 3),
        "gigaflop_per_step": round(flops / 1e9, 2),
        "matmul_peak_gigaflops": round(peak / 1e9, 1),
        "fraction_of_matmul_peak": round(rate * flops / peak, 3),
        "fraction_without_sampling": round(alone * flops / peak, 3),
    }


def medians(runs: dict, rounds: int) -> dict[str, float]:
    """Median seconds of each of `runs`, taken in turn after one call that compiles."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
