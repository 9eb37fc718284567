"""The picture of a figure: one jitted function of arrays.

Colours are drawn at `supersampling` times the size, labels and depth at the pixels' centres by a
second pass of the same mesh. Which surface a pixel shows is decided once, in `_classified`, for
both.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from data_pipelines.detector_faces.bust import neckline_depth
from data_pipelines.detector_faces.figure import BUST, COLLAR_RING, HEAD, KNOT, SHEET, SHELL, Figure
from data_pipelines.lighting import GAMMA, shade
from data_pipelines.morphable_heads import hair
from data_pipelines.morphable_heads.head import BROWS, EARS, EYES, HAIR, LIPS, MOUTH, NECK, SKIN
from jaxrecon.geometry.mesh import vertex_normals
from jaxrecon.geometry.rasterise import Raster, downsample, interpolate, rasterise, scale_camera
from jaxrecon.models.parametric import procedural_albedo
from jaxrecon.types import FACE_LABELS, Cameras

CLOTHES = FACE_LABELS.index("clothes")
HIDING = 0.6
"""Lenses more opaque than this hide the landmarks behind them."""
TOLERANCE = 5.0
"""mm by which what a pixel near a landmark shows may lie in front of or behind it."""


def _attributes(figure: Figure, scene: dict) -> Float[Array, "v c"]:
    """(v, 20): colour 3, normal 3, strands 3, lips, brows, ears, scalp, eye, below, lash, rest 3,
    share of the light.
    """
    head = figure.head
    count = scene["vertices"].shape[0]
    extra = count - figure.rest.shape[0]
    masks = [head.surface[k] for k in ("lips", "brows", "ears", "scalp", "eye")]
    own = jnp.stack([*masks, head.below, figure.lash], 1)
    own = jnp.concatenate([own, jnp.zeros((extra, 7)).at[:, 5].set(60.0)])
    normals = vertex_normals(scene["vertices"], figure.faces)
    colours = procedural_albedo.vertex_albedo(scene["albedo"], head.surface)
    skin = jnp.mean(colours[head.loop] if head.loop.shape[0] else colours, axis=0)
    hair_colour = procedural_albedo.unflatten(scene["albedo"]).hair
    other = jnp.where(scene["is_hair"][:, None] > 0, hair_colour[None], skin[None])
    return jnp.concatenate(
        [
            jnp.concatenate([colours, other]),
            normals,
            jnp.concatenate([head.around, scene["strands"]]),
            own,
            jnp.concatenate([figure.rest, scene["rest"]]),
            jnp.concatenate([jnp.ones(figure.rest.shape[0]), scene["dim"]])[:, None],
        ],
        axis=1,
    )


def _classified(figure: Figure, scene: dict, raster: Raster, pixels):
    """Labels of what pixels show, 0 where nothing; whether they are a hat's; neckline depth."""
    seen = jnp.maximum(raster.face, 0)
    material, part = figure.material[seen], figure.face_label[seen]
    lips, brows, ears, scalp, eye, below = jnp.moveaxis(pixels[..., 9:15], -1, 0)
    rest = pixels[..., 16:19]
    hairy = procedural_albedo.unflatten(scene["albedo"]).scalp[0] >= hair.BALD
    labels = jnp.where(below > 0.0, NECK, SKIN)
    labels = jnp.where((scalp > 0.5) & hairy, HAIR, labels)
    labels = jnp.where(ears > 0.5, EARS, labels)
    labels = jnp.where(brows > 0.5, BROWS, labels)
    labels = jnp.where(eye > 0.5, EYES, labels)
    labels = jnp.where(part > 0, part, labels)
    labels = jnp.where((lips > 0.5) & (part != EYES), LIPS, labels)
    hat = (rest[..., 1] - scene["hat"][0] - scene["hat"][1] * rest[..., 2] > 0) & (part == 0)
    hat = (hat & (material == HEAD)) | ((material == SHEET) & (scene["sheet_hat"] > 0))
    depth = neckline_depth(jnp, rest, scene["neckline"])
    skin = (material <= HEAD) & (rest[..., 1] > -80.0)
    body = jnp.where((depth > 0) & ~skin, CLOTHES, NECK)
    labels = jnp.where((material == HEAD) & (depth > 0) & ~skin & (below > 0), CLOTHES, labels)
    labels = jnp.where(material == BUST, body, labels)
    labels = jnp.where(material == COLLAR_RING, CLOTHES, labels)
    labels = jnp.where(material == SHELL, jnp.where(scene["scarf"] > 0, CLOTHES, HAIR), labels)
    labels = jnp.where((material == SHEET) | (material == KNOT), HAIR, labels)
    labels = jnp.where(hat, CLOTHES, labels)
    return jnp.where(raster.mask, labels, 0), hat, depth


def _flat(colour):
    """A colour (3,) for a whole picture."""
    return colour.reshape(1, 1, 3)


