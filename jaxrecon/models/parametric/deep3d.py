"""Deep3DFaceRecon's face: a linear model with albedo, its camera, its light, 257 numbers a face.

Frames, all in decimetres. Model: x to the subject's left, y up, z out of the face, origin at the
mean of the mean shape's vertices. View: the model turned by the angles and moved by the
translation; x right in the image, y up, z to the camera, which sits at z = 10. The authors' camera
coordinates are (x, y, 10 - z) of the view; their projection counts v upwards. `camera` says the
same in this package's OpenCV convention.

One face at a time: vmap for many. Any `LinearFaceModel` with albedo will do (`from_face_model`), so
that nothing here needs a licensed file; the published 257 numbers belong to the Basel Face Model
2009 (80 identity, 64 expression, 80 albedo), see `interop.bfm`.

Source: Deng et al., "Accurate 3D Face Reconstruction with Weakly-Supervised Learning" (2019),
    section 3, and the published PyTorch code, whose choices are followed where the paper is silent.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxrecon.errors import InputError
from jaxrecon.geometry.light_conventions import deep3d_lighting
from jaxrecon.geometry.shading import shading
from jaxrecon.geometry.transforms import HIGHEST, safe_normalise
from jaxrecon.models.parametric.face import LinearFaceModel
from jaxrecon.types import Cameras

FOCAL, CENTRE, SIZE, DISTANCE = 1015.0, 112.0, 224, 10.0
"""Pixels, pixels, pixels, decimetres."""
RENDERER_CENTRE = (112.0, 112.0)
"""Principal point of the authors' rasteriser, where pixel centres are at integer + 0.5."""
LANDMARK_CENTRE = (112.5, 111.5)
"""Principal point that makes pixels of `camera` the authors' landmarks: they count whole pixels at
pixel centres, upwards, row = 223 - v. Half a pixel from their own rasteriser."""
MILLIMETRES = 100.0
"""In a decimetre."""
SIZES = (80, 64, 80)
"""Identity, expression and albedo coefficients of the published network."""
_POSE_LIGHT = 3 + 27 + 3


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Coefficients:
    """The named parts of the flat vector; leading axes are a batch."""

    identity: Array
    """(*b, k)"""
    expression: Array
    """(*b, e)"""
    albedo: Array
    """(*b, a)"""
    angles: Array
    """(*b, 3) about x, y and z, radians"""
    gamma: Array
    """(*b, 27) light: nine numbers of red, of green, of blue"""
    translation: Array
    """(*b, 3) decimetres"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Deep3DModel:
    """A linear face model in Deep3D's frame and unit, with what the code keeps beside it."""

    face: LinearFaceModel
    """in decimetres, in the model frame above, with albedo"""
    vertex_faces: Any
    """(v, n) the faces whose normals make a vertex' normal; -1 where there are fewer"""
    skin: Any
    """(v,) 1 where the reflectance loss wants one colour, else 0"""
    front_faces: Any
    """(g, 3) vertex indices of the front of the face, which the photometric loss sees"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Face:
    """What coefficients mean; of one face."""

    shape: Array
    """(v, 3) model frame, decimetres"""
    normals: Array
    """(v, 3) unit normals in the view frame"""
    albedo: Array
    """(v, 3) RGB, about [0, 1]"""
    colours: Array
    """(v, 3) lit RGB, about [0, 1], not clipped"""
    camera_points: Array
    """(v, 3) the authors' camera coordinates: x right, y up, z = 10 - z of the view"""
    projection: Array
    """(v, 2) pixels of the 224 image, v counted upwards"""
    landmarks: Array
    """(68, 2) the same of the landmarks"""


