"""Clothes that are meshes of their own: suits and shoes of a file, skirts, and long hair.

A file of clothes binds every vertex to three of the body (see `Garment`). Skirts and long hair are
sheets of fixed size made for each person. All end in one list of the same length for everyone,
padded, so that one compilation serves all.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib

import numpy as np
from jaxtyping import Float, Int

from data_pipelines.detector_bodies.looks import ACCENT, BOTTOM, HAIR, SHOES, TOP
from data_pipelines.detector_bodies.surface import ARM_WEIGHT, FIELDS, HEAD_WEIGHT, HEIGHT, Person
from jaxrecon.errors import InputError
from jaxrecon.models.parametric.model_arrays import (
    BROKEN,
    finite_array,
    index_array,
    npz_arrays,
    words,
)

RINGS, AROUND = 12, 40
HAIR_RINGS, HAIR_AROUND = 11, 20
EXPECTED = "clothes that bind to the body model (.npz: names, NAME/faces, NAME/bind_idx, ...)"
REMEDY = "leave --clothes out: garments are then drawn on the body"


@dataclasses.dataclass(frozen=True)
class Garment:
    """A garment of a file, v vertices: P = sum_i w_i V[idx_i] + offset * s on a body V at rest,
    with s_c = |V[a_c] - V[b_c]|_c / den_c for the axes c."""

    name: str
    faces: Int[np.ndarray, "f 3"]
    material: Int[np.ndarray, " f"]
    bind: Int[np.ndarray, "v 3"]
    shares: Float[np.ndarray, "v 3"]
    offset: Float[np.ndarray, "v 3"]
    reference: Int[np.ndarray, "3 2"]
    length: Float[np.ndarray, "3"]
    hidden: Int[np.ndarray, " h"]
    """body vertices whose faces it hides"""

    @property
    def is_shoes(self) -> bool:
        """Whether it is nothing but shoes."""
        return bool(np.isin(self.material, (SHOES, ACCENT)).all())

    def fitted(self, body: Float[np.ndarray, "n 3"], loose: float = 1.0) -> np.ndarray:
        """Its vertices (v, 3) on a body at rest; `loose` scales its distance from the skin."""
        near, far = (body[self.reference[:, i], np.arange(3)] for i in (0, 1))
        size = np.abs(near - far) / self.length
        return (self.shares[..., None] * body[self.bind]).sum(1) + loose * size * self.offset


def load_clothes(path: str | os.PathLike, person: Person) -> list[Garment]:
    """Garments of a file; raises `InputError` where it is none, or not of this body."""
    path = pathlib.Path(path)
    raw = npz_arrays(path, list, EXPECTED, REMEDY)
    try:
        return [_garment(raw, name, person) for name in words(raw, "names")]
    except BROKEN as error:
        raise InputError(f"{path}: {str(error)[:200]}", EXPECTED, REMEDY) from error


def _garment(raw: dict[str, np.ndarray], name: str, person: Person) -> Garment:
    count = len(person.template)
    bind = index_array(raw, f"{name}/bind_idx", (-1, 3), count)
    faces = index_array(raw, f"{name}/faces", (-1, 3), len(bind))
    length = finite_array(raw, f"{name}/scale_den", (3,))
    if (np.abs(length) < 1e-6).any():
        raise ValueError(f"{name}/scale_den is 0")
    garment = Garment(
        name=name,
        faces=faces,
        material=np.zeros(len(faces), np.int64),
        bind=bind,
        shares=finite_array(raw, f"{name}/bind_w", (len(bind), 3)),
        offset=finite_array(raw, f"{name}/bind_off", (len(bind), 3)),
        reference=index_array(raw, f"{name}/scale_ref", (3, 2), count),
        length=length,
        hidden=index_array(raw, f"{name}/delete_verts", (-1,), count),
    )
    return dataclasses.replace(garment, material=_materials(garment, person))


def _materials(garment: Garment, person: Person) -> np.ndarray:
    """Of every face, by its connected part: below the waist trousers or shoes, the largest part
    above is the top, and the others are accents."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    f, count = garment.faces, len(garment.bind)
    edges = np.concatenate([f[:, :2], f[:, 1:]])
    graph = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), (count, count))
    parts, part = connected_components(graph, directed=False)
    heights = bound(garment, person.fields[:, HEIGHT])
    sizes = np.bincount(part, minlength=parts)
    high = np.array([heights[part == i].max() for i in range(parts)])
    large = sizes > 0.5 * sizes.max()
    material = np.full(parts, ACCENT)
    material[large & (high < 0.45)] = BOTTOM
    material[large & (high < -0.75)] = SHOES
    above = np.flatnonzero(high >= 0.45)
    if len(above):
        material[above[np.argmax(sizes[above])]] = TOP
    below = np.flatnonzero((high < 0.45) & (high >= -0.75) & (sizes > 300))
    material[below] = BOTTOM
    return material[part[f[:, 0]]]


