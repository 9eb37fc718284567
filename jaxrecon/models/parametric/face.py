"""Linear head models: V = mean + sum_k w_k identity_k + sum_e a_e expression_e, and, where a model
has colours, albedo = albedo_mean + sum_k b_k albedo_basis_k.

Head frame: right-handed, x to the subject's left, y up, z out of the face, millimetres.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrecon.errors import InputError
from jaxrecon.geometry.transforms import HIGHEST
from jaxrecon.models.parametric.head_file import SKIN_PARTS, read_head

__all__ = ["SKIN_PARTS", "LinearFaceModel", "kept_vertices", "load_face_model"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LinearFaceModel:
    """An immutable linear head model; arrays are leaves, names are static."""

    mean: Any
    """(v, 3) mm"""
    identity: Any
    """(k, v, 3) mm per standard deviation"""
    expression: Any
    """(e, v, 3) mm at full activation (1), or per standard deviation where it is a mode"""
    faces: Any
    """(f, 3) vertex indices, counter-clockwise from outside"""
    landmarks: Any
    """(68,) vertex indices, Multi-PIE order; the nearest vertices where landmarks lie in faces"""
    expression_names: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    """Names of the expression shapes (ARKit style, sides `_L` and `_R`); `mode_000`... are
    principal modes with unit variance."""
    landmark_corners: Any = None
    """(68, 3) vertex indices whose weighted means the landmarks are; None: `landmarks` alone"""
    landmark_weights: Any = None
    """(68, 3), summing to one"""
    albedo_mean: Any = None
    """(v, 3) display-encoded RGB in [0, 1]; None: the model has no colours"""
    albedo_basis: Any = None
    """(a, v, 3) RGB per standard deviation, or None"""

    def vertices(
        self,
        identity: Float[Array | np.ndarray, "k"],
        expression: Float[Array | np.ndarray, "e"],
    ) -> Float[Array, "v 3"]:
        """Vertices (mm) of one person; vmap for many."""
        person = self.mean + jnp.tensordot(identity, self.identity, axes=1, precision=HIGHEST)
        return person + jnp.tensordot(expression, self.expression, axes=1, precision=HIGHEST)

    def albedo(self, coefficients: Float[Array | np.ndarray, "a"]) -> Float[Array, "v 3"]:
        """Display-encoded RGB of every vertex, not clipped (clip where shown); vmap for many.

        Raises:
            InputError: the model has no colours.
        """
        if self.albedo_mean is None or self.albedo_basis is None:
            raise InputError(
                "a head model without albedo",
                "one with albedo_mean and albedo_basis",
                "add them: albedo_basis.with_albedo (docs/how-to/models.md)",
            )
        return self.albedo_mean + jnp.tensordot(
            coefficients, self.albedo_basis, axes=1, precision=HIGHEST
        )

    def landmark_points(
        self, vertices: Float[Array | np.ndarray, "*b v 3"]
    ) -> Float[Array, "*b 68 3"]:
        """The 68 landmarks on given vertices, in their frame and unit."""
        vertices = jnp.asarray(vertices)
        if self.landmark_corners is None:
            return vertices[..., jnp.asarray(self.landmarks), :]
        corners = vertices[..., jnp.asarray(self.landmark_corners), :]
        weights = jnp.asarray(self.landmark_weights)[..., None]
        return jnp.sum(corners * jnp.broadcast_to(weights, corners.shape), axis=-2)


def load_face_model(
    path: str | pathlib.Path, parts: tuple[str, ...] | None = SKIN_PARTS
) -> LinearFaceModel:
    """Read a linear head model: ICT-FaceKit, the head of the free body, or one's own conversion.

    Args:
        path: .npz in the layout of docs/how-to/models.md, see `head_file.read_head`.
        parts: names of the face parts to keep (default: those of the outer skin with the eyeballs
            that the file has), or None for all. Unused vertices are dropped and indices remapped.

    Raises:
        InputError: the file is missing, no such .npz, or inconsistent.
    """
    raw = read_head(path)
    faces, keep = _select(raw, path, parts)
    index = np.full(len(raw["v_mean"]), -1)
    index[keep] = np.arange(len(keep))
    return LinearFaceModel(
        mean=raw["v_mean"][keep],
        identity=raw["id_basis"][:, keep],
        expression=raw["expression"][:, keep],
        faces=index[faces].astype(np.int32),
        landmarks=index[raw["landmarks68"]].astype(np.int32),
        expression_names=tuple(str(n) for n in raw["expr_names"]),
        landmark_corners=index[raw["landmark_corners"]].astype(np.int32),
        landmark_weights=raw["landmark_weights"],
        albedo_mean=raw["albedo_mean"][keep] if "albedo_mean" in raw else None,
        albedo_basis=raw["albedo_basis"][:, keep] if "albedo_basis" in raw else None,
    )


def kept_vertices(
    path: str | pathlib.Path, parts: tuple[str, ...] | None = SKIN_PARTS
) -> np.ndarray:
    """Vertex ids of `read_head`'s arrays, in order, that `load_face_model(path, parts)` keeps (to
    carry per-vertex masks over).
    """
    return _select(read_head(path), path, parts)[1]


def _select(raw: dict[str, np.ndarray], path, parts) -> tuple[np.ndarray, np.ndarray]:
    """(faces of the parts, ids of the vertices that they and the landmarks use)."""
    faces = raw["faces"]
    if parts is not None:
        names = [str(n) for n in raw["part_names"]]
        # Models of a face alone have no eyeballs or neck; other names must be the file's.
        unknown = sorted(set(parts) - set(names) - set(SKIN_PARTS))
        if unknown or not set(parts) & set(names):
            raise InputError(
                f"{path}: no face parts {unknown or list(parts)}",
                f"some of {names}",
                "name parts of the file",
            )
        faces = faces[np.isin(raw["face_part"], [names.index(p) for p in parts if p in names])]
    return faces, np.unique(np.concatenate([faces.ravel(), raw["landmark_corners"].ravel()]))
