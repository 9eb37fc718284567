"""A linear head model made ready for pictures: neck capped, hair, labels, and the renderer.

Everything after `prepare_head` is a pure function of arrays, jitted once per picture size. Frame
and unit of head models: x to the subject's left, y up, z out of the face, millimetres.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from data_pipelines.lighting import GAMMA, shade
from data_pipelines.morphable_heads import hair
from jaxrecon.geometry.mesh import vertex_normals
from jaxrecon.geometry.rasterise import downsample, interpolate, rasterise, scale_camera
from jaxrecon.models.parametric import procedural_albedo
from jaxrecon.models.parametric.face import LinearFaceModel, kept_vertices, load_face_model
from jaxrecon.models.parametric.face_masks import below_jaw
from jaxrecon.models.parametric.head_file import read_head
from jaxrecon.types import Cameras

LABELS = ("background", "skin", "lips", "brows", "eyes", "ears", "hair", "neck", "mouth")
"""Names of the parsing labels; a label's id is its place, 0 to 8. `mouth` is its interior."""
SKIN, LIPS, BROWS, EYES, EARS, HAIR, NECK, MOUTH = range(1, len(LABELS))
CHIN = 8
"""Landmark (Multi-PIE order)."""
OCCLUSION = {"mouth_socket": 0.35, "gums": 0.5, "teeth": 0.8, "eye_socket": 0.5}
"""Light that reaches inner parts, by the beginning of their name: spherical harmonics know no
shadows.
"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Head:
    """A face model with what rendering needs; v counts the centre of the neck's cap, if any."""

    model: LinearFaceModel
    """with all parts; without the cap"""
    faces: Array
    """(f, 3) faces with the cap's"""
    face_label: Array
    """(f,) label that the face's part decides, 0 where masks decide"""
    face_light: Array
    """(f,) share of the light that reaches the part"""
    loop: Array
    """(n,) vertices of the neck's rim; the cap's centre is their mean. Empty: no cap"""
    surface: dict
    """leaves (v, ...) of `procedural_albedo.albedo_surface`"""
    cover: Array
    """(v,) 1 well inside the scalp, 0 outside"""
    around: Array
    """(v, 3) mean positions about the middle of the scalp, relative to its size"""
    below: Array
    """(v,) mm below the jaw line on the mean head, see `below_jaw`"""


def boundary_loops(faces: Int[np.ndarray, "f 3"]) -> list[np.ndarray]:
    """Closed rims of a triangle mesh.

    Args:
        faces: (f, 3) consistently oriented.

    Returns:
        vertex ids (n,) of every rim, each in the direction of its faces' edges.
    """
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).astype(np.int64)
    size = int(edges.max(initial=0)) + 1
    code = edges[:, 0] * size + edges[:, 1]
    open_edges = edges[~np.isin(code, edges[:, 1] * size + edges[:, 0])]
    following: dict[int, list[int]] = {}
    for start, end in open_edges.tolist():
        following.setdefault(start, []).append(end)
    loops = []
    while following:
        first = here = next(iter(following))
        loop = []
        while here in following:
            loop.append(here)
            targets = following[here]
            there = targets.pop()
            if not targets:
                del following[here]
            here = there
        if here == first and len(loop) >= 3:
            loops.append(np.array(loop))
    return loops


def neck_loop(
    mean: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], chin: float
) -> Int[np.ndarray, " n"]:
    """The lowest rim of the outer skin, if it lies below the chin's height (mm); else none."""
    loops = [loop for loop in boundary_loops(faces) if mean[loop, 1].mean() < chin]
    if not loops:
        return np.zeros(0, np.int64)
    return min(loops, key=lambda loop: float(mean[loop, 1].mean()))


def prepare_head(path: str | os.PathLike, modes: int | None = None) -> Head:
    """Read a head model, close its neck, and draw its semantic masks where the file has none.

    Args:
        path: .npz that `load_face_model` reads, if possible with the `mask_*` of
            `procedural_albedo.albedo_surface`.
        modes: identity modes to keep; None keeps all.

    Raises:
        InputError: no such model, or only some of the masks.
    """
    path = pathlib.Path(path)
    model = load_face_model(path, None)
    model = dataclasses.replace(model, identity=np.asarray(model.identity)[:modes])
    mean, faces = np.asarray(model.mean), np.asarray(model.faces, np.int64)
    marks = np.asarray(model.landmark_points(mean))
    arrays = read_head(path)
    names = arrays["part_names"][arrays["face_part"]].astype(str)
    full, kept = procedural_albedo.albedo_surface(path), kept_vertices(path, None)
    surface = {k: np.asarray(v)[kept] for k, v in full.items()}

    def starts(*beginnings: str) -> np.ndarray:
        return np.any([np.char.startswith(names, b) for b in beginnings], axis=0)

    label = np.zeros(len(faces), np.int32)
    label[starts("sclera", "iris", "eye_")] = EYES
    label[starts("mouth_socket", "teeth", "gums", "tongue")] = MOUTH
    light = np.ones(len(faces), np.float32)
    for beginning, share in OCCLUSION.items():
        light[starts(beginning)] = share

    loop = neck_loop(mean, faces[starts("face", "head_neck")], float(marks[CHIN, 1]))
    if len(loop):
        cap = np.stack([np.roll(loop, -1), loop, np.full_like(loop, len(mean))], axis=1)
        faces = np.concatenate([faces, cap])
        label = np.concatenate([label, np.full(len(cap), NECK, np.int32)])
        light = np.concatenate([light, np.ones(len(cap), np.float32)])
        mean = np.concatenate([mean, mean[loop].mean(0, keepdims=True)])
        surface = {
            k: np.concatenate([v, v[loop].mean(0, keepdims=True)]) for k, v in surface.items()
        }

    # Drawn masks of ears have holes; they are no wider than a few vertices.
    surface["ears"] = np.clip(1.4 * procedural_albedo.smooth_mask(surface["ears"], faces, 3), 0, 1)
    # The hair line is a slope, not a cliff: hair only grows thick some way inside the scalp.
    slope = procedural_albedo.smooth_mask(surface["scalp"], faces, rounds=4)
    cover = np.clip(1.6 * slope - 0.5, 0.0, 1.0)
    scalp = mean[surface["scalp"] > 0.5] if (surface["scalp"] > 0.5).any() else mean
    low, high = scalp.min(0), scalp.max(0)
    around = (mean - (low + high) / 2) / np.maximum((high - low) / 2, 1.0)
    return Head(
        model=jax.tree.map(jnp.asarray, model),
        faces=jnp.asarray(faces, jnp.int32),
        face_label=jnp.asarray(label),
        face_light=jnp.asarray(light),
        loop=jnp.asarray(loop, jnp.int32),
        surface=jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), surface),
        cover=jnp.asarray(cover, jnp.float32),
        around=jnp.asarray(around, jnp.float32),
        below=jnp.asarray(below_jaw(mean, marks), jnp.float32),
    )


