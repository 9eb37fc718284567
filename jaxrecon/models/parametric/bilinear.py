"""Bilinear face models: vertices are linear in identity and in expression, V = core . w_id . w_exp.

As in FaceScape: the first expression weight is 1 and belongs to the neutral face, the others add
differences from it, so that w_exp = (1, 0, ..., 0) is neutral. Identity weights are N(id_mean,
id_variance) over people. Frame: x to the subject's left, y up, z out of the face, millimetres.

Source: Yang et al., "FaceScape: a Large-scale High Quality 3D Face Dataset and Detailed Riggable 3D
    Face Prediction" (2020), section 4, and the published model's reader.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrecon.errors import InputError
from jaxrecon.geometry.transforms import HIGHEST
from jaxrecon.models.parametric.model_arrays import finite_array, index_array, npz_arrays

REMEDY = (
    "make it of your FaceScape model: jaxrecon import-model FILE --kind facescape "
    "(docs/how-to/models.md)"
)
_PREFIX = "bilinear_"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BilinearFaceModel:
    """An immutable bilinear face model; all arrays are leaves."""

    core: Any
    """(v, 3, e, k) mm; expression 0 is neutral, the others are differences from it"""
    id_mean: Any
    """(k,) mean identity weights"""
    id_variance: Any
    """(k,)"""
    colour_mean: Any
    """(c, 3) RGB in [0, 1] of the points that have colours"""
    colour_modes: Any
    """(a, c, 3) RGB a unit weight"""
    front: Any
    """(n,) vertex indices of the front of the face"""
    front_colour: Any
    """(n,) the point whose colour a front vertex has; -1: none, black"""

    def vertices(
        self, identity: Float[Array | np.ndarray, "k"], expression: Float[Array | np.ndarray, "e"]
    ) -> Float[Array, "v 3"]:
        """Vertices (mm) of one person; vmap for many.

        Args:
            identity: weights, about `id_mean`.
            expression: weights; the first is 1.
        """
        # the identity first, as e < k would make the larger intermediate the other way round
        person = jnp.tensordot(self.core, jnp.asarray(identity), axes=1, precision=HIGHEST)
        return jnp.tensordot(person, jnp.asarray(expression), axes=1, precision=HIGHEST)

    def front_vertices(self, vertices: Float[Array | np.ndarray, "v 3"]) -> Float[Array, "n 3"]:
        """The front of the face out of all vertices."""
        return jnp.asarray(vertices)[jnp.asarray(self.front)]

    def front_colours(self, weights: Float[Array | np.ndarray, "a"]) -> Float[Array, "n 3"]:
        """RGB of the front vertices, not clipped (clip where shown); black where there is none."""
        modes = jnp.tensordot(
            jnp.asarray(weights), jnp.asarray(self.colour_modes), axes=1, precision=HIGHEST
        )
        points = self.colour_mean + modes
        index = jnp.asarray(self.front_colour)
        return jnp.where((index >= 0)[:, None], points[index], 0.0)


def neutral_and_differences(core: Float[np.ndarray, "v 3 e k"]) -> Float[np.ndarray, "v 3 e k"]:
    """A core of whole faces per expression as the neutral one and differences from it."""
    residual = core.copy()
    residual[:, :, 1:] -= core[:, :, :1]
    return residual


def linear_head(model: BilinearFaceModel) -> dict[str, np.ndarray]:
    """The linear model that a bilinear one is about the mean identity and the neutral face.

    It is exact for any identity with a neutral face, and for any expression of the mean identity;
    what an expression does differently on another face is left out.

    Returns:
        v_mean (v, 3), id_basis (k, v, 3) at one standard deviation, expr_basis (e - 1, v, 3) at
        weight 1, mm.
    """
    core, mean = np.asarray(model.core), np.asarray(model.id_mean)
    deviation = np.sqrt(np.asarray(model.id_variance))
    average = np.tensordot(core, mean, 1)  # (v, 3, e)
    return {
        "v_mean": average[:, :, 0].astype(np.float32),
        "id_basis": np.moveaxis(core[:, :, 0] * deviation[None, None], 2, 0).astype(np.float32),
        "expr_basis": np.moveaxis(average[:, :, 1:], 2, 0).astype(np.float32),
    }


def vertex_albedo(model: BilinearFaceModel) -> tuple[np.ndarray, np.ndarray]:
    """Colours over all vertices, black where the model has none.

    Returns:
        (mean (v, 3), modes (a, v, 3)), RGB in [0, 1].
    """
    count, modes = len(model.core), np.asarray(model.colour_modes)
    known = np.asarray(model.front_colour) >= 0
    vertex = np.asarray(model.front)[known]
    point = np.asarray(model.front_colour)[known]
    mean = np.zeros((count, 3), np.float32)
    basis = np.zeros((len(modes), count, 3), np.float32)
    mean[vertex] = np.asarray(model.colour_mean)[point]
    basis[:, vertex] = modes[:, point]
    return mean, basis


def stored_model(model: BilinearFaceModel) -> dict[str, np.ndarray]:
    """Arrays of a file from which `load_bilinear_model` reads the model."""
    return {
        f"{_PREFIX}{field.name}": np.asarray(getattr(model, field.name))
        for field in dataclasses.fields(model)
    }


def load_bilinear_model(path: str | os.PathLike) -> BilinearFaceModel:
    """Read a bilinear model that `jaxrecon import-model --kind facescape` wrote.

    Raises:
        InputError: no such file, without a bilinear model, or its arrays disagree.
    """
    path = pathlib.Path(path)
    expected = "a bilinear face model (.npz)"
    raw = npz_arrays(
        path, lambda names: [n for n in names if n.startswith(_PREFIX)], expected, REMEDY
    )
    try:
        return _model({key.removeprefix(_PREFIX): value for key, value in raw.items()})
    except ValueError as error:
        raise InputError(f"{path}: {str(error)[:300]}", expected, REMEDY) from error


def _model(raw: dict[str, np.ndarray]) -> BilinearFaceModel:
    core = finite_array(raw, "core", (-1, 3, -1, -1))
    identities = core.shape[3]
    colours = finite_array(raw, "colour_mean", (-1, 3))
    front = index_array(raw, "front", (-1,), len(core))
    index = index_array(raw, "front_colour", (len(front),), len(colours), least=-1)
    variance = finite_array(raw, "id_variance", (identities,))
    if (variance < 0).any():
        raise ValueError("id_variance is negative")
    return BilinearFaceModel(
        core=core,
        id_mean=finite_array(raw, "id_mean", (identities,)),
        id_variance=variance,
        colour_mean=colours,
        colour_modes=finite_array(raw, "colour_modes", (-1, len(colours), 3)),
        front=front.astype(np.int32),
        front_colour=index.astype(np.int32),
    )
