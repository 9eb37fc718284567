"""Dressed people posed and drawn on the device: two compilations serve everyone."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from data_pipelines.detector_bodies import looks as looks_
from data_pipelines.detector_bodies.looks import HAIR, Looks
from data_pipelines.detector_bodies.surface import COVER, Surface, X, Z
from data_pipelines.lighting import shade
from data_pipelines.morphable_heads import hair
from jaxrecon.geometry.mesh import vertex_normals
from jaxrecon.geometry.rasterise import downsample, interpolate, rasterise, scale_camera
from jaxrecon.models.parametric import procedural_albedo
from jaxrecon.models.parametric.skeleton import moved, world_transforms
from jaxrecon.types import Cameras


@functools.partial(jax.jit, static_argnames="parents")
def pose_person(
    surface: Surface,
    rest: Float[Array, "v 3"],
    joints: Float[Array, "j 3"],
    turns: Float[Array, "j 3 3"],
    regions: Float[Array, "l p"],
    style: Float[Array, "h"],
    opacity: Float[Array, ""],
    shod: Float[Array, ""],
    extra: Float[Array, "m 3"],
    extra_weights: Float[Array, "m j"],
    faces: Int[Array, "f 3"],
    parents: tuple[int, ...],
) -> tuple[Float[Array, "n 3"], Float[Array, "n 3"], Float[Array, "j 3"]]:
    """Vertices of the body (with hair and painted clothes) and of all that is worn, in space.

    Args:
        surface: of the body.
        rest: drawn vertices at rest.
        joints: at rest.
        turns: of every joint against its parent.
        regions: painted garments, see `looks.rows`.
        style: of `hair.sample_hair`.
        opacity: of the hair on the scalp.
        shod: 1: toes are hidden in painted shoes.
        extra, extra_weights: what else is worn, at rest.
        faces: of body and extra together.
        parents: of the joints.

    Returns:
        vertices and unit normals (n = v + m), joints in space.
    """
    fields = surface.fields
    normals = vertex_normals(rest, surface.faces)
    inside = looks_.distances(regions, fields, surface.around)
    around = (fields[:, X : Z + 1] - surface.around[:1]) / surface.around[1:]
    thick = 0.001 * hair.hair_thickness(
        style, opacity, fields[:, COVER], around, surface.albedo["noise"]
    )
    off = jnp.maximum(thick, looks_.standing_off(regions, inside, fields))
    rest = rest + shod * surface.foot + off[:, None] * normals
    world = world_transforms(turns, joints, parents)
    shift = jnp.sum(world[:, :3, :3] * joints[:, None, :], axis=-1)
    bones = world.at[:, :3, 3].add(-shift)[:, :3, :]
    weights = jnp.concatenate([surface.weights, extra_weights])
    blend = jnp.einsum("vj,jab->vab", weights, bones)
    vertices = moved(blend, jnp.concatenate([rest, extra]))
    return vertices, vertex_normals(vertices, faces), world[:, :3, 3]


@functools.partial(jax.jit, static_argnames=("size", "supersampling"))
def picture(
    surface: Surface,
    vertices: Float[Array, "n 3"],
    normals: Float[Array, "n 3"],
    faces: Int[Array, "f 3"],
    material: Int[Array, "f"],
    extra_fields: Float[Array, "m 8"],
    regions: Float[Array, "l p"],
    albedo: Float[Array, "a"],
    style: Float[Array, "h"],
    looks: Looks,
    lighting: Float[Array, "9 3"],
    light: Float[Array, "3 3"],
    camera: Cameras,
    keypoints: Float[Array, "k 3"],
    size: int,
    supersampling: int,
) -> tuple[Array, Float[Array, "k 2"], Float[Array, "k"], Float[Array, "k"]]:
    """One picture.

    Args:
        surface: of the body.
        vertices, normals: of `pose_person`.
        faces: of body and extra together.
        material: of every face; 0 on the body, where the painted garments decide.
        extra_fields: of what is worn.
        regions: painted garments.
        albedo: of skin and hair, `procedural_albedo.PARAMETERS` numbers.
        style: of `hair.sample_hair`.
        looks: colours of the materials.
        lighting: spherical harmonics, in the frame of `light`.
        light: rotation from the world to the lighting's frame.
        camera: one camera.
        keypoints: in the world.
        size: pixels (static).
        supersampling: samples along each side of a pixel (static).

    Returns:
        RGBA (size, size, 4) uint8; pixels of the keypoints, their depths, and the depths of what is
        seen there (inf: nothing).
    """
    big = size * supersampling
    raster = rasterise(vertices, faces, scale_camera(camera, supersampling), big, big)
    skin = procedural_albedo.vertex_albedo(albedo, surface.albedo)
    colours = jnp.concatenate([skin, jnp.zeros(extra_fields.shape[:1] + (3,))])
    fields = jnp.concatenate([surface.fields, extra_fields])
    pixels = interpolate(raster, faces, jnp.concatenate([normals, colours, fields], axis=1))
    normals, colours, fields = pixels[..., :3], pixels[..., 3:6], pixels[..., 6:]
    own = material[jnp.maximum(raster.face, 0)]
    inside = looks_.distances(regions, fields, surface.around)
    own = jnp.where(own == 0, looks_.painted(inside), own)
    around = (fields[..., X : Z + 1] - surface.around[None, :1]) / surface.around[None, 1:]
    strands = hair.strand_shading(style, around)
    hairy = procedural_albedo.unflatten(albedo).scalp[0] >= hair.BALD
    scalp = fields[..., COVER] * hairy
    colours = colours * (1.0 + scalp * (strands - 1.0))[..., None]
    dressed, tilt = looks_.cloth(looks, own, fields)
    is_hair = (own == HAIR)[..., None]
    dressed = jnp.where(is_hair, dressed * strands[..., None], dressed)
    cloth = (own > 0)[..., None]
    colours = jnp.where(cloth, dressed, colours)
    normals = normals + jnp.where(cloth & ~is_hair, tilt, 0.0)
    length = jnp.linalg.norm(normals, axis=-1, keepdims=True)
    normals = jnp.where(raster.mask[..., None], normals / jnp.maximum(length, 1e-6), 0.0)
    # sheets are seen from both sides
    to_camera = jnp.sum(normals * camera.R[2][None, None], axis=-1, keepdims=True)
    normals = jnp.where(is_hair & (to_camera > 0), -normals, normals)
    normals = jnp.einsum("ij,hwj->hwi", light, normals)
    lit = shade(jnp.clip(colours, 0.0, 1.0), normals, lighting)
    image = downsample(lit, raster.mask, supersampling)

    x = keypoints @ camera.R.T + camera.t[None]
    p = x @ camera.K.T
    place = p[:, :2] / p[:, 2:]
    index = jnp.clip(jnp.floor(place * supersampling), 0, big - 1).astype(jnp.int32)
    front = raster.depth[index[:, 1], index[:, 0]]
    return jnp.round(255 * image).astype(jnp.uint8), place, x[:, 2], front