def _clothes(scene, rest, depth):
    """Colours (h, w, 3) of clothes at places of the rest frame."""
    cloth = scene["cloth"]
    x, y = rest[..., 0], rest[..., 1]
    first = jnp.sin(cloth[10] * x + cloth[11] * y)
    second = jnp.where(
        jnp.abs(cloth[12]) + jnp.abs(cloth[13]) > 0, jnp.sin(cloth[12] * x + cloth[13] * y), 1.0
    )
    share = 0.5 + 0.5 * jnp.clip(cloth[14] * first * second, -1.0, 1.0)
    colour = _flat(cloth[:3]) + (cloth[9] * share)[..., None] * _flat(cloth[3:6] - cloth[:3])
    colour = jnp.where((depth < cloth[15])[..., None], _flat(cloth[6:9]), colour)
    fold = 1.0 + 0.08 * jnp.sin(0.05 * x + 0.021 * y + 6.3 * cloth[17]) * jnp.sin(
        0.031 * x - 0.043 * y + 6.3 * cloth[18]
    )
    edge = 0.78 + 0.22 * jnp.clip(depth / 4.0, 0.0, 1.0)
    return colour * (fold * edge)[..., None]


def _view(camera: Cameras, size: int):
    """Unit directions (size, size, 3) from what pixels show to the camera, in the world."""
    v, u = jnp.meshgrid(jnp.arange(size) + 0.5, jnp.arange(size) + 0.5, indexing="ij")
    ray = jnp.stack(
        [
            (u - camera.K[0, 2]) / camera.K[0, 0],
            (v - camera.K[1, 2]) / camera.K[1, 1],
            jnp.ones_like(u),
        ],
        -1,
    )
    ray = -ray / jnp.linalg.norm(ray, axis=-1, keepdims=True)
    return jnp.einsum("hwi,ij->hwj", ray, camera.R, precision="highest")


