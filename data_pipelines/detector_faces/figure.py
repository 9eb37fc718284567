"""The one mesh of a person: head, bust, collar, hair shells, and the front sheet.

Topology is fixed, so that everything compiles once; what a person does not wear is a point. Frame
and unit are the head's: x to the subject's left, y up, z out of the face, millimetres.
"""

from __future__ import annotations

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from data_pipelines.morphable_heads.head import Head, prepare_head

RINGS = 18
"""Rings of the bust below the rim of the neck."""
COLLAR = (48, 10)
"""Columns around the neck, and around the tube."""
CURTAIN = (56, 16)
"""Columns of the outer sheet of long hair (the inner sheet has as many), and rows."""
FRONT = (65, 9)
"""Columns and rows of the fringe, or of the peak of a cap."""
BUN = (20, 12)
"""Columns and rows of the bun."""
HEAD, BUST, COLLAR_RING, SHELL, SHEET, KNOT = range(6)
"""Materials of faces."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Figure:
    """A head model with the fixed topology of everything a person may wear."""

    head: Head
    """of `prepare_head`"""
    faces: Array
    """(f, 3) of all parts; the head's first, without the cap of the neck"""
    material: Array
    """(f,) HEAD ... KNOT"""
    face_label: Array
    """(f,) label that the head's part decides, else 0"""
    face_light: Array
    """(f,) share of the light that reaches the part"""
    rest: Array
    """(v, 3) mean positions of the head's vertices, with the cap"""
    rim: Array
    """(n, 3) mean rim of the neck, mm"""
    rim_ids: Array
    """(n,) vertices of the rim: the head's, or (a head without rim) the bust's own"""
    follow: Array
    """(v,) share of the bust's turn that the head's vertices take: 0 on the face, 1 at the rim"""
    lash: Array
    """(v,) darkness of the lash line"""


def grid_faces(columns: int, rows: int, closed: bool) -> Int[np.ndarray, "f 3"]:
    """Triangles of a grid of vertices, row by row; `closed` joins the last column to the first."""
    count = columns if closed else columns - 1
    i, j = np.meshgrid(np.arange(rows - 1), np.arange(count), indexing="ij")
    a, b = i * columns + j, i * columns + (j + 1) % columns
    c, d = a + columns, b + columns
    return np.stack([a, c, b, b, c, d], -1).reshape(-1, 3)


def _curtain_faces() -> np.ndarray:
    columns, rows = CURTAIN
    sides = grid_faces(2 * columns, rows, True)
    last = (rows - 1) * 2 * columns
    j = np.arange(columns - 1)
    a, b, c, d = j, j + 1, 2 * columns - 1 - j, 2 * columns - 2 - j
    bottom = np.stack([a, c, b, b, c, d], -1).reshape(-1, 3)
    return np.concatenate([sides, last + bottom])


def _follow(mean: np.ndarray, marks: np.ndarray) -> np.ndarray:
    chin = marks[8, 1]
    share = (chin - 3.0 - mean[:, 1]) / (87.0 + 0.4 * np.clip(mean[:, 2], -92.0, 58.0))
    share = np.clip(share, 0.0, 1.0)
    return share * share * (3 - 2 * share)


def _lash(mean: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """Darkness near the edges of the upper lids, on the mean head."""
    nearest = np.full(len(mean), np.inf)
    for lid in ((36, 37, 38, 39), (42, 43, 44, 45)):
        for a, b in zip(lid[:-1], lid[1:], strict=True):
            start, along = marks[a], marks[b] - marks[a]
            t = np.clip((mean - start) @ along / max(along @ along, 1e-9), 0, 1)
            nearest = np.minimum(nearest, np.linalg.norm(mean - start - t[:, None] * along, axis=1))
    return np.exp(-((nearest / 1.6) ** 2))


def prepare_figure(path: str | os.PathLike, modes: int | None = None) -> Figure:
    """Read a head model and lay out the mesh of a person.

    Args:
        path: .npz as for `prepare_head`.
        modes: identity modes to keep; None keeps all.

    Raises:
        InputError: no such model, or only some of the masks.
    """
    head = prepare_head(path, modes)
    model = head.model
    mean = np.asarray(model.mean)
    marks = np.asarray(model.landmark_points(mean))
    loop = np.asarray(head.loop)
    count = len(mean) + (1 if len(loop) else 0)
    rest = np.concatenate([mean, mean[loop].mean(0, keepdims=True)]) if len(loop) else mean
    if len(loop):
        rim, ids, own = mean[loop], loop, 0
    else:
        turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        rim = np.stack([52 * np.sin(turn), np.full(48, marks[8, 1]), 52 * np.cos(turn) - 8], 1)
        ids, own = count + np.arange(48), 48
    n = len(ids)
    rings = count + own + np.arange(RINGS * n).reshape(RINGS, n)
    ladder = np.concatenate([ids[None], rings])
    a, b = ladder[:-1], ladder[1:]
    a1, b1 = np.roll(a, -1, axis=1), np.roll(b, -1, axis=1)
    bust = np.stack([a1, a, b, a1, b, b1], -1).reshape(-1, 3)
    start = count + own + RINGS * n
    parts = [np.asarray(model.faces, np.int64), bust]
    materials = [np.full(len(parts[0]), HEAD), np.full(len(bust), BUST)]
    for kind, faces, vertices in (
        (COLLAR_RING, grid_faces(COLLAR[1], COLLAR[0] + 1, True), (COLLAR[0] + 1) * COLLAR[1]),
        (SHELL, _curtain_faces(), 2 * CURTAIN[0] * CURTAIN[1]),
        (SHEET, grid_faces(*FRONT, False), FRONT[0] * FRONT[1]),
        (KNOT, grid_faces(*BUN, True), BUN[0] * BUN[1]),
    ):
        parts.append(faces + start)
        materials.append(np.full(len(faces), kind))
        start += vertices
    faces, material = np.concatenate(parts), np.concatenate(materials)
    skin = len(parts[0])
    label, light = np.zeros(len(faces), np.int32), np.ones(len(faces), np.float32)
    label[:skin] = np.asarray(head.face_label)[:skin]
    light[:skin] = np.asarray(head.face_light)[:skin]

    def leaf(a, dtype=jnp.float32):
        return jnp.asarray(a, dtype)

    return Figure(
        head=head,
        faces=leaf(faces, jnp.int32),
        material=leaf(material, jnp.int32),
        face_label=leaf(label, jnp.int32),
        face_light=leaf(light),
        rest=leaf(rest),
        rim=leaf(rim),
        rim_ids=leaf(ids, jnp.int32),
        follow=leaf(_follow(rest, marks)),
        lash=leaf(_lash(rest, marks)),
    )


def turned(
    points: Float[np.ndarray, "n 3"],
    share: Float[np.ndarray, " n"],
    rotation: Float[np.ndarray, "3"],
    pivot: Float[np.ndarray, "3"],
) -> Float[np.ndarray, "n 3"]:
    """Points turned about a pivot by a share of a rotation vector (radians), each by its own."""
    angle = float(np.linalg.norm(rotation))
    if angle < 1e-9:
        return points.copy()
    axis = rotation / angle
    turn = (share * angle)[:, None]
    x = points - pivot
    along = (x @ axis)[:, None] * axis
    return pivot + along + np.cos(turn) * (x - along) + np.sin(turn) * np.cross(axis, x)
