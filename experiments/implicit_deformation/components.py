"""How many identity components a fit should use, by the held-out surface error."""

from __future__ import annotations

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import head_points
from experiments.implicit_deformation import surface_error
from experiments.implicit_deformation.people import (
    Arguments,
    Tally,
    draw_person,
    field_error,
    fit_person,
    make_sampler,
    show_progress,
)
from jaxrecon.errors import InputError
from jaxrecon.fitting.latents import LatentSpace
from jaxrecon.models.parametric.face import LinearFaceModel
from jaxrecon.pipelines.priors import Prior
from jaxrecon.types import Mesh


def by_surface(prior: Prior, points: np.ndarray) -> LatentSpace:
    """The same latent space, its identity components turned so that the first move the surface
    most.

    w ~ N(0, I) has no order of its own: any rotation of the components is as good. The singular
    vectors of the surface's shift by w, at points of the mean head, give one.
    """
    space, functions = prior.space, prior.functions

    def shift(w, p):
        z_id = space.id_mean + jnp.matmul(w, space.id_basis, precision="highest")
        conditioning = functions.condition(prior.params, z_id, space.exp_mean)
        return functions.level_set(conditioning, p[None])[0]

    @jax.jit
    def jacobian(points):
        zero = jnp.zeros(space.id_basis.shape[0])
        return jax.lax.map(functools.partial(jax.grad(shift), zero), points, batch_size=500)

    rows = jacobian(jnp.asarray(points, jnp.float32))
    _, _, turn = np.linalg.svd(np.asarray(rows, np.float64), full_matrices=False)
    basis = turn.astype(np.float32) @ np.asarray(space.id_basis)
    return dataclasses.replace(space, id_basis=jnp.asarray(basis))


def compare_components(arguments: Arguments, prior: Prior, face: LinearFaceModel) -> list[dict]:
    """Held-out error of fits with the first K identity components, for every K.

    Each record also has the error of the linear model itself with its first K modes and the true
    coefficients, cut (`truncation`); a fit within as many components may choose better weights.
    """
    counts = parse_counts(arguments.components or "")
    sampler = make_sampler(prior, face)
    mean = Mesh(np.asarray(sampler.mean, np.float64), np.asarray(face.faces, np.int64))
    nose = mean.vertices[int(sampler.landmarks[30])]
    reference = surface_error.true_points(mean, nose, np.random.default_rng(0), 4000, prior.unit_mm)
    ordered = by_surface(prior, reference.points[reference.seen])
    order = np.argsort(-mode_power(face)[: sampler.identities])
    tally, began = Tally(), time.monotonic()
    for number in range(arguments.people):
        person = draw_person(arguments, face, sampler, prior.unit_mm, number)
        for count in counts:
            space = dataclasses.replace(ordered, id_basis=ordered.id_basis[:count])
            fit = fit_person(arguments, prior, person, space)
            kept = np.zeros_like(person.identity)
            kept[order[:count]] = person.identity[order[:count]]
            for i, truth in enumerate(person.truths):
                error, cosine = field_error(prior, (fit.z_id, fit.z_exp[i]), truth)
                tally.add(f"fit {count}", truth, error, cosine)
                vertices = head_points.canonical_vertices(sampler, kept, person.expressions[i])
                cut = Mesh(np.asarray(vertices, np.float64), mean.faces)
                distance, cosine = surface_error.to_mesh(truth, cut)
                tally.add(f"truncation {count}", truth, prior.unit_mm * distance, cosine)
        show_progress(number + 1, arguments.people, began)
    rows = tally.numbers()
    return [
        {"components": k, "fit": rows[f"fit {k}"], "truncation": rows[f"truncation {k}"]}
        for k in counts
    ]


def mode_power(face: LinearFaceModel) -> np.ndarray:
    """(k,) variance of the vertices that each identity mode of the linear model carries."""
    return np.sum(np.asarray(face.identity, np.float64) ** 2, axis=(1, 2))


def variance_components(face: LinearFaceModel, share: float = 0.96) -> int:
    """The fewest identity modes of the linear model that explain `share` of its variance."""
    power = np.sort(mode_power(face))[::-1]
    return int(np.searchsorted(np.cumsum(power) / power.sum(), share) + 1)


def parse_counts(text: str) -> list[int]:
    """Numbers of components from `10,25,50`."""
    try:
        counts = [int(c) for c in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise InputError(f"components {text!r}", "numbers of components, such as 10,25,50")
    return counts


def components_table(records: list[dict], variance: int) -> list[str]:
    """One line a number of components: mean errors on the seen face and head, mm."""
    lines = [f"{'K':>4} {'fit face':>9} {'fit head':>9} {'truncated face':>15} {'and head':>9}"]
    for record in records:
        fit, cut = record["fit"], record["truncation"]
        values = [r[n]["mean_mm"] for r in (fit, cut) for n in ("face_seen", "head_seen")]
        lines.append("{:4d} {:9.3f} {:9.3f} {:15.3f} {:9.3f}".format(record["components"], *values))
    lines.append(f"96 % of the model's variance: K = {variance}")
    return lines