@functools.partial(jax.jit, static_argnames=("size", "supersampling"))
def render_figure(
    figure: Figure, scene: dict, camera: Cameras, size: int, supersampling: int
) -> tuple[Float[Array, "s s 4"], Int[Array, "s s"], Bool[Array, "68"]]:
    """A person's picture, labels, and which landmarks are seen.

    Args:
        figure: of `prepare_figure`.
        scene: of `scene.make_scene`.
        camera: one camera, mm.
        size: height and width, pixels (static).
        supersampling: samples along each side of a pixel (static).

    Returns:
        straight RGBA in [0, 1], alpha is the coverage; labels int32 of `FACE_LABELS` at the pixels'
        centres; (68,) bool visibility of landmarks (not whether they are inside the picture).
    """
    big = size * supersampling
    fine = scale_camera(camera, supersampling)
    attributes = _attributes(figure, scene)
    raster = rasterise(scene["vertices"], figure.faces, fine, big, big, 10.0)
    pixels = interpolate(raster, figure.faces, attributes)
    labels, hat, depth = _classified(figure, scene, raster, pixels)
    view = _view(fine, big)
    normals = pixels[..., 3:6]
    normals = normals / jnp.maximum(jnp.linalg.norm(normals, axis=-1, keepdims=True), 1e-6)
    seen = jnp.maximum(raster.face, 0)
    material = figure.material[seen]
    # Sheets are seen from both sides.
    away = jnp.sum(normals * view, -1) < 0
    flip = jnp.where(away & (material >= SHELL), -1.0, 1.0)
    normals = jnp.where(raster.mask[..., None], normals * flip[..., None], 0.0)

    strands = hair.strand_shading(scene["style"], pixels[..., 6:9])
    hairy = procedural_albedo.unflatten(scene["albedo"]).scalp[0] >= hair.BALD
    share = jnp.where(material == HEAD, jnp.clip(pixels[..., 12], 0.0, 1.0) * hairy, 1.0)
    share = jnp.where((labels == HAIR) | (material == HEAD), share, 0.0)
    colours = pixels[..., :3] * (1.0 + share * (strands - 1.0))[..., None]
    below, lash = pixels[..., 14], pixels[..., 15]
    jaw = scene["shade"][0] * jnp.exp(-((below / 35.0) ** 2)) * jnp.clip(below / 4.0, 0.0, 1.0)
    dark = (1.0 - jaw) * (1.0 - scene["shade"][1] * lash * (labels == SKIN))
    colours = colours * dark[..., None]
    worn = _clothes(scene, pixels[..., 16:19], depth)
    ribs = 1.0 + 0.12 * jnp.sin(
        scene["hat"][5] * 85.0 * jnp.arctan2(pixels[..., 16], pixels[..., 18])
    )
    worn = jnp.where((material == COLLAR_RING)[..., None], _flat(scene["cloth"][6:9]), worn)
    scarf = (material == SHELL) & (scene["scarf"] > 0)
    worn = jnp.where((hat | scarf)[..., None], _flat(scene["hat"][2:5]) * ribs[..., None], worn)
    colours = jnp.where((labels == CLOTHES)[..., None], worn, colours)
    dim = figure.face_light[seen] * pixels[..., 19]
    lit = shade(jnp.clip(colours, 0.0, 1.0), normals, scene["lighting"])
    lit = lit * (jnp.maximum(dim, 0.0) ** (1.0 / GAMMA))[..., None]
    half = view + _flat(scene["shine"])
    half = half / jnp.maximum(jnp.linalg.norm(half, axis=-1, keepdims=True), 1e-6)
    facing = jnp.clip(jnp.sum(half * normals, -1), 0.0, 1.0)
    gloss = jnp.where(
        labels == EYES,
        0.8 * facing**150,
        jnp.where(
            (labels == SKIN) | (labels == LIPS) | (labels == BROWS),
            scene["shade"][2] * facing ** scene["shade"][3],
            jnp.where(labels == HAIR, 0.10 * facing**12, 0.0),
        ),
    )
    gloss = gloss * jnp.where(labels == MOUTH, 0.0, 1.0) * dim
    lit = jnp.clip(lit + gloss[..., None] * _flat(jnp.clip(scene["key"], 0.0, 1.5)), 0.0, 1.0)

    lens = rasterise(scene["glasses"], scene["glasses_faces"], fine, big, big, 10.0)
    in_front = lens.mask & (lens.depth < raster.depth)
    is_lens = scene["glasses_lens"][jnp.maximum(lens.face, 0)]
    opacity = jnp.where(is_lens > 0, scene["lens"][3], 1.0) * in_front
    glass = vertex_normals(scene["glasses"], scene["glasses_faces"])
    glass = interpolate(lens, scene["glasses_faces"], glass)
    glass = glass * jnp.sign(jnp.sum(glass * view, -1, keepdims=True))
    bright = shade(jnp.broadcast_to(_flat(scene["frame"]), glass.shape), glass, scene["lighting"])
    shine = jnp.clip(jnp.sum(half * glass, -1), 0.0, 1.0) ** 30
    bright = jnp.clip(bright + 0.35 * shine[..., None], 0.0, 1.0)
    v = (jnp.arange(big) + 0.5)[:, None] / big
    u = (jnp.arange(big) + 0.5)[None] / big
    streak = jnp.sin(40.0 * (u + 0.7 * v) + scene["lens"][5])
    streak = jnp.clip(3.0 * streak - 1.6, 0.0, 1.0) * scene["lens"][4]
    tint = _flat(scene["lens"][:3])
    tint = tint + streak[..., None] * (1.0 - tint)
    opacity = jnp.where((is_lens > 0) & in_front, jnp.maximum(opacity, 0.8 * streak), opacity)
    over = jnp.where(is_lens[..., None] > 0, tint, bright)
    covered = raster.mask.astype(jnp.float32)
    alpha = opacity + covered * (1.0 - opacity)
    mixed = over * opacity[..., None] + lit * (covered * (1.0 - opacity))[..., None]
    mixed = mixed / jnp.maximum(alpha, 1e-6)[..., None]
    image = downsample(mixed, alpha, supersampling)

    coarse = rasterise(scene["vertices"], figure.faces, camera, size, size, 10.0)
    at_centres = interpolate(coarse, figure.faces, attributes)
    parsing = _classified(figure, scene, coarse, at_centres)[0].astype(jnp.int32)
    # A thin lock of hair hides a landmark, though it lies within the tolerance.
    bare = jnp.where((labels == HAIR) | (labels == CLOTHES), jnp.inf, raster.depth)
    seen_marks = _visible(scene["landmarks"], fine, bare)
    hiding = jnp.where(
        lens.mask & (opacity >= HIDING), jnp.where(in_front, lens.depth, jnp.inf), jnp.inf
    )
    dark = scene["lens"][3] >= HIDING
    return image, parsing, seen_marks & ~(dark & _covered(scene["landmarks"], fine, hiding))


def _places(points, camera, size):
    x = points @ camera.R.T + camera.t[None]
    p = x @ camera.K.T
    pixel = jnp.floor(p[:, :2] / p[:, 2:]).astype(jnp.int32)
    offsets = jnp.stack(jnp.meshgrid(jnp.arange(-1, 2), jnp.arange(-1, 2), indexing="ij"), -1)
    near = jnp.clip(pixel[:, None] + offsets.reshape(1, 9, 2), 0, size - 1)
    return near, x[:, 2]


def _visible(points, camera, depth):
    """Whether a pixel at or next to each point shows a surface within the tolerance of it."""
    near, z = _places(points, camera, depth.shape[0])
    shown = depth[near[..., 1], near[..., 0]]
    return jnp.min(jnp.abs(shown - z[:, None]), axis=1) <= TOLERANCE


def _covered(points, camera, depth):
    """Whether a surface in front covers the very pixel of each point."""
    near, z = _places(points, camera, depth.shape[0])
    return depth[near[:, 4, 1], near[:, 4, 0]] < z
