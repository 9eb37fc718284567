"""The linear model fitted to the landmarks of a subject: what its landmarks and cameras alone tell.

Codes are the model's own coefficients, and landmarks are its own vertices: nothing learned is used.
The fit is the first stage of ours (`fitting.landmarks`), without pixels.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import head_points
from jaxrecon.fitting import landmarks as landmark_fit
from jaxrecon.fitting import latents
from jaxrecon.fitting.latents import LatentSpace
from jaxrecon.fitting.problem import FitConfig, Hyper, ViewData
from jaxrecon.geometry.transforms import apply_similarity, invert_similarity
from jaxrecon.models.parametric.face import LinearFaceModel, load_face_model
from jaxrecon.types import Mesh

EXPRESSION_SAMPLES = 4096


@dataclasses.dataclass(frozen=True)
class LinearBaseline:
    """A linear head model in canonical space, ready to be fitted to landmarks."""

    face: LinearFaceModel
    """millimetres, outer skin with the eyeballs"""
    space: LatentSpace
    """z_id and z_exp are the model's coefficients"""


def linear_space(face: LinearFaceModel, identities: int | None = None) -> LatentSpace:
    """The model's coefficients as a latent space, its landmarks as their exact linear map.

    Identity modes carry their standard deviations (w ~ N(0, I)). Expressions have the mean and
    principal components of the plausible ones (`head_points.sample_expression`), all of them.

    Args:
        face: linear head model, millimetres.
        identities: how many modes to use; None for all.
    """
    count = len(face.identity) if identities is None else min(identities, len(face.identity))
    sampler = head_points.make_sampler(face, head_points.SampleConfig(), count)
    draw = jax.jit(jax.vmap(functools.partial(head_points.sample_expression, sampler)))
    samples = np.asarray(draw(jax.random.split(jax.random.key(0), EXPRESSION_SAMPLES)))
    exp_mean, exp_basis = latents.principal_components(samples, variance=1.0)
    similarity = head_points.head_similarity()
    single = functools.partial(jnp.asarray, dtype=jnp.float32)

    def points(vertices):
        return np.asarray(face.landmark_points(vertices))

    arrays = {
        "id_mean": np.zeros(count),
        "id_basis": np.eye(count),
        "exp_mean": exp_mean,
        "exp_basis": exp_basis,
        "colour_mean": np.zeros(1),
        "colour_basis": np.zeros((1, 1)),
        "landmarks_mean": similarity.scale * points(face.mean) + similarity.t,
        "landmarks_id": similarity.scale * points(face.identity[:count]),
        "landmarks_exp": similarity.scale * points(face.expression),
    }
    return LatentSpace(**{name: single(value) for name, value in arrays.items()})


def load_baseline(model: pathlib.Path) -> LinearBaseline:
    """The baseline of a linear head model (.npz).

    Raises:
        InputError: of `load_face_model`.
    """
    face = load_face_model(model)
    return LinearBaseline(face, linear_space(face))


@functools.partial(jax.jit, static_argnames="config")
def _fit(views: ViewData, space: LatentSpace, config: FitConfig, hyper: Hyper):
    codes = latents.initial_codes(space, config.expressions)
    pose, codes, error = landmark_fit.fit_landmarks(views, space, config, hyper, codes)
    z_id, z_exp, _ = latents.compose_codes(space, codes)
    return pose, z_id, z_exp, error


def fit_linear_model(
    baseline: LinearBaseline, views: ViewData, expressions: int, expression: int = 0
) -> tuple[Mesh, float]:
    """(mesh of one expression in the world of the cameras, root mean square error in pixels).

    Args:
        baseline: of `load_baseline`.
        views: landmarks and cameras of one subject; its pictures are not read.
        expressions: distinct expressions among the views.
        expression: row of the one to return.
    """
    config = FitConfig(expressions=expressions)
    pose, z_id, z_exp, error = _fit(views, baseline.space, config, Hyper())
    millimetres = baseline.face.vertices(z_id, z_exp[expression])
    canonical = apply_similarity(head_points.head_similarity(), millimetres)
    world = apply_similarity(invert_similarity(pose), canonical)
    faces = np.asarray(baseline.face.faces, np.int64)
    return Mesh(np.asarray(world, np.float64), faces), float(error)
