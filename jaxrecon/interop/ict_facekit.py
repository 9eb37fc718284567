"""ICT-FaceKit (MIT, github.com/ICT-VGL/ICT-FaceKit, read at commit da5f95a) to our head layout.

The clone's folder FaceXModel holds one OBJ for the neutral head, 100 of identity modes (mode =
mesh - neutral, scaled by its standard deviation) and 57 of expressions (delta = mesh - neutral),
all with the same 26,719 vertices and 26,384 polygons, in centimetres, x to the subject's left, y
up, z out of the face.

We keep vertices 0 to 24,590 and polygons 0 to 24,691: face, head and neck, mouth socket, eye
sockets, gums and tongue, teeth, and the eyeballs. The rest (lacrimal fluid, eye blend and
occlusion meshes, eyelashes) covers the eyes in a renderer and is no surface of the head.

Landmark ids, part ranges and expression names are those that the repository publishes. The masks
of regions are drawn by us on the mean head (assets/head_models/README.md).
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np

import jaxrecon.assets
from jaxrecon.errors import InputError
from jaxrecon.interop.obj_files import parse_polygons, parse_vectors, read_lines
from jaxrecon.models.parametric.albedo_basis import MODES, albedo_arrays
from jaxrecon.models.parametric.model_arrays import REINSTALL, npz_arrays

MM = 10.0
"""Millimetres of the clone's unit."""
SMALLEST_MOVE_MM = 0.002
"""Vertices that an expression moves less along every axis are left out of it."""
REMEDY = (
    "give a whole clone: git clone https://github.com/ICT-VGL/ICT-FaceKit "
    "(MIT, about 223 MB in FaceXModel)"
)
_SIDED = (
    "PupilDilate browDown browInnerUp browOuterUp cheekPuff cheekRaiser cheekSquint eyeBlink "
    "eyeLookDown eyeLookIn eyeLookOut eyeLookUp eyeSquint eyeWide mouthDimple mouthFrown "
    "mouthLowerDown mouthPress mouthSmile mouthStretch mouthUpperUp noseSneer"
).split()
_WHOLE = (
    "jawForward jawLeft jawOpen jawRight mouthClose mouthFunnel mouthLeft mouthPucker mouthRight "
    "mouthRollLower mouthRollUpper mouthShrugLower mouthShrugUpper"
).split()
EXPRESSIONS = tuple(sorted([f"{n}_{s}" for n in _SIDED for s in "LR"] + _WHOLE))
"""The 57 expression shapes, sorted."""
LANDMARKS = np.array(
    """1225 1888 1052 367 1719 1722 2199 1447 966 3661 4390 3927 3924 2608 3272 4088 3443 268 493
    1914 2044 1401 3615 4240 4114 2734 2509 978 4527 4942 4857 1140 2075 1147 4269 3360 1507 1542
    1537 1528 1518 1511 3742 3751 3756 3721 3725 3732 5708 5695 2081 0 4275 6200 6213 6346 6461
    5518 5957 5841 5702 5711 5533 6216 6207 6470 5517 5966""".split(),
    np.int32,
)
"""(68,) vertex ids in Multi-PIE order."""
JAW_RIGHT = np.array([1278, 1272, 12, 1834, 243, 781, 2199, 1447])
"""Other vertices for landmarks 0 to 7."""
JAW_LEFT = np.array([3661, 4390, 3022, 2484, 4036, 2253, 3490, 3496])
"""Other vertices for landmarks 9 to 16."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which vertices and polygons a clone's meshes have, and which we keep."""

    vertices: int = 26_719
    polygons: int = 26_384
    kept_vertices: int = 24_591
    parts: tuple[tuple[str, int], ...] = (
        ("face", 9_230),
        ("head_neck", 11_144),
        ("mouth_socket", 13_226),
        ("eye_socket_left", 13_630),
        ("eye_socket_right", 14_034),
        ("gums_tongue", 17_006),
        ("teeth", 21_496),
        ("sclera_left", 22_296),
        ("iris_left", 23_094),
        ("sclera_right", 23_894),
        ("iris_right", 24_692),
    )
    """Parts in the order of the polygons: name, and the first polygon after it."""
    identities: int = 100
    expressions: tuple[str, ...] = EXPRESSIONS
    face_vertices: int = 9_409
    narrow_face_vertices: int = 6_706
    skin_vertices: int = 11_248


LAYOUT = Layout()


