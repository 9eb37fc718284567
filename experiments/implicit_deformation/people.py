"""Unseen people for held-out measurements: their scans, the fit of codes to them, pooled errors.

The options of `fit_points` stand here, since its two commands share them.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import head_points
from experiments.implicit_deformation import surface_error
from experiments.implicit_deformation.surface_error import TruePoints
from jaxrecon.fitting import points as point_fit
from jaxrecon.fitting.latents import LatentSpace
from jaxrecon.fitting.points import PointConfig, PointFit, PointHyper
from jaxrecon.geometry.gradients import value_and_gradient
from jaxrecon.models.parametric.face import LinearFaceModel
from jaxrecon.pipelines.priors import Prior
from jaxrecon.types import Mesh


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Fit codes to points of unseen people and measure the surfaces."""

    model: pathlib.Path
    """The head model the prior was trained on."""
    weights: pathlib.Path | None = None
    """Weights without suffix; the released ones if not given."""
    people: int = 50
    """How many."""
    expressions: int = 2
    """Of each."""
    points: int = 2000
    """Points with normals of each expression that the fit is given."""
    face_density: float = 3.0
    """Their density on the face, relative to the rest."""
    measured: int = 20_000
    """Fresh points of each expression that measure."""
    steps: int = 15
    """Gauss-Newton steps."""
    residuals: bool = False
    """Whether codes may leave the span of the components."""
    resolution: int = 256
    """Voxels along the box; 0 measures without extraction."""
    components: str | None = None
    """Numbers of identity components to compare, such as 10,25,50,75,100; nothing is extracted."""
    seed: int = 987_654
    """Of the people; training uses small seeds."""
    out: pathlib.Path | None = None
    """JSON file for the numbers."""


@dataclasses.dataclass(frozen=True)
class Person:
    """One unseen person."""

    identity: np.ndarray
    """(k,) coefficients of the model"""
    expressions: np.ndarray
    """(E, e)"""
    meshes: tuple[Mesh, ...]
    """the true skin, canonical"""
    truths: tuple[TruePoints, ...]
    """fresh points that measure"""
    scans: tuple[np.ndarray, np.ndarray]
    """points and normals (E, n, 3) that are fitted"""


def draw_person(arguments: Arguments, face, sampler, unit_mm: float, number: int) -> Person:
    """Person `number` of the seed."""
    key = jax.random.fold_in(jax.random.key(arguments.seed), number)
    # Of their own: a fit must not depend on how many points measure it.
    rng, scan_rng = (np.random.default_rng([arguments.seed, number, i]) for i in (0, 1))
    k_id, *k_exp = jax.random.split(key, 1 + arguments.expressions)
    identity, _ = head_points.sample_codes(sampler, head_points.SampleConfig(), k_id)
    expressions = [head_points.sample_expression(sampler, k) for k in k_exp]
    meshes, truths, scans = [], [], []
    for expression in expressions:
        vertices = head_points.canonical_vertices(sampler, identity, expression)
        mesh = Mesh(np.asarray(vertices, np.float64), np.asarray(face.faces, np.int64))
        nose = mesh.vertices[int(sampler.landmarks[30])]
        truths.append(surface_error.true_points(mesh, nose, rng, arguments.measured, unit_mm))
        # Enough that the denser face can be drawn without replacement.
        many = surface_error.true_points(mesh, nose, scan_rng, 4 * arguments.points, unit_mm)
        scans.append(
            surface_error.scan_points(many, scan_rng, arguments.points, arguments.face_density)
        )
        meshes.append(mesh)
    points, normals = (np.stack(x) for x in zip(*scans, strict=True))
    stack = np.stack([np.asarray(e) for e in expressions])
    return Person(np.asarray(identity), stack, tuple(meshes), tuple(truths), (points, normals))