def split_coefficients(
    flat: Float[Array | np.ndarray, "*b n"], sizes: tuple[int, int, int] = SIZES
) -> Coefficients:
    """The named parts of flat vectors: identity, expression, albedo, angles, gamma, translation.

    Args:
        flat: (*b, 257), or as long as `sizes` make it.
        sizes: how many identity, expression and albedo coefficients.

    Raises:
        InputError: another length.
    """
    flat = jnp.asarray(flat)
    if flat.shape[-1] != sum(sizes) + _POSE_LIGHT:
        raise InputError(
            f"{flat.shape[-1]} coefficients",
            f"{sum(sizes) + _POSE_LIGHT}: {sizes[0]} identity, {sizes[1]} expression, {sizes[2]} "
            "albedo, 3 angles, 27 light, 3 translation",
            "give the sizes of your model",
        )
    ends = np.cumsum([*sizes, 3, 27])
    return Coefficients(*jnp.split(flat, ends, axis=-1))


def join_coefficients(parts: Coefficients) -> Float[Array, "*b n"]:
    """The flat vectors of named parts: the inverse of `split_coefficients`."""
    names = [f.name for f in dataclasses.fields(Coefficients)]
    return jnp.concatenate([getattr(parts, name) for name in names], axis=-1)


def sizes_of(model: Deep3DModel) -> tuple[int, int, int]:
    """How many identity, expression and albedo coefficients a model takes."""
    face = model.face
    return len(face.identity), len(face.expression), len(face.albedo_basis)


def rotation_from_angles(angles: Float[Array | np.ndarray, "*b 3"]) -> Float[Array, "*b 3 3"]:
    """R = Rz Ry Rx, x_view = R x_model + t.

    Args:
        angles: radians about x, y and z.
    """
    angles = jnp.asarray(angles)
    (cx, cy, cz), (sx, sy, sz) = (tuple(jnp.moveaxis(f(angles), -1, 0)) for f in (jnp.cos, jnp.sin))
    rows = [
        cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx,
        sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx,
        -sy, cy * sx, cy * cx,
    ]  # fmt: skip
    return jnp.stack(rows, axis=-1).reshape(*angles.shape[:-1], 3, 3)


def vertex_normals(
    vertices: Float[Array | np.ndarray, "v 3"],
    faces: Int[Array | np.ndarray, "f 3"],
    vertex_faces: Int[Array | np.ndarray, "v n"],
) -> Float[Array, "v 3"]:
    """Unit normals: the sum of the unit normals of a vertex' faces, whatever their areas.

    Args:
        vertices: in any unit.
        faces: counter-clockwise from outside.
        vertex_faces: of `Deep3DModel`; -1 is no face.
    """
    vertices, faces = jnp.asarray(vertices), jnp.asarray(faces)
    vertex_faces = jnp.asarray(vertex_faces)
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    unit = safe_normalise(jnp.cross(a - b, b - c), 1e-12)
    near = jnp.where((vertex_faces >= 0)[..., None], unit[vertex_faces], 0.0)
    return safe_normalise(jnp.sum(near, axis=1), 1e-12)


def decode(model: Deep3DModel, coefficients: Coefficients) -> Face:
    """The face that coefficients mean, lit and projected.

    Args:
        model: of `deep3d_file.load_deep3d_model` or `from_face_model`.
        coefficients: of one face.
    """
    c = coefficients
    shape = model.face.vertices(c.identity, c.expression)
    normals = vertex_normals(shape, model.face.faces, model.vertex_faces)
    R = rotation_from_angles(c.angles)
    turned = jnp.matmul(normals, R.T, precision=HIGHEST)
    albedo = model.face.albedo(c.albedo)
    view = jnp.matmul(shape, R.T, precision=HIGHEST) + c.translation[None]
    points = _camera_points(view)
    landmarks = model.face.landmark_points(points)
    return Face(
        shape=shape,
        normals=turned,
        albedo=albedo,
        colours=albedo * shading(turned, deep3d_lighting(c.gamma)),
        camera_points=points,
        projection=project_upwards(points),
        landmarks=project_upwards(landmarks),
    )


def _camera_points(view: Float[Array, "v 3"]) -> Float[Array, "v 3"]:
    return view.at[:, 2].set(DISTANCE - view[:, 2])


