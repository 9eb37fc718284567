"""1,000 posed bodies in one jitted call, against NumPy and, where it is installed, PyTorch.

    python -m benchmarks.bodies [--model anny_body.npz] [--bodies 1000] [--chunk 8]

The baselines do the same arithmetic in float32, vectorised over the bodies of a batch (one product
of matrices each for shape and for skinning, the tree level by level), in batches of the size that
was the fastest of a few for them. All run in one process, in turn, on the machine's own threads;
medians. Without `--model`: random numbers of the free body's sizes (19,158 vertices, 55 joints, 64
shape modes). On an accelerator its own time is measured, the result left there. One JSON line.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrecon.models.parametric.body import BodyModel, body_model, load_body, posed_vertices
from jaxrecon.models.parametric.skeleton import pose_rotations

ROUNDS = 5
BATCHES = (1, 4, 16)
"""Bodies at a time, of which each baseline takes its best."""
TRIAL = 32
"""Bodies of a trial of batch sizes."""


def main(argv: list[str] | None = None) -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bodies", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--model", type=pathlib.Path, help="body model (.npz); None: random")
    parser.add_argument("--bodies", type=int, default=1000, help="by default 1000")
    parser.add_argument("--chunk", type=int, help="None: 8 on a CPU, 256 elsewhere")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"by default {ROUNDS}")
    print(json.dumps(measure(parser.parse_args(argv))))


def measure(arguments: argparse.Namespace) -> dict:
    """What is printed."""
    model = load_body(arguments.model) if arguments.model else random_body()
    rng, joints = np.random.default_rng(0), len(model.parents)
    betas = rng.standard_normal((arguments.bodies, len(model.shape_basis))).astype(np.float32)
    poses = 0.3 * rng.standard_normal((arguments.bodies, joints, 3)).astype(np.float32)
    chunk = arguments.chunk or (8 if jax.default_backend() == "cpu" else 256)
    ours = jax.jit(functools.partial(posed_vertices, chunk=chunk))
    on_device = (jnp.asarray(betas), jnp.asarray(poses))
    start = time.perf_counter()
    compiled = ours.lower(model, *on_device).compile()
    compile_seconds = time.perf_counter() - start
    rotations = np.asarray(pose_rotations(poses, joints))
    baselines = {"numpy": numpy_bodies(model), "torch": torch_bodies(model)}
    baselines = {name: f for name, f in baselines.items() if f is not None}
    reference = np.asarray(compiled(model, *on_device)[:TRIAL])
    errors, batches, runs = {}, {}, {}
    for name, function in baselines.items():
        few = (function, betas[:TRIAL], rotations[:TRIAL])
        found = np.concatenate(list(in_batches(*few, 4)))
        errors[name] = round(float(np.abs(found - reference).max()), 8)
        trials = {b: seconds(functools.partial(drain, *few, b)) for b in BATCHES}
        batches[name] = min(trials, key=trials.__getitem__)
        runs[name] = functools.partial(drain, function, betas, rotations, batches[name])
    runs["jax"] = lambda: jax.block_until_ready(compiled(model, *on_device))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            times[name].append(seconds(run))
    medians = {name: statistics.median(values) for name, values in times.items()}
    memory: Any = compiled.memory_analysis()
    return {
        "benchmark": "bodies",
        "device": jax.devices()[0].device_kind,
        "load_average": round(os.getloadavg()[0], 1),
        "model": arguments.model.name if arguments.model else "random",
        "bodies": arguments.bodies,
        "vertices": len(model.template),
        "joints": joints,
        "chunk": chunk,
        "bodies_per_second": {n: round(arguments.bodies / s, 1) for n, s in medians.items()},
        "ratio": {n: round(medians[n] / medians["jax"], 2) for n in baselines},
        "batch_of_baseline": batches,
        "largest_difference_m": errors,
        "compile_seconds": round(compile_seconds, 2),
        "result_mib": round(memory.output_size_in_bytes / 2**20, 1),
        "scratch_mib": round(memory.temp_size_in_bytes / 2**20, 1),
    }


def random_body(vertices: int = 19_158, joints: int = 55, shapes: int = 64) -> BodyModel:
    """A body of random numbers: a tree three wide, four bones a vertex."""
    rng = np.random.default_rng(1)
    weights = np.zeros((vertices, joints), np.float32)
    bones = rng.integers(0, joints, (vertices, 4))
    np.add.at(weights, (np.arange(vertices)[:, None], bones), 0.25)
    ids = rng.integers(0, vertices, (joints, 8))
    return body_model(
        {
            "v_template": rng.standard_normal((vertices, 3)).astype(np.float32),
            "shapedirs": 0.01 * rng.standard_normal((shapes, vertices, 3)).astype(np.float32),
            "joint_vertex_ids": ids,
            "parents": np.maximum(np.arange(joints) - 3, -(np.arange(joints) == 0)),
            "weights": weights,
            "faces": rng.integers(0, vertices, (16, 3)),
        }
    )


def levels(parents: tuple[int, ...]) -> list[np.ndarray]:
    """Joints at each depth of the tree but the root."""
    depth = np.zeros(len(parents), int)
    for j, parent in enumerate(parents):
        depth[j] = depth[parent] + 1 if parent >= 0 else 0
    return [np.flatnonzero(depth == d) for d in range(1, depth.max() + 1)]


def numpy_bodies(model: BodyModel) -> Callable:
    """(betas (n, k), rotations (n, j, 3, 3)) -> vertices (n, v, 3), all of NumPy."""
    m = jax.tree.map(np.asarray, model)
    parents, below = np.array(m.parents), levels(m.parents)
    basis = m.shape_basis.reshape(len(m.shape_basis), -1)
    joint_basis = m.joint_shape.reshape(len(m.joint_shape), -1)

    def run(betas, rotations):
        n, j = rotations.shape[:2]
        rest = m.template + (betas @ basis).reshape(n, -1, 3)
        joints = m.joint_template + (betas @ joint_basis).reshape(n, -1, 3)
        world = np.zeros((n, j, 4, 4), np.float32)
        world[..., :3, :3], world[..., 3, 3] = rotations, 1.0
        world[:, 0, :3, 3] = joints[:, 0]
        world[:, 1:, :3, 3] = joints[:, 1:] - joints[:, parents[1:]]
        for ids in below:
            world[:, ids] = world[:, parents[ids]] @ world[:, ids]
        world[..., :3, 3] -= (world[..., :3, :3] @ joints[..., None])[..., 0]
        if len(m.pose_basis):
            bent = (rotations[:, 1:] - np.eye(3, dtype=np.float32)).reshape(n, -1)
            rest = rest + (bent @ m.pose_basis.reshape(len(m.pose_basis), -1)).reshape(rest.shape)
        blend = (m.weights @ world[..., :3, :].reshape(n, j, 12)).reshape(n, -1, 3, 4)
        out = blend[..., 3]
        for axis in range(3):  # twice as fast as products of 3 x 3 matrices and vectors
            out = out + blend[..., axis] * rest[..., axis, None]
        return out

    return run


def torch_bodies(model: BodyModel) -> Callable | None:
    """As `numpy_bodies`, of PyTorch, on a GPU where it sees one; None where it is not installed."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def tensor(x):
        return torch.from_numpy(np.array(x)).to(device)

    names = ("template", "shape_basis", "joint_template", "joint_shape", "weights", "pose_basis")
    m = {name: tensor(getattr(model, name)) for name in names}
    parents, below = tensor(np.array(model.parents)), [tensor(i) for i in levels(model.parents)]
    basis, joint_basis = m["shape_basis"].flatten(1), m["joint_shape"].flatten(1)

    @torch.no_grad()
    def run(betas, rotations):
        betas, rotations = tensor(betas), tensor(rotations)
        n, j = rotations.shape[:2]
        rest = m["template"] + (betas @ basis).reshape(n, -1, 3)
        joints = m["joint_template"] + (betas @ joint_basis).reshape(n, -1, 3)
        world = torch.zeros((n, j, 4, 4), device=device)
        world[..., :3, :3], world[..., 3, 3] = rotations, 1.0
        world[:, 0, :3, 3] = joints[:, 0]
        world[:, 1:, :3, 3] = joints[:, 1:] - joints[:, parents[1:]]
        for ids in below:
            world[:, ids] = world[:, parents[ids]] @ world[:, ids]
        world[..., :3, 3] -= (world[..., :3, :3] @ joints[..., None])[..., 0]
        if len(m["pose_basis"]):
            bent = (rotations[:, 1:] - torch.eye(3, device=device)).reshape(n, -1)
            rest = rest + (bent @ m["pose_basis"].flatten(1)).reshape(rest.shape)
        blend = (m["weights"] @ world[..., :3, :].reshape(n, j, 12)).reshape(n, -1, 3, 4)
        skin = blend[..., 3]
        for axis in range(3):
            skin = skin + blend[..., axis] * rest[..., axis, None]
        if device == "cuda":
            torch.cuda.synchronize()
        return skin.cpu().numpy()

    return run


def in_batches(function: Callable, betas: np.ndarray, rotations: np.ndarray, size: int):
    """Results of a baseline, batch by batch."""
    for start in range(0, len(betas), size):
        yield function(betas[start : start + size], rotations[start : start + size])


def drain(function: Callable, betas: np.ndarray, rotations: np.ndarray, size: int) -> None:
    """Run over all and write the results to one array, as the jitted call does."""
    out = None
    for i, part in enumerate(in_batches(function, betas, rotations, size)):
        out = np.empty((len(betas), *part.shape[1:]), np.float32) if out is None else out
        out[i * size : i * size + len(part)] = part


def seconds(run: Callable) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