def convert_ict(
    clone: pathlib.Path,
    layout: Layout = LAYOUT,
    progress: Callable[[int, int], None] = lambda done, total: None,
    albedo_modes: int = MODES,
) -> dict[str, np.ndarray]:
    """The arrays of a head model in our layout (docs/how-to/models.md), from a clone.

    One mesh is in memory at a time, beside the result. ICT-FaceKit has no colours: the albedo is
    ours and synthetic (`albedo_basis`).

    Args:
        clone: the clone, or its folder FaceXModel.
        layout: what the meshes must hold.
        progress: called after each file with how many are done, and of how many.
        albedo_modes: modes of the albedo; 0 for a model without colours.

    Returns:
        v_mean (v, 3) float32 mm, id_basis (k, v, 3) float16 mm, sparse expressions float16 mm,
        faces, faces_uv, uv, face_part, part_names, landmarks68, masks, albedo_mean, albedo_basis,
        unit, source, licence.

    Raises:
        InputError: a file is missing, or is no mesh of the model.
    """
    clone = pathlib.Path(clone)
    folder = clone / "FaceXModel" if (clone / "FaceXModel").is_dir() else clone
    if not folder.is_dir():
        raise InputError(f"{clone}: no such folder", "a clone of ICT-FaceKit", REMEDY)
    neutral_path = folder / "generic_neutral_mesh.obj"
    identities = [folder / f"identity{i:03d}.obj" for i in range(layout.identities)]
    expressions = [folder / f"{name}.obj" for name in layout.expressions]
    everything = [neutral_path, *identities, *expressions]
    missing = [p.name for p in everything if not p.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(
            f"{folder}: no {missing[0]}{more}",
            f"{len(everything)} OBJ files: generic_neutral_mesh, identity000 to "
            f"identity{layout.identities - 1:03d}, {len(expressions)} expressions",
            REMEDY,
        )
    arrays, neutral = _neutral(neutral_path, layout)
    progress(1, len(everything))
    basis = np.empty((len(identities), layout.kept_vertices, 3), np.float16)
    for i, path in enumerate(identities):
        basis[i] = _offset(path, neutral, layout)
        progress(2 + i, len(everything))
    moved, deltas = [], []
    for e, path in enumerate(expressions):
        delta = _offset(path, neutral, layout)
        moved.append(np.flatnonzero(np.abs(delta).max(axis=1) >= SMALLEST_MOVE_MM))
        deltas.append(delta[moved[-1]].astype(np.float16))
        progress(2 + len(identities) + e, len(everything))
    small = np.uint16 if layout.kept_vertices <= 1 << 16 else np.uint32
    model = arrays | {
        "id_basis": basis,
        "expr_names": np.array(layout.expressions),
        "expr_ptr": np.cumsum([0, *(len(ids) for ids in moved)]),
        "expr_idx": np.concatenate(moved).astype(small),
        "expr_delta": np.concatenate(deltas),
    }
    return model | albedo_arrays(model, albedo_modes)


def _neutral(path: pathlib.Path, layout: Layout) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(what only the neutral mesh decides, its kept vertices in mm float64)."""
    lines = read_lines(path, REMEDY)
    vertices = _vertices(lines, path, layout)
    uv = parse_vectors(lines, b"vt", 2, str(path))
    mesh = parse_polygons(lines, str(path), len(vertices), len(uv))
    if len(mesh.groups) != layout.polygons:
        raise _another(path, f"{len(mesh.groups):,} polygons", f"{layout.polygons:,}")
    ends = [end for _, end in layout.parts]
    kept = mesh.polygon < ends[-1]
    faces, faces_uv = mesh.triangles[kept], mesh.triangles_uv[kept]
    if faces.max(initial=0) >= layout.kept_vertices or faces_uv.min(initial=0) < 0:
        raise _another(path, "another order of polygons, or none of uv", "that of the repository")
    neutral = MM * vertices[: layout.kept_vertices]
    small = np.uint16 if max(len(neutral), len(uv)) <= 1 << 16 else np.uint32
    return {
        "v_mean": neutral.astype(np.float32),
        "faces": faces.astype(small),
        "faces_uv": faces_uv.astype(small),
        "uv": uv.astype(np.float32),
        "face_part": np.searchsorted(ends, mesh.polygon[kept], side="right").astype(np.uint8),
        "part_names": np.array([name for name, _ in layout.parts]),
        "landmarks68": LANDMARKS,
        "jaw_right": JAW_RIGHT,
        "jaw_left": JAW_LEFT,
        "n_face_vertices": np.array(layout.face_vertices),
        "n_narrow_face_vertices": np.array(layout.narrow_face_vertices),
        "n_skin_vertices": np.array(layout.skin_vertices),
        "unit": np.array("millimetres"),
        "source": np.array("ICT-FaceKit, github.com/ICT-VGL/ICT-FaceKit; masks: jaxrecon"),
        "licence": np.array("MIT, (c) 2020 USC Institute for Creative Technologies"),
        **_masks(layout),
    }, neutral


def _masks(layout: Layout) -> dict[str, np.ndarray]:
    path = pathlib.Path(jaxrecon.assets.__file__).parent / "head_models" / "ict_masks.npz"
    masks = npz_arrays(path, list, "the masks that jaxrecon ships", REINSTALL)
    return {name: m for name, m in masks.items() if len(m) == layout.kept_vertices}


def _offset(path: pathlib.Path, neutral: np.ndarray, layout: Layout) -> np.ndarray:
    vertices = _vertices(read_lines(path, REMEDY), path, layout)
    return MM * vertices[: layout.kept_vertices] - neutral


def _vertices(lines: list[bytes], path: pathlib.Path, layout: Layout) -> np.ndarray:
    vertices = parse_vectors(lines, b"v", 3, str(path))
    if len(vertices) != layout.vertices:
        raise _another(path, f"{len(vertices):,} vertices", f"{layout.vertices:,}")
    return vertices


def _another(path: pathlib.Path, given: str, expected: str) -> InputError:
    return InputError(f"{path}: {given}", f"{expected} (ICT Face Model Light)", REMEDY)
