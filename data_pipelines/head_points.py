"""Surface and volume points of a linear head model, sampled on the device.

`sample_heads` is a pure function of a key: identities, expressions, points, normals, corresponding
points on the mean head, and estimated distances around it, in canonical space (1 unit = 150 mm).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from data_pipelines import head_exposure
from jaxrecon.models.parametric.face import LinearFaceModel
from jaxrecon.types import Similarity

HEAD_CENTRE_MM = (0.0, 10.0, 15.0)
HEAD_SCALE_MM = 150.0


def head_similarity() -> Similarity:
    """S_canonical_model: the one fixed similarity of heads, x_canonical = (x_mm - centre) / 150."""
    scale = 1.0 / HEAD_SCALE_MM
    return Similarity(
        scale=np.float32(scale),
        R=np.eye(3, dtype=np.float32),
        t=(-scale * np.asarray(HEAD_CENTRE_MM)).astype(np.float32),
    )


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """How many points, and where."""

    heads: int = 8
    """Instances a batch (S)."""
    surface: int = 640
    """Surface points of each (N)."""
    volume: int = 384
    """Points off the surface of each (M): half uniform, a quarter near it, a quarter just below
    it."""
    face_density: float = 3.0
    """Density of surface points within 95 mm of the nose tip, relative to the rest."""
    feature_density: float = 1.0
    """Density within 11 mm of the landmarks of lids and lips, relative to the face."""
    hidden: bool = False
    """Whether to draw surface that no view of any expression shows (`head_exposure`)."""
    identity_clip: float = 3.0
    """Identity coefficients are normal, clipped at this many standard deviations."""
    neutral: float = 0.15
    """Share of instances with a neutral expression."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HeadSampler:
    """A head model in canonical units with what sampling needs."""

    mean: Array
    """(v, 3)"""
    basis: Array
    """(k + e, v * 3) identity, then expression"""
    faces: Array
    """(f, 3)"""
    cumulative: Array
    """(f,) cumulative probability of a face"""
    landmarks: Array
    """(68,) vertices; the nearest ones where landmarks lie in faces"""
    landmark_corners: Array
    """(68, 3) vertices whose weighted means the landmarks are"""
    landmark_weights: Array
    """(68, 3)"""
    tied: Array
    """(e,) index of the mirrored expression (itself where there is none)"""
    closing: Array
    """(e,) 1 for mouthClose, which only goes with jawOpen"""
    opening: Array
    """(e,) 1 for jawOpen"""
    modes: Array
    """(e,) 1 for principal modes, whose coefficients are normal"""
    identities: int = dataclasses.field(metadata={"static": True})
    """k"""


def make_sampler(
    model: LinearFaceModel, config: SampleConfig, identities: int = 100
) -> HeadSampler:
    """Prepare a model (mm) for `sample_heads`, with its first `identities` modes."""
    names = model.expression_names
    mean = (np.asarray(model.mean) - np.asarray(HEAD_CENTRE_MM, np.float32)) / HEAD_SCALE_MM
    basis = np.concatenate([model.identity[:identities], model.expression]) / HEAD_SCALE_MM
    marks = np.asarray(model.landmarks)
    corners_of_marks, weights_of_marks = model.landmark_corners, model.landmark_weights
    if corners_of_marks is None:
        corners_of_marks = np.repeat(marks[:, None], 3, 1)
        weights_of_marks = np.tile(np.array([[1, 0, 0]], np.float32), (len(marks), 1))
    corners = mean[np.asarray(model.faces)]
    area = 0.5 * np.linalg.norm(
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
    )
    nose = mean[marks[30]]
    near = np.linalg.norm(corners.mean(1) - nose, axis=1) < 95.0 / HEAD_SCALE_MM
    # What lies outside the canonical box (the bust) is never sampled.
    inside = (np.abs(corners.mean(1)) < 1.0).all(1)
    weight = area * np.where(near, config.face_density, 1.0) * inside
    close = np.linalg.norm(corners.mean(1)[:, None] - mean[marks[36:68]][None], axis=2).min(1)
    weight = weight * np.where(close < 11.0 / HEAD_SCALE_MM, config.feature_density, 1.0)
    swap = {"_L": "_R", "_R": "_L"}
    mirrored = [n[:-2] + swap[n[-2:]] if n[-2:] in swap else n for n in names]
    sampler = HeadSampler(
        mean=jnp.asarray(mean),
        basis=jnp.asarray(basis.reshape(len(basis), -1), jnp.float32),
        faces=jnp.asarray(model.faces),
        cumulative=jnp.asarray(np.cumsum(weight) / weight.sum(), jnp.float32),
        landmarks=jnp.asarray(marks),
        landmark_corners=jnp.asarray(corners_of_marks),
        landmark_weights=jnp.asarray(weights_of_marks),
        tied=jnp.asarray(
            [names.index(m) if m in names else i for i, m in enumerate(mirrored)], jnp.int32
        ),
        closing=jnp.asarray([float(n == "mouthClose") for n in names]),
        opening=jnp.asarray([float(n == "jawOpen") for n in names]),
        modes=jnp.asarray([float(n.startswith("mode_")) for n in names]),
        identities=min(identities, len(model.identity)),
    )
    if not config.hidden:
        weight = weight * _exposed(sampler)
        cumulative = jnp.asarray(np.cumsum(weight) / weight.sum(), jnp.float32)
        sampler = dataclasses.replace(sampler, cumulative=cumulative)
    return sampler


