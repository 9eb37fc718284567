"""The face protocol: ground-truth face surface -> predicted surface, in millimetres.

8,000 area-uniform points of the ground-truth surface (seed 0) that lie within 95 mm of the nose
tip (landmark 30, from 0; else the point nearest the first camera) and that at least one view of
that expression sees; a rigid ICP without scale moves the prediction from the given frame;
point-to-triangle distances over all the points, before and after it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib

import numpy as np
from jaxtyping import Float

from jaxrecon.errors import InputError
from jaxrecon.geometry.distances import SurfaceTree
from jaxrecon.geometry.mesh import triangle_areas, triangle_normals
from jaxrecon.geometry.mesh_io import load_mesh
from jaxrecon.geometry.registration import icp, procrustes_host
from jaxrecon.types import Mesh, Similarity

N_POINTS = 8000
RADIUS = 95.0  # mm around the nose tip
_CANDIDATE_RADIUS = 100.0  # mm: faces with their centre inside are sampled
_OFFSET = 0.5  # mm along the normal: a ray must not meet the face it starts from
_FACING = 0.1  # least cosine of normal and view direction (84 degrees)
NOSE_TIP = 30
ALIGNMENTS = ("none", "icp", "similarity", "landmarks")


@dataclasses.dataclass(frozen=True)
class FaceScore:
    """Distances from ground truth to prediction, millimetres."""

    raw_mean: float
    """Mean in the given frame (for `landmarks`: after their alignment), before ICP."""
    mean: float
    """Mean after ICP (equal to raw_mean without ICP); the next four too are after ICP."""
    std: float
    median: float
    p90: float
    """90th percentile."""
    n_points: int
    align: str
    points: np.ndarray
    """(n, 3) ground-truth points, for error maps"""
    distances: np.ndarray
    """(n,) their distances after alignment"""
    raw_distances: np.ndarray
    """(n,) their distances before ICP"""
    similarity: Similarity
    """S_world_prediction that was applied, `scale` of the call included"""

    def summary(self) -> dict:
        """The numbers without the arrays, for JSON."""
        names = ("raw_mean", "mean", "std", "median", "p90", "n_points", "align")
        return {name: getattr(self, name) for name in names} | {"unit": "mm"}


def score_face(
    prediction: Mesh,
    subject_folder: str | os.PathLike,
    *,
    expression: int = 0,
    scale: float = 1.0,
    align: str = "icp",
    landmarks: Float[np.ndarray, "68 3"] | None = None,
) -> FaceScore:
    """Scores a predicted face against a views folder that has ground truth.

    Args:
        prediction: in the frame of the folder's cameras, in millimetres after multiplication by
            `scale`.
        subject_folder: has `cameras.json` whose views name a `gt` mesh, and maybe `landmarks.json`.
        expression: which of the folder's expressions.
        scale: factor of the prediction's vertices (and landmarks).
        align: `icp` (the protocol), `none`, `similarity` (ICP with scale), or `landmarks` (the 68
            landmarks by Procrustes with scale, then rigid ICP).
        landmarks: the prediction's 68 points, needed by `landmarks` only.

    Raises:
        InputError: unknown alignment, or the folder has no ground truth, expression or landmarks
            as needed.
    """
    gt, centres, true_landmarks = load_ground_truth(subject_folder, expression)
    nose = None if true_landmarks is None else true_landmarks[NOSE_TIP]
    if nose is None or not np.isfinite(nose).all():
        nose = gt.vertices[np.argmin(np.linalg.norm(gt.vertices - centres[0], axis=1))]
    initial = Similarity(np.float64(scale), np.eye(3), np.zeros(3))
    if align == "landmarks":
        initial = _landmark_alignment(landmarks, true_landmarks, subject_folder)
    points = visible_points(gt, centres, nose)
    return score_points(prediction, points, align=align, initial=initial)


def score_points(
    prediction: Mesh,
    points: Float[np.ndarray, "n 3"],
    *,
    align: str = "icp",
    initial: Similarity | None = None,
) -> FaceScore:
    """The protocol's second half: aligns a prediction with ground-truth points and measures.

    Args:
        prediction: any frame; `initial` (S_world_prediction, identity when None) brings it near.
        points: ground-truth points in millimetres.
        align: as in `score_face`; `landmarks` means that `initial` came from them: rigid ICP
            follows.
    """
    if align not in ALIGNMENTS:
        raise InputError(
            f"align {align!r}", "one of " + ", ".join(ALIGNMENTS), "choose one of these"
        )
    identity = Similarity(np.float64(1), np.eye(3), np.zeros(3))
    initial = identity if initial is None else initial
    tree = SurfaceTree(_moved(prediction.vertices, initial), prediction.faces)
    raw = tree.closest(points)[0]
    final, distances = initial, raw
    if align != "none":
        # The protocol's ICP is rigid in the world frame, so the initial scale is fixed by moving
        # first.
        placed = _moved(prediction.vertices, initial)
        step = icp(points, placed, prediction.faces, scale=align == "similarity").similarity
        distances = SurfaceTree(_moved(placed, step), prediction.faces).closest(points)[0]
        final = _compose(step, initial)
    return FaceScore(
        raw_mean=float(raw.mean()),
        mean=float(distances.mean()),
        std=float(distances.std()),
        median=float(np.median(distances)),
        p90=float(np.quantile(distances, 0.9)),
        n_points=len(points),
        align=align,
        points=points,
        distances=distances,
        raw_distances=raw,
        similarity=final,
    )


def visible_points(
    gt: Mesh,
    centres: Float[np.ndarray, "views 3"],
    nose: Float[np.ndarray, "3"],
    *,
    n: int = N_POINTS,
    seed: int = 0,
) -> Float[np.ndarray, "n 3"]:
    """The protocol's first half: `n` area-uniform points near the nose that some camera sees.

    Args:
        gt: ground truth, millimetres, normals outward.
        centres: camera centres in its frame.
        nose: centre of the ball of 95 mm.

    Raises:
        InputError: no camera sees any of the surface there.
    """
    import trimesh

    vertices = np.asarray(gt.vertices, np.float64)
    rays = trimesh.Trimesh(vertices, gt.faces, process=False).ray
    triangles = vertices[gt.faces]
    near = np.where(np.linalg.norm(triangles.mean(1) - nose[None], axis=1) < _CANDIDATE_RADIUS)[0]
    areas, normals = triangle_areas(vertices, gt.faces), triangle_normals(vertices, gt.faces)
    rng, kept, count = np.random.default_rng(seed), [], 0
    for _ in range(100):
        if count >= n or not areas[near].sum() > 0:
            break
        face = rng.choice(near, n, p=areas[near] / areas[near].sum())
        u = rng.random((n, 2))
        u = np.where(u.sum(1, keepdims=True) > 1, 1 - u, u)
        a, b, c = (triangles[face, i] for i in range(3))
        x = a + u[:, :1] * (b - a) + u[:, 1:] * (c - a)
        x = x[
            _seen(rays, x, normals[face], centres)
            & (np.linalg.norm(x - nose[None], axis=1) < RADIUS)
        ]
        kept.append(x)
        count += len(x)
    if count < n:
        raise InputError(
            f"a camera sees only {count} points near the nose ({np.round(nose, 1).tolist()})",
            f"{n} ground-truth points within {RADIUS:.0f} mm of it that face a camera",
            "check that ground truth, landmarks and cameras share one frame in millimetres",
        )
    return np.concatenate(kept)[:n]


def _seen(rays, x, normals, centres):
    seen = np.zeros(len(x), bool)
    for centre in centres:
        direction = centre[None] - x
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        free = ~rays.intersects_any(x + _OFFSET * normals, direction)
        seen |= ((normals * direction).sum(1) > _FACING) & free
    return seen


def load_ground_truth(
    folder: str | os.PathLike, expression: int = 0
) -> tuple[Mesh, np.ndarray, np.ndarray | None]:
    """(mesh, camera centres (views, 3), landmarks (68, 3) with NaN where invalid, or None), mm.

    Raises:
        InputError: the folder lacks cameras, ground truth or this expression.
    """
    folder = pathlib.Path(folder)
    views = _read_json(folder / "cameras.json")
    if views is None:
        raise InputError(
            f"{folder}: no cameras.json", "a views folder with ground truth", "check the path"
        )
    if views.get("units") != "millimetres":
        raise InputError(
            f"{folder}: units {views.get('units')!r}", "millimetres", "score faces only"
        )
    chosen = [v for v in views["views"] if v.get("expression", 0) == expression and v.get("gt")]
    if not chosen:
        raise InputError(
            f"{folder}: no view of expression {expression} names a ground-truth mesh",
            "cameras.json whose views have `gt` and `expression`",
            "choose another expression or folder",
        )
    centres = np.array([-np.array(v["R"], float).T @ np.array(v["t"], float) for v in chosen])
    path = (folder / chosen[0]["gt"]).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InputError(
            f"{folder}: gt {chosen[0]['gt']!r} is outside the folder",
            "a file in it",
            "mend cameras.json",
        )
    landmarks = None
    stored = _read_json(folder / "landmarks.json")
    if stored is not None and "landmarks3d" in stored:
        # As everywhere: all landmarks are valid where the file does not say.
        valid = np.array(stored.get("valid", [True] * 68), bool)
        if valid.any():
            landmarks = np.array(stored["landmarks3d"][expression], float)
            landmarks[~valid] = np.nan
    return load_mesh(path), centres, landmarks


def _read_json(path):
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise InputError(
            f"{path}: not JSON ({error})", "the file as it was written", "restore it"
        ) from error


def _landmark_alignment(landmarks, true, folder):
    if landmarks is None or true is None:
        missing = (
            "the prediction's 68 landmarks" if landmarks is None else f"{folder}/landmarks.json"
        )
        raise InputError(
            f"align 'landmarks' without {missing}", "both sets of landmarks", "use align='icp'"
        )
    both = np.isfinite(true).all(1) & np.isfinite(landmarks).all(1)
    if both.sum() < 4:
        raise InputError(
            f"{both.sum()} landmarks are valid in both sets", "4 or more", "use align='icp'"
        )
    s, R, t = procrustes_host(np.asarray(landmarks, np.float64)[both], true[both], scale=True)
    return Similarity(np.float64(s), R, t)


def _moved(vertices, similarity):
    s, R, t = (np.asarray(x, np.float64) for x in (similarity.scale, similarity.R, similarity.t))
    return s * np.asarray(vertices, np.float64) @ R.T + t[None]


def _compose(outer, inner):
    return Similarity(
        outer.scale * inner.scale, outer.R @ inner.R, outer.scale * outer.R @ inner.t + outer.t
    )