def bound(garment: Garment, values: np.ndarray) -> np.ndarray:
    """Values of the body's vertices (n, ...), carried over to a garment's."""
    shares = garment.shares.reshape(*garment.shares.shape, *(1,) * (values.ndim - 1))
    return (shares * values[garment.bind]).sum(1)


@dataclasses.dataclass(frozen=True)
class Extra:
    """A mesh at rest that follows the skeleton, m vertices."""

    vertices: Float[np.ndarray, "m 3"]
    faces: Int[np.ndarray, "f 3"]
    material: Int[np.ndarray, " f"]
    weights: Float[np.ndarray, "m j"]
    fields: Float[np.ndarray, "m 8"]


def worn(garment: Garment, body: Float[np.ndarray, "n 3"], person: Person, loose: float) -> Extra:
    """A garment of a file on a person at rest."""
    weights = bound(garment, person.weights)
    fields = bound(garment, person.fields)
    fields[:, HEAD_WEIGHT] = 0.0
    return Extra(
        vertices=garment.fitted(body, loose),
        faces=garment.faces,
        material=garment.material,
        weights=weights / np.maximum(weights.sum(1, keepdims=True), 1e-6),
        fields=fields,
    )


def sheet(rings: int, around: int, closed: bool) -> Int[np.ndarray, "f 3"]:
    """Faces of a grid of rings, one below the other; outward if angles grow from +z to +x."""
    i, j = np.meshgrid(np.arange(rings - 1), np.arange(around - (not closed)), indexing="ij")
    a, b = i * around + j, i * around + (j + 1) % around
    c, d = a + around, b + around
    return np.stack([np.stack([a, c, b], -1), np.stack([b, c, d], -1)]).reshape(-1, 3)


def skirt(
    body: Float[np.ndarray, "n 3"],
    person: Person,
    waist: float,
    hem: float,
    flare: float,
    material: int,
) -> Extra:
    """A cone from the waist to the hem (heights as in `FIELDS`), wider than what is beneath.

    Args:
        body: the person at rest.
        person: its model.
        waist, hem: 0 hips, 1 shoulders, -1 ankles.
        flare: half the width that it gains down to the hem, metres.
        material: of all of it.
    """
    use = person.used[person.fields[person.used, ARM_WEIGHT] < 0.3]
    heights, points = person.fields[use, HEIGHT], body[use]
    levels = np.linspace(waist, hem, RINGS)
    angle = np.linspace(0, 2 * np.pi, AROUND, endpoint=False)
    rows, wide, deep = [], 0.0, 0.0
    for k, level in enumerate(levels):
        ring = points[np.abs(heights - level) < 0.06]
        if not len(ring):
            ring = points[[np.argmin(np.abs(heights - level))]]
        middle = (ring[:, 2].max() + ring[:, 2].min()) / 2
        down = k / (RINGS - 1)
        wide = max(wide, np.abs(ring[:, 0]).max() + 0.012)
        deep = max(deep, (ring[:, 2].max() - ring[:, 2].min()) / 2 + 0.015)
        if k == 0:
            first = middle
        folds = 1 + 0.05 * down * np.sin(9 * angle)
        # of a superellipse, as waists are
        across = np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** 0.85
        ahead = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** 0.85
        x = (wide + flare * down) * folds * across
        z = (0.5 * first + 0.5 * middle) + (deep + flare * down) * folds * ahead
        rows.append(np.stack([x, np.full(AROUND, ring[:, 1].mean()), z], 1))
    vertices = np.concatenate(rows)
    level = np.repeat(levels, AROUND)
    index = {name: i for i, name in enumerate(person.names)}
    weights = np.zeros((len(vertices), len(person.names)), np.float32)
    leg = np.clip((0.12 - level) / 0.45, 0.0, 1.0) * 0.9
    left = 1 / (1 + np.exp(-vertices[:, 0] / 0.05))
    knee = np.clip((-0.45 - level) / 0.4, 0.0, 0.75)
    for side, share in (("left", left), ("right", 1 - left)):
        weights[:, index[f"{side}_hip"]] = leg * share * (1 - knee)
        weights[:, index[f"{side}_knee"]] = leg * share * knee
    top = np.clip((level - 0.1) / 0.3, 0.0, 1.0) * (1 - leg)
    weights[:, index["spine1"]] = top
    weights[:, index["pelvis"]] = 1 - leg - top
    fields = np.zeros((len(vertices), len(FIELDS)), np.float32)
    fields[:, 0], fields[:, 1], fields[:, 5:] = level, -1.0, vertices
    faces = sheet(RINGS, AROUND, closed=True)
    return Extra(vertices, faces, np.full(len(faces), material), weights, fields)