def _exposed(sampler: HeadSampler) -> np.ndarray:
    """(f,) whether a face shows on the mean person: at rest from all around, or in one of five
    random expressions from the front.
    """
    nobody = jnp.zeros(sampler.identities)

    @jax.jit
    def head(key):
        return canonical_vertices(sampler, nobody, sample_expression(sampler, key, neutral=0.0))

    heads = jnp.stack([head(k) for k in jax.random.split(jax.random.key(0), 5)])
    moving = head_exposure.exposed_faces(heads, sampler.faces)
    resting = head_exposure.exposed_faces(sampler.mean[None], sampler.faces, head_exposure.AROUND)
    return np.asarray(moving | resting)


def sample_expression(sampler: HeadSampler, key: Array, neutral: float = 0.15) -> Float[Array, "e"]:
    """A plausible expression: few shapes active, left and right tied, the mouth closed only as far
    as the jaw opens. Unnamed shapes are principal modes: their coefficients are normal, clipped at
    3.
    """
    keys = jax.random.split(key, 6)
    count = sampler.tied.shape[0]
    active = jax.random.bernoulli(keys[0], jax.random.uniform(keys[1], (), maxval=0.25), (count,))
    strength = jax.random.uniform(keys[2], (count,)) * active
    own = jnp.minimum(
        jnp.arange(count), sampler.tied
    )  # both sides read one draw, then differ a little
    weights = strength[own] * jax.random.uniform(keys[3], (count,), minval=0.7, maxval=1.0)
    weights = weights + 0.08 * jnp.abs(jax.random.normal(keys[4], (count,)))
    opening = jnp.sum(weights * sampler.opening)
    weights = jnp.where(sampler.closing > 0, jnp.minimum(weights, opening), weights)
    weights = jnp.clip(weights, 0.0, 1.0)
    normal = jax.random.normal(jax.random.fold_in(key, 6), (count,))
    weights = jnp.where(sampler.modes > 0, jnp.clip(normal, -3.0, 3.0), weights)
    damp = jnp.where(jax.random.uniform(keys[5], ()) < neutral, 0.1, 1.0)
    return damp * weights


def draw_triangles(sampler: HeadSampler, key: Array, count: int):
    """(corner ids (count, 3), barycentric coordinates (count, 3)) of random surface points."""
    k_face, k_corner = jax.random.split(key)
    last = sampler.faces.shape[0] - 1
    face = jnp.searchsorted(sampler.cumulative, jax.random.uniform(k_face, (count,)))
    u = jax.random.uniform(k_corner, (count, 2))
    u = jnp.where(jnp.sum(u, axis=1, keepdims=True) > 1.0, 1.0 - u, u)
    bary = jnp.concatenate([1.0 - jnp.sum(u, axis=1, keepdims=True), u], axis=1)
    return sampler.faces[jnp.minimum(face, last)], bary


def sample_codes(sampler: HeadSampler, config: SampleConfig, key: Array):
    """(identity (k,), expression (e,)) of one random person."""
    k_id, k_exp = jax.random.split(key)
    clip = config.identity_clip
    identity = jnp.clip(jax.random.normal(k_id, (sampler.identities,)), -clip, clip)
    return identity, sample_expression(sampler, k_exp, config.neutral)


def canonical_vertices(sampler: HeadSampler, identity, expression) -> Float[Array, "v 3"]:
    """Vertices of one person in canonical space."""
    codes = jnp.concatenate([identity, expression])
    return sampler.mean + jnp.matmul(codes, sampler.basis, precision="highest").reshape(-1, 3)