def make_sampler(prior: Prior, face: LinearFaceModel) -> head_points.HeadSampler:
    """Of people from whom the prior was trained: all modes of the model that its codes hold."""
    count = len(face.identity)
    if coefficient_codes(prior):
        count = min(prior.config.id_dim, count)
    return head_points.make_sampler(face, head_points.SampleConfig(), count)


def coefficient_codes(prior: Prior) -> bool:
    """Whether the prior's codes are the model's coefficients."""
    return prior.header.get("training", {}).get("codes") == "coefficients"


def fit_person(
    arguments: Arguments, prior: Prior, person: Person, space: LatentSpace | None = None
) -> PointFit:
    """Codes of a person from the scans, in the prior's latent space or another."""
    config = PointConfig(steps=arguments.steps, residuals=arguments.residuals)
    space = prior.space if space is None else space
    fit = _fit(prior.functions, prior.params, space, *person.scans, config, PointHyper())
    return jax.block_until_ready(fit)


@functools.partial(jax.jit, static_argnames=("functions", "config"))
def _fit(functions, params, space, points, normals, config, hyper):
    return point_fit.fit_points(
        functions, params, space, points, normals, config=config, hyper=hyper
    )


@functools.partial(jax.jit, static_argnames="functions")
def _field_error(functions, params, z_id, z_exp, points, normals):
    """(|s| / |gradient|, cosine of the normals) at true points."""
    conditioning = functions.condition(params, z_id, z_exp)

    def some(inputs):
        own_points, own_normals = inputs
        level = functools.partial(functions.level_set, conditioning)
        values, gradients = value_and_gradient(level, own_points)[:2]
        norm = jnp.maximum(jnp.linalg.norm(gradients, axis=-1), 1e-9)
        return jnp.abs(values) / norm, jnp.sum(gradients * own_normals, axis=-1) / norm

    chunks = jax.tree.map(lambda x: x.reshape(-1, _chunk(len(x)), 3), (points, normals))
    error, cosine = jax.lax.map(some, chunks)
    return error.reshape(-1), cosine.reshape(-1)


def field_error(prior: Prior, codes, truth: TruePoints) -> tuple[np.ndarray, np.ndarray]:
    """(|s| / |gradient| in mm, cosine of the normals) at the true points."""
    single = (np.asarray(a, np.float32) for a in (truth.points, truth.normals))
    error, cosine = _field_error(prior.functions, prior.params, *codes, *single)
    return prior.unit_mm * np.asarray(error), np.asarray(cosine)


def _chunk(count: int) -> int:
    return next(c for c in range(min(count, 2000), 0, -1) if count % c == 0)


def regions(truth: TruePoints) -> dict[str, np.ndarray]:
    """Name -> which points: head and face, all and seen."""
    everything = np.ones(len(truth.points), bool)
    return {
        "head": everything,
        "head_seen": truth.seen,
        "face": truth.face,
        "face_seen": truth.face & truth.seen,
    }


class Tally:
    """Errors of many heads, pooled over their points."""

    def __init__(self):
        self._parts = {}

    def add(self, row: str, truth: TruePoints, error, cosine) -> None:
        """Errors (mm) and cosines of one head's true points."""
        for name, chosen in regions(truth).items():
            self._parts.setdefault((row, name), []).append((error[chosen], cosine[chosen]))

    def numbers(self) -> dict:
        """row -> region -> statistics."""
        out = {}
        for (row, name), parts in self._parts.items():
            error, cosine = (np.concatenate(x) for x in zip(*parts, strict=True))
            out.setdefault(row, {})[name] = surface_error.statistics(error, cosine)
        return out


def show_progress(done: int, total: int, began: float) -> None:
    """One line to stderr with an ETA."""
    left = (time.monotonic() - began) / done * (total - done)
    end = "\r" if sys.stderr.isatty() and done < total else "\n"
    print(f"person {done}/{total}  ETA {left:.0f} s   ", file=sys.stderr, end=end, flush=True)
