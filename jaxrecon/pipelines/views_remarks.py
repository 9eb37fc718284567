"""What is allowed in a views folder, but unlikely to be meant: one sentence each."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from jaxrecon.pipelines.views import Views
from jaxrecon.pipelines.views_frusta import camera_centres, looked_at
from jaxrecon.pipelines.views_overlay import Reprojection

EYES = (36, 45)
"""Outer corners, the subject's right and left."""
USUAL_EYES_MM = (70.0, 110.0)
"""Between them, adults and head models."""
_SPANS_MM = (
    ((36, 45), 88.0), ((36, 39), 27.0), ((42, 45), 27.0), ((39, 42), 35.0),
    ((48, 54), 50.0), ((27, 33), 49.0), ((36, 54), 97.0), ((45, 48), 97.0),
)  # fmt: skip
"""Pairs of landmarks and how far apart they are, rounded means of ICT-FaceKit and MakeHuman heads;
the chin is not among them, since the jaw opens."""
_POSSIBLE_EYES_MM = (40.0, 200.0)
_CHIN, _NOSE_TOP, _NOSE_TIP, _FLAT = 8, 27, 30, (36, 45, 48, 54)
_INNER = np.arange(17, 68)
"""Without the jaw, which lies on the outline of the mask."""
_FEW_LANDMARKS = 20
_NEAR_DEGREES = 3.0
_UNITS = {"millimetres": 1.0, "centimetres": 10.0, "metres": 1000.0}


def remarks(views: Views, reprojection: Reprojection | None) -> list[str]:
    """What is unlikely to be meant, and the loader's warnings, one sentence each."""
    found = [*_intrinsics(views), *_landmarks(views), *_mask(views)]
    if views.cameras is not None:
        found += _reprojection(views, reprojection)
        found += _viewpoints(views, reprojection)
        found += _units(views, reprojection)
        found += _face(views, reprojection)
    if len(views.names) == 1:
        found.append("there is one view only: what it does not show comes from the prior alone.")
    return [*found, *views.warnings]


def missing(views: Views) -> list[str]:
    """What a fit will do without cameras, and what it cannot do without."""
    lines = []
    if views.cameras is None:
        what = "" if views.intrinsics is None else ", with the focal lengths of cameras.json"
        lines.append(
            "no camera poses: `jaxrecon fit --cameras estimate` finds them from landmarks and "
            f"masks{what}; `jaxrecon import-cameras` brings those of other programs"
        )
    if views.landmarks2d is None:
        lines.append("a fit needs landmarks.json: 68 points per view, in iBUG order")
    if views.mask is None:
        lines.append("a fit needs masks: NAME_mask.png (white = subject), or transparent pictures")
    elif views.has_mask is not None:
        without = [n for n, has in zip(views.names, views.has_mask, strict=True) if not has]
        lines.append(f"a fit needs masks of every view, and {', '.join(without)} have none")
    return lines


def eye_distance(reprojection: Reprojection | None) -> float | None:
    """Between the outer corners of the eyes, world units; None where too little is triangulated.

    The median over eight spans of the face, each enlarged to that between the eyes' corners, since
    one corner is often hidden.
    """
    if reprojection is None:
        return None
    a, b = (reprojection.points[:, [span[0][k] for span in _SPANS_MM]] for k in (0, 1))
    usual = np.array([millimetres for _, millimetres in _SPANS_MM])
    distances = np.linalg.norm(a - b, axis=-1) * (usual[0] / usual)
    known = distances[np.isfinite(distances)]
    return float(np.median(known)) if len(known) else None


def _name(views: Views, i: int) -> str:
    return f"view {views.indices[i]} ({views.names[i]})"


def _numbers(views: Views, chosen: Any) -> str:
    """`view 3`, or `views 0, 3`."""
    numbers = [str(views.indices[i]) for i in np.flatnonzero(chosen)]
    return ("view " if len(numbers) == 1 else "views ") + ", ".join(numbers)


# ---------------------------------------------------------------- one view


def _intrinsics(views: Views) -> list[str]:
    found = []
    for i, K in enumerate([] if views.intrinsics is None else views.intrinsics):
        height, width = views.sizes[i]
        cx, cy = K[0, 2], K[1, 2]
        if not (0 < cx < width and 0 < cy < height):
            found.append(
                f"{_name(views, i)}: the principal point ({cx:.0f}, {cy:.0f}) lies outside the "
                "image. Is K for this image size?"
            )
    return found


def _landmarks(views: Views) -> list[str]:
    if views.landmarks2d is None or views.landmark_weights is None:
        return []
    found = []
    counts = (views.landmark_weights > 0).sum(axis=-1)
    if (counts < _FEW_LANDMARKS).any():
        found.append(
            f"{_numbers(views, counts < _FEW_LANDMARKS)}: fewer than {_FEW_LANDMARKS} landmarks "
            "are seen; a camera is estimated well from more."
        )
    swapped = [
        _swapped(views.landmarks2d[i], views.landmark_weights[i]) for i in range(len(counts))
    ]
    if any(swapped):
        found.append(
            f"{_numbers(views, swapped)}: left and right landmarks are swapped. Landmark 36 is the "
            "outer corner of the subject's own right eye, which is on the left of a picture from "
            "the front."
        )
    return found