@jax.jit
def person(
    head: Head,
    identity: Float[Array, "k"],
    expression: Float[Array, "e"],
    albedo: Float[Array, "p"],
    style: Float[Array, "h"],
) -> dict:
    """The surface of one person in one expression.

    Args:
        head: of `prepare_head`.
        identity: coefficients.
        expression: activations.
        albedo: parameters of `procedural_albedo`.
        style: parameters of `hair`.

    Returns:
        vertices (v, 3) mm with hair and cap, normals (v, 3), colours (v, 3) albedo, thickness (v,)
        of the hair in mm, landmarks (68, 3) mm on the skin (below the hair).
    """
    skin = head.model.vertices(identity, expression)
    landmarks = head.model.landmark_points(skin)
    if head.loop.shape[0]:
        skin = jnp.concatenate([skin, jnp.mean(skin[head.loop], axis=0, keepdims=True)])
    opacity = procedural_albedo.unflatten(albedo).scalp[0]
    thickness = hair.hair_thickness(style, opacity, head.cover, head.around, head.surface["noise"])
    # The cap has no say in the normals: its rim would be shaded as if it were turned down.
    sides = head.model.faces
    vertices = skin + thickness[:, None] * vertex_normals(skin, sides)
    return {
        "vertices": vertices,
        "normals": vertex_normals(vertices, sides),
        "colours": procedural_albedo.vertex_albedo(albedo, head.surface),
        "thickness": thickness,
        "landmarks": landmarks,
    }


@functools.partial(jax.jit, static_argnames=("size", "supersampling"))
def render(
    head: Head,
    shape: dict,
    albedo: Float[Array, "p"],
    style: Float[Array, "h"],
    lighting: Float[Array, "9 3"],
    camera: Cameras,
    size: int,
    supersampling: int,
) -> tuple[Float[Array, "s s 4"], Int[Array, "s s"]]:
    """One picture of a person, lit per pixel, and its labels.

    Args:
        head: of `prepare_head`.
        shape: of `person`.
        albedo, style: as given to `person`.
        lighting: (9, 3) spherical harmonics in the frame of the head.
        camera: one camera, mm.
        size: height and width, pixels (static).
        supersampling: samples along each side of a pixel, odd (static): labels are those of the
            middle sample, that is of the pixel's centre.

    Returns:
        RGBA (size, size, 4) in [0, 1], alpha is coverage; labels (size, size) int32.
    """
    big = size * supersampling
    raster = rasterise(shape["vertices"], head.faces, scale_camera(camera, supersampling), big, big)
    masks = [head.surface[k] for k in ("lips", "brows", "ears", "scalp", "eye")]
    attributes = jnp.concatenate(
        [shape["colours"], shape["normals"], head.around, jnp.stack([*masks, head.below], 1)], 1
    )
    pixels = interpolate(raster, head.faces, attributes)
    normals = pixels[..., 3:6]
    length = jnp.linalg.norm(normals, axis=-1, keepdims=True)
    normals = jnp.where(raster.mask[..., None], normals / jnp.maximum(length, 1e-6), 0.0)
    seen = jnp.maximum(raster.face, 0)

    hairy = procedural_albedo.unflatten(albedo).scalp[0] >= hair.BALD
    scalp = jnp.clip(pixels[..., 12], 0.0, 1.0) * hairy
    strands = hair.strand_shading(style, pixels[..., 6:9])
    colours = pixels[..., :3] * (1.0 + scalp * (strands - 1.0))[..., None]
    lit = shade(jnp.clip(colours, 0.0, 1.0), normals, lighting)
    # Light adds before encoding, as in `shade`.
    dim = head.face_light[seen] ** (1.0 / GAMMA)
    image = downsample(lit * dim[..., None], raster.mask, supersampling)

    centre = slice(supersampling // 2, None, supersampling)
    part = head.face_label[seen][centre, centre]
    lips, brows, ears, _, eye, below = jnp.moveaxis(pixels[centre, centre, 9:15], -1, 0)
    labels = jnp.where(below > 0.0, NECK, SKIN)
    labels = jnp.where(scalp[centre, centre] > 0.5, HAIR, labels)
    labels = jnp.where(ears > 0.5, EARS, labels)
    labels = jnp.where(brows > 0.5, BROWS, labels)
    labels = jnp.where(eye > 0.5, EYES, labels)
    labels = jnp.where(part > 0, part, labels)
    labels = jnp.where((lips > 0.5) & (part != EYES), LIPS, labels)
    return image, jnp.where(raster.mask[centre, centre], labels, 0).astype(jnp.int32)