def landmark_points(
    sampler: HeadSampler, vertices: Float[Array, "*b v 3"]
) -> Float[Array, "*b 68 3"]:
    """The 68 landmarks on given vertices of the sampler's model, in their frame and unit."""
    corners = vertices[..., sampler.landmark_corners, :]
    weights = jnp.broadcast_to(sampler.landmark_weights[..., None], corners.shape)
    return jnp.sum(corners * weights, axis=-2)


def sample_points(sampler: HeadSampler, config: SampleConfig, key: Array, vertices) -> dict:
    """Points of one instance whose vertices are given; see `sample_heads`."""
    k_triangle, k_uniform, k_near, k_extra = jax.random.split(key, 4)
    triangles, bary = draw_triangles(sampler, k_triangle, config.surface)
    corners = vertices[triangles]
    points = jnp.einsum("nc,ncx->nx", bary, corners)
    normals = jnp.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = normals / jnp.maximum(jnp.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    half, quarter = config.volume // 2, config.volume // 4
    uniform = jax.random.uniform(k_uniform, (config.volume - half, 3), minval=-1.0, maxval=1.0)
    spread = 0.06 * jax.random.normal(k_near, (half - quarter, 3))
    near = jnp.clip(points[: half - quarter] + spread, -1.0, 1.0)
    # Just below the skin, where the distance is known: without these the field may turn positive
    # again behind a thin sheet (it did behind the eyes).
    depth = jax.random.uniform(jax.random.fold_in(k_near, 1), (quarter, 1), minval=0.5, maxval=2.0)
    depth = depth / HEAD_SCALE_MM
    inner = points[half - quarter : half] - depth * normals[half - quarter : half]
    uniform = jnp.concatenate([uniform, near, inner])
    # The surface samples themselves estimate the distance: within their spacing of the truth, with
    # the sign of the nearest normal. Grazing points (the rims of mouth, eyes and neck) tell no
    # side and are left out.
    extra_triangles, extra_bary = draw_triangles(sampler, k_extra, 1024)
    extra_corners = vertices[extra_triangles]
    cloud = jnp.concatenate([points, jnp.einsum("nc,ncx->nx", extra_bary, extra_corners)])
    extra_normals = jnp.cross(
        extra_corners[:, 1] - extra_corners[:, 0], extra_corners[:, 2] - extra_corners[:, 0]
    )
    cloud_normals = jnp.concatenate([normals, extra_normals])
    squared = (
        jnp.sum(uniform**2, axis=1)[:, None]
        + jnp.sum(cloud**2, axis=1)[None, :]
        - 2.0 * jnp.matmul(uniform, cloud.T, precision="highest")
    )
    nearest = jnp.argmin(squared, axis=1)
    offset = uniform - cloud[nearest]
    distance = jnp.linalg.norm(offset, axis=1)
    normal = cloud_normals[nearest]
    along = jnp.sum(offset * normal, axis=1) / jnp.maximum(
        jnp.linalg.norm(normal, axis=1) * distance, 1e-9
    )
    known = (jnp.abs(along) > 0.5) & (distance > 0.02)
    tolerance = jnp.where(known, 0.02 + 0.1 * distance, 1e6)
    below = jnp.arange(config.volume) >= config.volume - quarter
    shallow = jnp.concatenate([jnp.zeros(config.volume - quarter), depth[:, 0]])
    return {
        "points": points,
        "normals": normals,
        "reference_points": jnp.einsum("nc,ncx->nx", bary, sampler.mean[triangles]),
        "uniform": uniform,
        "distance": jnp.where(below, -shallow, jnp.sign(along) * distance),
        "distance_tolerance": jnp.where(below, 0.3 * shallow, tolerance),
    }


def sample_heads(sampler: HeadSampler, config: SampleConfig, key: Array) -> dict:
    """A batch of random people.

    Returns:
        z_id (S, k), z_exp (S, e); points, normals, reference_points (S, N, 3); uniform (S, M, 3)
        with estimated signed `distance` and `distance_tolerance` (S, M), huge where the side is
        not known.
    """

    def one(key):
        k_codes, k_points = jax.random.split(key)
        identity, expression = sample_codes(sampler, config, k_codes)
        vertices = canonical_vertices(sampler, identity, expression)
        points = sample_points(sampler, config, k_points, vertices)
        return {"z_id": identity, "z_exp": expression, **points}

    return jax.vmap(one)(jax.random.split(key, config.heads))