def project_upwards(camera_points: Float[Array, "*n 3"]) -> Float[Array, "*n 2"]:
    """The authors' projection: u = 1015 x / z + 112 to the right, v likewise upwards.

    Args:
        camera_points: (*n, 3) of `Face.camera_points`.
    """
    return FOCAL * camera_points[..., :2] / camera_points[..., 2:] + CENTRE


def image_pixels(upwards: Float[Array | np.ndarray, "*n 2"]) -> Float[Array, "*n 2"]:
    """The authors' landmarks in pixels of this package: column + 0.5 and row + 0.5, downwards.

    Args:
        upwards: (*n, 2) of `Face.landmarks` or of `Face.projection`.
    """
    upwards = jnp.asarray(upwards)
    return jnp.stack([upwards[..., 0] + 0.5, SIZE - 0.5 - upwards[..., 1]], axis=-1)


def camera(
    angles: Float[Array | np.ndarray, "*b 3"],
    translation: Float[Array | np.ndarray, "*b 3"],
    centre: tuple[float, float] = LANDMARK_CENTRE,
) -> Cameras:
    """Deep3D's camera in OpenCV axes, with the model frame (decimetres) as the world.

    `project(camera(...), shape)` is `image_pixels(face.projection)`.

    Args:
        angles: of the coefficients.
        translation: of the coefficients, decimetres.
        centre: principal point, pixels: `LANDMARK_CENTRE`, or `RENDERER_CENTRE` to draw as the
            authors' rasteriser does.
    """
    R = rotation_from_angles(angles)
    flip = jnp.asarray([1.0, -1.0, -1.0], R.dtype)
    K = jnp.asarray([[FOCAL, 0, centre[0]], [0, FOCAL, centre[1]], [0, 0, 1]], R.dtype)
    t = jnp.asarray(translation) * jnp.broadcast_to(flip, R.shape[:-1])
    return Cameras(
        K=jnp.broadcast_to(K, R.shape),
        R=R * jnp.broadcast_to(flip[:, None], R.shape),
        t=t + jnp.broadcast_to(jnp.asarray([0.0, 0.0, DISTANCE], t.dtype), t.shape),
    )


def from_face_model(face: LinearFaceModel, skin: np.ndarray | None = None) -> Deep3DModel:
    """Any linear face model in Deep3D's frame and unit, recentred as the authors do.

    Args:
        face: millimetres, head frame, with albedo (`albedo_basis.with_albedo` gives one to models
            without).
        skin: (v,) 1 where the reflectance loss wants one colour; default everywhere.

    Raises:
        InputError: the model has no albedo.
    """
    if face.albedo_mean is None:
        raise InputError(
            "a head model without albedo",
            "one with albedo_mean and albedo_basis",
            "add them: albedo_basis.with_albedo (docs/how-to/models.md)",
        )
    mean = np.asarray(face.mean) / MILLIMETRES
    faces = np.asarray(face.faces)
    small = dataclasses.replace(
        face,
        mean=mean - mean.mean(0, keepdims=True),
        identity=np.asarray(face.identity) / MILLIMETRES,
        expression=np.asarray(face.expression) / MILLIMETRES,
    )
    return Deep3DModel(
        face=small,
        vertex_faces=faces_of_vertices(faces, len(mean)),
        skin=np.ones(len(mean), mean.dtype) if skin is None else np.asarray(skin, mean.dtype),
        front_faces=faces,
    )


def faces_of_vertices(
    faces: Int[np.ndarray, "f 3"], vertices: int
) -> Int[np.ndarray, "vertices n"]:
    """The faces at every vertex, ascending, filled up with -1."""
    corner, face = faces.ravel(), np.repeat(np.arange(len(faces)), 3)
    order = np.argsort(corner, kind="stable")
    count = np.bincount(corner, minlength=vertices)
    place = np.arange(len(corner)) - np.repeat(np.cumsum(count) - count, count)
    table = np.full((vertices, max(int(count.max(initial=1)), 1)), -1, np.int32)
    table[corner[order], place] = face[order]
    return table
