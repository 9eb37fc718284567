"""Compacted sphere tracing against the plain fixed-shape schedule of IDR, on one random network.

    python -m benchmarks.sphere_tracing

The baseline evaluates every ray at every step (22 bidirectional-sphere, 100 sampling and 8 secant
evaluations: what a fixed-shape port of IDR's tracer costs). Both run in one process, in turn;
medians. One JSON line.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time

import jax
import jax.numpy as jnp

from jaxrecon.geometry.cameras import intrinsics, look_at, pixel_grid, pixel_rays
from jaxrecon.geometry.ray_bounds import ray_sphere_interval
from jaxrecon.geometry.sphere_tracing import TraceConfig, sphere_trace
from jaxrecon.systems.implicit_deformation import networks

ROUNDS = 7
SIDE = 64


@functools.partial(jax.jit, static_argnums=())
def fixed_schedule(field, origins, directions):
    """22 clamped sphere steps, 100 samples, 8 secant steps for all rays: (depth, hit)."""
    near, far = ray_sphere_interval(origins, directions, (0.0, 0.0, 0.0), 1.0)
    inside = near < far
    near, far = jnp.where(inside, near, 0.0), jnp.where(inside, far, 0.0)

    def at(t):
        return field(origins + t[:, None] * directions)

    t = jax.lax.fori_loop(0, 22, lambda _, t: jnp.minimum(t + jnp.maximum(at(t), 0.0), far), near)
    fractions = jnp.linspace(0.0, 1.0, 100)
    depths = t[:, None] + (far - t)[:, None] * fractions[None, :]
    points = origins[:, None] + depths[..., None] * directions[:, None]
    values = field(points.reshape(-1, 3)).reshape(depths.shape)
    first = jnp.argmax(values < 0, axis=1)
    hit = jnp.any(values < 0, axis=1) & inside
    before = jnp.maximum(first - 1, 0)

    def pick(x, i):
        return jnp.take_along_axis(x, i[:, None], axis=1)[:, 0]

    def secant(_, bracket):
        a, fa, b, fb = bracket
        middle = a + (b - a) * fa / jnp.where(fa - fb > 1e-9, fa - fb, 1e-9)
        f = at(middle)
        return (
            jnp.where(f > 0, middle, a),
            jnp.where(f > 0, f, fa),
            jnp.where(f > 0, b, middle),
            jnp.where(f > 0, fb, f),
        )

    start = (pick(depths, before), pick(values, before), pick(depths, first), pick(values, first))
    a, *_ = jax.lax.fori_loop(0, 8, secant, start)
    return a, hit


def main(argv: list[str] | None = None) -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sphere_tracing", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"by default {ROUNDS}")
    rounds = parser.parse_args(argv).rounds
    config = networks.PRESETS["small"]
    params = networks.init(jax.random.key(0), config)["params"]
    code = jnp.zeros(config.geo_dim)
    field = networks.sdf_field(config, networks.condition(params, code), lipschitz=1.2)
    camera = look_at(jnp.array([0.3, 0.2, 3.0]), jnp.zeros(3), intrinsics(1.6 * SIDE, SIDE, SIDE))
    origins, directions = pixel_rays(camera, pixel_grid(SIDE, SIDE).reshape(-1, 2))
    traced = jax.jit(sphere_trace, static_argnums=3)
    settings = TraceConfig(radius=1.0)
    runs = {
        "compacted": lambda: traced(field, origins, directions, settings),
        "fixed": lambda: fixed_schedule(field, origins, directions),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    results = {name: jax.block_until_ready(run()) for name, run in runs.items()}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    trace, (_, hit) = results["compacted"], results["fixed"]
    line = {
        "benchmark": "sphere_tracing",
        "device": jax.devices()[0].device_kind,
        "rays": SIDE * SIDE,
        "ratio_fixed_over_compacted": round(medians["fixed"] / medians["compacted"], 2),
        "seconds_compacted": round(medians["compacted"], 4),
        "evaluations_per_ray": round(float(trace.evaluations) / SIDE**2, 1),
        "evaluations_per_ray_fixed": 130,
        "hits_differ": int(jnp.sum(trace.hit != hit)),
        "hits": int(jnp.sum(hit)),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
