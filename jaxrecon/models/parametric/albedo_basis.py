"""A linear albedo basis for head models that have shape but no colours. Ours, free, and synthetic.

People of `procedural_albedo` are drawn on the model's vertices, and their colours taken apart into
principal components: no scan and no photograph stands behind them, so the basis knows skin tones,
lips, brows, hair, beards and eyes of that procedure, and nothing of real pores, moles or make-up.

    head = read_head("ict_head.npz")                       # or any head model
    basis = procedural_albedo_basis(surface_of_head(head), jax.random.key(0), modes=40)
    albedo = basis.mean + np.tensordot(coefficients, basis.modes, 1)    # coefficients ~ N(0, 1)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxrecon.errors import InputError
from jaxrecon.models.parametric.face import LinearFaceModel
from jaxrecon.models.parametric.head_file import head_from_arrays
from jaxrecon.models.parametric.procedural_albedo import (
    sample_parameters,
    surface_of_head,
    vertex_albedo,
)

MODES = 40
PEOPLE = 512
"""Drawn for the default basis."""
_AT_ONCE = 32


@dataclasses.dataclass(frozen=True)
class AlbedoBasis:
    """albedo = mean + sum_k b_k modes_k with b ~ N(0, 1); display-encoded RGB."""

    mean: np.ndarray
    """(v, 3) float32 in [0, 1]"""
    modes: np.ndarray
    """(k, v, 3) float32 per standard deviation, largest first"""
    spread: float
    """Root mean square of (albedo - mean) over people, vertices and channels."""
    residual: float
    """The same of what the modes leave of people who were not drawn for the basis."""


def procedural_albedo_basis(
    surface: dict[str, Array], key: PRNGKeyArray, modes: int = MODES, people: int = PEOPLE
) -> AlbedoBasis:
    """Principal components of random people's colours on a model's vertices.

    The same key gives the same basis: the sign of a mode is such that its sum is positive. By the
    method of snapshots (Sirovich 1987) the largest matrix is (people, 3 v).

    Args:
        surface: of `procedural_albedo.albedo_surface` or `surface_of_head`.
        key: typed key of the people.
        modes: k, less than `people`.
        people: how many to draw; a sixth as many more measure the residual.

    Raises:
        InputError: not 1 <= modes < people.
    """
    if not 1 <= modes < people:
        raise InputError(f"{modes} modes of {people} people", "1 <= modes < people", "draw more")
    k_drawn, k_other = jax.random.split(key)
    drawn = np.empty((people, 3 * len(surface["lips"])), np.float32)
    start = 0
    for colours in _colours(surface, k_drawn, people):
        drawn[start : start + len(colours)] = colours
        start += len(colours)
    mean = drawn.mean(0)
    drawn -= mean
    variance, weights = np.linalg.eigh((drawn @ drawn.T).astype(np.float64) / people)
    largest = np.argsort(-variance, kind="stable")[:modes]
    size = np.sqrt(np.maximum(variance[largest], 1e-20))
    # drawn = sqrt(people) sum_k weights_k size_k direction_k with unit directions
    basis = (weights[:, largest] / np.sqrt(people)).astype(np.float32).T @ drawn
    basis *= np.where(basis.sum(1, keepdims=True) < 0, -1.0, 1.0).astype(np.float32)
    directions = basis / size[:, None].astype(np.float32)
    total, left, count = 0.0, 0.0, 0
    for others in _colours(surface, k_other, max(people // 6, 1)):
        others -= mean
        total += float(np.sum(others**2, dtype=np.float64))
        others -= (others @ directions.T) @ directions
        left += float(np.sum(others**2, dtype=np.float64))
        count += others.size
    return AlbedoBasis(
        mean=mean.reshape(-1, 3),
        modes=basis.reshape(modes, -1, 3),
        spread=float(np.sqrt(total / count)),
        residual=float(np.sqrt(left / count)),
    )


def albedo_arrays(raw: dict[str, np.ndarray], modes: int = MODES) -> dict[str, np.ndarray]:
    """The basis of key 0 for a head model's file (docs/how-to/models.md), to be written with it.

    Args:
        raw: arrays of the file, of a head or of the free body.
        modes: how many; 0 gives no colours.

    Returns:
        albedo_mean (v, 3) and albedo_basis (modes, v, 3) float16, albedo_source; for a body the
        first two begin with `head_` and are over the vertices that `head_faces` use, ascending.

    Raises:
        InputError, ValueError: no head model.
    """
    if not modes:
        return {}
    surface = surface_of_head(head_from_arrays(raw))
    basis = procedural_albedo_basis(surface, jax.random.key(0), modes)
    prefix = "head_" if "v_template" in raw else ""
    return {
        f"{prefix}albedo_mean": basis.mean.astype(np.float16),
        f"{prefix}albedo_basis": basis.modes.astype(np.float16),
        "albedo_source": np.array(
            "jaxrecon: synthetic, principal components of procedural colours"
        ),
    }


def with_albedo(
    model: LinearFaceModel,
    surface: dict[str, Array],
    key: PRNGKeyArray,
    modes: int = MODES,
    people: int = PEOPLE,
) -> LinearFaceModel:
    """The model with a procedural albedo basis.

    Args:
        model: of `load_face_model(path, parts)`.
        surface: arrays over its vertices: those of `albedo_surface(path)`, each indexed by
            `kept_vertices(path, parts)`.
        key: typed key of the people.
        modes: how many.
        people: how many to draw.

    Raises:
        InputError: the surface has other vertices than the model.
    """
    if len(surface["lips"]) != len(model.mean):
        raise InputError(
            f"a surface of {len(surface['lips'])} vertices",
            f"the model's {len(model.mean)}",
            "index every array of albedo_surface(path) by kept_vertices(path, parts)",
        )
    basis = procedural_albedo_basis(surface, key, modes, people)
    return dataclasses.replace(model, albedo_mean=basis.mean, albedo_basis=basis.modes)


def _colours(
    surface: dict[str, Array], key: PRNGKeyArray, people: int
) -> Iterator[Float[np.ndarray, "n v3"]]:
    """Flat colours of random people, a few at a time, float32."""
    parameters = _people(jax.random.split(key, people))
    for start in range(0, people, _AT_ONCE):
        rows = jnp.arange(start, start + _AT_ONCE) % people  # one shape: one compilation
        colours = np.array(_albedos(parameters[rows], surface))[: people - start]
        yield colours.reshape(len(colours), -1)


_people = jax.jit(jax.vmap(sample_parameters))
_albedos = jax.jit(jax.vmap(vertex_albedo, (0, None)))
