"""The small shared vocabulary: frozen pytree dataclasses that cross jit, vmap and scan.

They do not validate on construction (unflattening with abstract values would fail); named
constructors and the
entry points do. Frames are in names, right to left: `T_world_camera` maps camera to world
coordinates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial

Array = jax.Array | np.ndarray

Box = tuple[tuple[float, float, float], tuple[float, float, float]]
UNIT_BOX: Box = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Field:
    """A level set of space: negative inside, zero on the surface, positive outside.

    `function` is a pytree (`jax.tree_util.Partial` of a module-level function over parameters), so
    that a field is an
    ordinary argument of jitted functions: one compilation serves any parameter values.
    """

    function: Callable
    """points (*n, 3) -> values (*n,). Parameters are leaves."""
    kind: str = dataclasses.field(default="sdf", metadata={"static": True})
    """`sdf` (distances: may be sphere-traced) or `occupancy` (0.5 - probability: marched and
    bisected).
    """
    lipschitz: float = dataclasses.field(default=1.0, metadata={"static": True})
    """Upper bound of |gradient|; steps are divided by it."""
    box: Box = dataclasses.field(default=UNIT_BOX, metadata={"static": True})
    """Axis-aligned bounds ((x, y, z) low, (x, y, z) high) that hold the surface."""
    pointwise: bool = dataclasses.field(default=True, metadata={"static": True})
    """Whether a value depends on its own point only; chunked evaluation needs it."""

    def __call__(self, points):
        """Values (*n,) at points (*n, 3)."""
        return self.function(points)


def field(function: Callable, *parameters: Any, **options: Any) -> Field:
    """A `Field` of a module-level `function(*parameters, points)`.

    Args:
        function: module-level (a closure would recompile at every call).
        *parameters: pytrees bound as leading arguments.
        **options: kind, lipschitz, box, pointwise.
    """
    if options.get("kind", "sdf") not in ("sdf", "occupancy"):
        raise ValueError(f"kind is {options['kind']!r}; expected 'sdf' or 'occupancy'")
    return Field(Partial(function, *parameters), **options)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cameras:
    """Pinhole cameras in OpenCV axes (x right, y down, z forward); leading axes are a batch.

    x_camera = R x_world + t; pixel (u, v) = (K x_camera) / z; the centre of pixel (row i, column
    j) is (u, v) = (j + 0.5, i + 0.5).
    """

    K: Array
    """(*batch, 3, 3) intrinsics, pixels."""
    R: Array
    """(*batch, 3, 3) R_camera_world."""
    t: Array
    """(*batch, 3) t_camera_world, world units."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Similarity:
    """x_b = scale * R x_a + t. Named like a transform: `S_canonical_world` maps world to
    canonical.
    """

    scale: Any
    """(*batch,)"""
    R: Array
    """(*batch, 3, 3)"""
    t: Array
    """(*batch, 3)"""


@dataclasses.dataclass(frozen=True)
class Mesh:
    """A triangle mesh on the host (NumPy arrays; not a pytree: meshes leave the traced world)."""

    vertices: Any
    """(v, 3) float64"""
    faces: Any
    """(f, 3) int64, counter-clockwise seen from outside"""
    colours: Any = None
    """(v, 3) float32 RGB in [0, 1], or None"""
    uv: Any = None
    """(v, 2) texture coordinates, or None"""


FACE_LABELS = (
    *("background", "skin", "lips", "brows", "eyes", "ears", "hair", "neck", "mouth", "clothes"),
)
"""Names of our face parsing; a label's number is its place. `mouth` is the interior."""

BODY_25 = (
    *("nose", "neck", "right_shoulder", "right_elbow", "right_wrist"),
    *("left_shoulder", "left_elbow", "left_wrist", "mid_hip"),
    *("right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle"),
    *("right_eye", "left_eye", "right_ear", "left_ear"),
    *("left_big_toe", "left_small_toe", "left_heel"),
    *("right_big_toe", "right_small_toe", "right_heel"),
)
"""OpenPose's BODY_25 keypoints, in its order; sides are the subject's."""

LANDMARKS_MIRRORED = (
    *range(16, -1, -1),
    *range(26, 16, -1),
    *(27, 28, 29, 30, 35, 34, 33, 32, 31),
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65),
)
"""Which of the 68 landmarks a mirrored picture shows at the place of each."""

BODY_25_MIRRORED = (
    *(0, 1, 5, 6, 7, 2, 3, 4, 8, 12, 13, 14, 9, 10, 11),
    *(16, 15, 18, 17, 22, 23, 24, 19, 20, 21),
)
"""The same of BODY_25."""