def _swapped(marks: np.ndarray, weights: np.ndarray) -> bool:
    """Whether a face that is seen from the front is mirrored: from the right eye to the left one
    and from the chin up turn clockwise in the picture (its y goes down) for no other reason."""
    if not (weights[[*EYES, _CHIN, _NOSE_TOP]] > 0).all():
        return False
    across, up = marks[EYES[1]] - marks[EYES[0]], marks[_NOSE_TOP] - marks[_CHIN]
    turn = across[0] * up[1] - across[1] * up[0]
    return bool(turn > 0.3 * np.linalg.norm(across) * np.linalg.norm(up))


def _mask(views: Views) -> list[str]:
    """Views whose mask leaves most of the face out."""
    if views.mask is None or views.landmarks2d is None or views.landmark_weights is None:
        return []
    found = []
    for i, (height, width) in enumerate(views.sizes):
        seen = _INNER[views.landmark_weights[i, _INNER] > 0]
        if not len(seen):
            continue
        columns, rows = np.floor(views.landmarks2d[i, seen]).astype(int).T
        inside = views.mask[i, rows.clip(0, height - 1), columns.clip(0, width - 1)] > 0
        if inside.mean() < 0.8:
            found.append(
                f"{_name(views, i)}: the mask holds {inside.mean():.0%} of the face's landmarks. "
                "Is white the subject? Are the landmarks in the order of the views?"
            )
    return found


def _reprojection(views: Views, reprojection: Reprojection | None) -> list[str]:
    """Views whose landmarks are not where the cameras put them."""
    if reprojection is None:
        return []
    known = np.isfinite(reprojection.errors).any(axis=-1)
    errors = np.zeros(len(views.names))
    errors[known] = np.nanmedian(reprojection.errors[known], axis=-1)
    off = errors > np.maximum(2.0, 0.01 * views.sizes[:, 1])
    if not off.any():
        return []
    pixels = ", ".join(f"{error:.1f}" for error in errors[off])
    return [
        f"{_numbers(views, off)}: landmarks are {pixels} pixels "
        "from where the cameras put them. Is R camera from world, with OpenCV axes? Is K for this "
        "image size? Are the landmarks in the order of the views?"
    ]


# ---------------------------------------------------------------- all views together


def _viewpoints(views: Views, reprojection: Reprojection | None) -> list[str]:
    """Cameras that look elsewhere, and cameras that see nearly the same."""
    assert views.cameras is not None
    target, eyes = looked_at(views, reprojection), camera_centres(views)
    found = []
    depth = np.einsum("vj,vj->v", np.asarray(views.cameras.R)[:, 2], target - eyes)
    if reprojection is not None and np.isfinite(reprojection.points).any() and (depth <= 0).any():
        found.append(
            f"{_numbers(views, depth <= 0)}: the camera looks away from the landmarks. Is R camera "
            "from world, with z forward?"
        )
    towards = (eyes - target) / np.maximum(np.linalg.norm(eyes - target, axis=-1), 1e-9)[:, None]
    near = [
        f"{views.indices[i]} and {views.indices[j]} ({angle:.1f})"
        for i, j in itertools.combinations(range(len(eyes)), 2)
        if (angle := _degrees(towards[i], towards[j])) < _NEAR_DEGREES
        and views.expression[i] == views.expression[j]
    ]
    if near:
        more = ", ..." if len(near) > 5 else ""
        found.append(
            f"the viewpoints of views {', '.join(near[:5])}{more} are less than {_NEAR_DEGREES:g} "
            "degrees apart: together they say little of depth."
        )
    return found


def _degrees(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b)))


def _units(views: Views, reprojection: Reprojection | None) -> list[str]:
    """A head of the wrong size."""
    distance, said = eye_distance(reprojection), _UNITS.get(views.units or "")
    if distance is None or said is None or _possible(distance * said):
        return []
    likely = [name for name, size in _UNITS.items() if _possible(distance * size)]
    guess = f"{likely[0]}?" if likely else "an arbitrary scale? Then say units: unknown."
    return [
        f"cameras.json says {views.units}, but the outer corners of the eyes are {distance:.3g} "
        f"apart (people: about {90 / said:g}): {guess}"
    ]


def _possible(millimetres: float) -> bool:
    return _POSSIBLE_EYES_MM[0] <= millimetres <= _POSSIBLE_EYES_MM[1]


def _face(views: Views, reprojection: Reprojection | None) -> list[str]:
    """A face that is hollow: its nose points away from the cameras that see it."""
    if reprojection is None:
        return []
    marks = reprojection.points
    nose = marks[:, _NOSE_TIP] - marks[:, _FLAT].mean(axis=1)
    towards = camera_centres(views) - marks[:, _NOSE_TIP]
    sides = np.einsum("vj,vj->v", nose, towards)
    known = np.isfinite(sides)
    if not known.any() or (sides[known] > 0).mean() >= 0.5:
        return []
    return [
        "the landmarks make a hollow face, its nose away from the cameras: the cameras are "
        "mirrored in depth. Was an axis negated, or R transposed?"
    ]