def long_hair(
    body: Float[np.ndarray, "n 3"], person: Person, length: float, half_angle: float, volume: float
) -> Extra:
    """A shell about the back of the head that hangs down.

    Args:
        body: the person at rest.
        person: its model.
        length: below the middle of the scalp, metres.
        half_angle: to where it reaches around from the back, radians.
        volume: off the scalp, metres.
    """
    scalp = body[person.scalp] if len(person.scalp) else body
    middle = (scalp.min(0) + scalp.max(0)) / 2
    half = (scalp.max(0) - scalp.min(0)) / 2 + volume
    angle = np.linspace(-half_angle, half_angle, HAIR_AROUND)
    aside, behind = np.sin(angle), -np.cos(angle)
    back = body[person.used, 2].min()
    rows, share = [], []
    above = 4
    for k in range(HAIR_RINGS):
        if k < above:
            tilt = np.pi / 2 * (k + 0.35) / above
            radius, y, down = np.sin(tilt), middle[1] + half[1] * np.cos(tilt), 0.0
        else:
            down = (k - above + 1) / (HAIR_RINGS - above)
            radius, y = 1.0, middle[1] - down * length
        x = middle[0] + radius * half[0] * (1 + 0.1 * down) * aside
        z = middle[2] + radius * half[2] * behind
        low = np.clip((middle[1] - 0.2 - y) / 0.1, 0.0, 1.0)
        z = np.where(behind < -0.3, np.minimum(z, z + low * (back - 0.015 - z)), z)
        rows.append(np.stack([x, np.full(HAIR_AROUND, y), z], 1))
        share += [np.clip((middle[1] - 0.08 - y) / 0.25, 0.0, 0.85)] * HAIR_AROUND
    vertices, below = np.concatenate(rows), np.array(share)
    index = {name: i for i, name in enumerate(person.names)}
    weights = np.zeros((len(vertices), len(person.names)), np.float32)
    weights[:, index["head"]] = 1 - below
    weights[:, index["neck"]] = 0.35 * below
    weights[:, index["spine3"]] = 0.65 * below
    fields = np.zeros((len(vertices), len(FIELDS)), np.float32)
    fields[:, 0], fields[:, 1], fields[:, 3], fields[:, 5:] = 1.5, -1.0, 1.0, vertices
    faces = sheet(HAIR_RINGS, HAIR_AROUND, closed=False)
    return Extra(vertices, faces, np.full(len(faces), HAIR), weights, fields)


@dataclasses.dataclass(frozen=True)
class Room:
    """How many vertices and faces all that is worn may have."""

    vertices: int
    faces: int


def room_for(garments: list[Garment]) -> Room:
    """Room for the largest suit, the largest shoes, a skirt and long hair."""
    suits = [g for g in garments if not g.is_shoes]
    shoes = [g for g in garments if g.is_shoes]

    def largest(of, group):
        return max((len(getattr(g, of)) for g in group), default=0)

    skirt_faces, hair_faces = sheet(RINGS, AROUND, True), sheet(HAIR_RINGS, HAIR_AROUND, False)
    return Room(
        vertices=largest("bind", suits)
        + largest("bind", shoes)
        + RINGS * AROUND
        + HAIR_RINGS * HAIR_AROUND,
        faces=largest("faces", suits)
        + largest("faces", shoes)
        + len(skirt_faces)
        + len(hair_faces),
    )


def packed(extras: list[Extra], person: Person, room: Room) -> Extra:
    """All that is worn in one mesh that fills the room; what is left over has faces of no size."""
    vertices = np.zeros((room.vertices, 3), np.float32)
    weights = np.zeros((room.vertices, len(person.names)), np.float32)
    weights[:, 0] = 1.0
    fields = np.zeros((room.vertices, len(FIELDS)), np.float32)
    faces = np.zeros((room.faces, 3), np.int64)
    material = np.zeros(room.faces, np.int64)
    start, first = 0, 0
    for extra in extras:
        end, last = start + len(extra.vertices), first + len(extra.faces)
        vertices[start:end], weights[start:end] = extra.vertices, extra.weights
        fields[start:end] = extra.fields
        faces[first:last], material[first:last] = extra.faces + start, extra.material
        start, first = end, last
    return Extra(vertices, faces, material, weights, fields)
