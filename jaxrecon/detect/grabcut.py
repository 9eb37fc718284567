"""A subject's mask without any weights: GrabCut, from a box and what is known inside it.

Follows the interface of OpenCV's `grabCut` as in opencv-python-headless 4.10 to 5.0 (extra
`detect`): `grabCut(image, mask, None, (1, 65), (1, 65), iterations, GC_INIT_WITH_MASK)`, where the
values of a mask are 0 and 1, surely and 2 and 3, probably background and subject.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, UInt8

from jaxrecon.detect.detections import Detections, Face, Person
from jaxrecon.detect.tools import require
from jaxrecon.errors import InputError
from jaxrecon.types import BODY_25

SURE_BACKGROUND, SURE_SUBJECT, _, PROBABLE_SUBJECT = range(4)
_MAX_SIDE = 1024
"""Pixels of the larger side of the picture that is cut: time grows faster than its area."""
_LIMBS = (
    *(("neck", "mid_hip"), ("neck", "nose")),
    *((f"{s}_{a}", f"{s}_{b}") for s in ("right", "left") for a, b in (
        ("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"))),
)  # fmt: skip
_TORSO = ("right_shoulder", "left_shoulder", "right_hip", "left_hip")
_CHEEKS = tuple(
    np.array([*jaw, *brow, *eye, mouth])
    for jaw, brow, eye, mouth in (
        (range(8), range(17, 21), range(36, 42), 48),
        (range(9, 17), range(23, 27), range(42, 48), 54),
    )
)
"""Landmarks of the right and the left side of the face, without the middle: from the side there is
background between brow and nose, nose and chin."""
_SURE = 0.3
"""Confidence from which a keypoint counts."""
_SHRINK = 0.9
"""Of hulls about their middle: landmarks lie on the edge of what is surely the subject."""
_THICKNESS = 0.01
"""Radius of limbs over the larger side of the person's box: half a wrist."""


def grabcut_mask(
    image: UInt8[np.ndarray, "h w 3"],
    known: Detections | None = None,
    box: Float[np.ndarray, "4"] | None = None,
    iterations: int = 5,
) -> Detections:
    """The mask of the subject, float32 in [0, 1].

    Args:
        image: sRGB.
        known: its best face and person are surely the subject, and give the box.
        box: [left, top, right, bottom] in pixels; all of the subject lies in it. None: the box of
            the best person, grown by a tenth, else that of the best face, grown by half upwards, by
            three quarters sideways and down to the picture's edge.
        iterations: of the algorithm.

    Raises:
        InputError: opencv-python-headless is absent; there is no box; the box leaves no pixel for
            the background, or none for the subject; another size of picture.
    """
    from PIL import Image

    known = Detections(image.shape[:2]) if known is None else known
    if known.size != image.shape[:2]:
        raise InputError(
            f"detections of {known.size[1]} x {known.size[0]} pixels for a picture of "
            f"{image.shape[1]} x {image.shape[0]}",
            "detections of this picture",
        )
    cv2 = require("cv2", '"jaxrecon[detect]"', "GrabCut")
    scale = min(1.0, _MAX_SIDE / max(image.shape[:2]))
    height, width = (max(1, round(n * scale)) for n in image.shape[:2])
    zoom = np.array([width / image.shape[1], height / image.shape[0]])
    trimap = seeds((height, width), known, box, zoom)
    small = image
    if scale < 1:
        small = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))
    models = [np.zeros((1, 65), np.float64) for _ in range(2)]
    cut, *_ = cv2.grabCut(
        np.ascontiguousarray(small), trimap, None, *models, iterations, cv2.GC_INIT_WITH_MASK
    )
    mask = ((cut == SURE_SUBJECT) | (cut == PROBABLE_SUBJECT)).astype(np.float32)
    if scale < 1:
        size = (image.shape[1], image.shape[0])
        mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.BILINEAR))
    return Detections(known.size, mask=np.clip(mask, 0, 1), sources={"mask": "GrabCut (OpenCV)"})


def seeds(
    size: tuple[int, int],
    known: Detections,
    box: Float[np.ndarray, "4"] | None = None,
    zoom: Float[np.ndarray, "2"] | None = None,
) -> UInt8[np.ndarray, "h w"]:
    """What GrabCut starts from: surely background outside the box, probably the subject inside it,
    surely the subject on limbs and torso of the best person and on both sides of the best face,
    within its landmarks.

    Args:
        size: (height, width) of the picture that is cut.
        known: detections in pixels of the whole picture.
        box: as of `grabcut_mask`, in pixels of the whole picture.
        zoom: pixels of the cut picture for one of the whole one, in x and y; None: 1.

    Raises:
        InputError: as of `grabcut_mask`.
    """
    zoom = np.ones(2) if zoom is None else zoom
    box = subject_box(known, size[0] / zoom[1]) if box is None else box
    left, top, right, bottom = (np.asarray(box, np.float64).reshape(2, 2) * zoom[None]).ravel()
    y, x = (np.arange(n) + 0.5 for n in size)
    inside = ((y > top) & (y < bottom))[:, None] & ((x > left) & (x < right))[None, :]
    if inside.all() or not inside.any():
        raise InputError(
            f"a box of {[round(float(v), 1) for v in box]} pixels, which holds "
            f"{'every' if inside.all() else 'no'} pixel of the picture",
            "a box [left, top, right, bottom] around the subject, with background outside",
            "give a mask file instead, where the subject fills the picture",
        )
    sure = _face_seeds(size, known.face, zoom) | _person_seeds(size, known.person, zoom)
    trimap = np.where(inside, np.uint8(PROBABLE_SUBJECT), np.uint8(SURE_BACKGROUND))
    return np.where(sure & inside, np.uint8(SURE_SUBJECT), trimap)


def subject_box(known: Detections, height: float | int) -> Float[np.ndarray, "4"]:
    """The box that the best person or face implies, of a picture `height` pixels high.

    Raises:
        InputError: neither is known.
    """
    if known.person is not None:
        low, high = known.person.box[:2], known.person.box[2:]
        margin = 0.1 * (high - low)
        return np.concatenate([low - margin, high + margin])
    if known.face is None:
        raise InputError(
            "GrabCut knows of no face, no person and no box",
            "detections with a face or a person, or a box",
            "give a box [left, top, right, bottom] around the subject, in pixels",
        )
    left, top, right, bottom = known.face.box
    side = right - left
    return np.array([left - 0.75 * side, top - 0.5 * side, right + 0.75 * side, height])


def _face_seeds(size: tuple[int, int], face: Face | None, zoom: np.ndarray) -> np.ndarray:
    """Pixels within the seen landmarks of either side."""
    sure = np.zeros(size, np.bool_)
    if face is None or face.landmarks is None:
        return sure
    seen = np.ones(len(face.landmarks), np.bool_)
    for share in (face.confidence, face.visible):
        if share is not None:
            seen &= share > 0.5
    for cheek in _CHEEKS:
        sure |= within_hull(size, face.landmarks[cheek[seen[cheek]]] * zoom[None], _SHRINK)
    return sure


def _person_seeds(size: tuple[int, int], person: Person | None, zoom: np.ndarray) -> np.ndarray:
    """Pixels on the limbs and in the torso, as far as both their ends are known."""
    sure = np.zeros(size, np.bool_)
    if person is None or person.keypoints is None:
        return sure
    places = person.keypoints * zoom[None]
    confidence = np.ones(len(BODY_25)) if person.confidence is None else person.confidence
    points = {name: places[i] for i, name in enumerate(BODY_25) if confidence[i] > _SURE}
    radius = max(0.75, _THICKNESS * float(((person.box[2:] - person.box[:2]) * zoom).max()))
    for a, b in _LIMBS:
        if a in points and b in points:
            sure |= _near_segment(size, points[a], points[b], radius)
    torso = [points[name] for name in _TORSO if name in points]
    if len(torso) >= 3:
        sure |= within_hull(size, np.array(torso), _SHRINK)
    return sure


def within_hull(
    size: tuple[int, int], points: Float[np.ndarray, "n 2"], shrink: float = 1.0
) -> Bool[np.ndarray, "h w"]:
    """Pixels whose centres lie in the convex hull of points, shrunk about their mean; none where
    the points lie on a line."""
    if len(points) < 3 or np.linalg.matrix_rank(points - points.mean(0), tol=0.5) < 2:
        return np.zeros(size, np.bool_)
    from scipy.spatial import ConvexHull

    points = np.asarray(points, np.float64)
    middle = points.mean(axis=0)
    planes = ConvexHull(middle + shrink * (points - middle)).equations
    centres = _centres(size)
    inside = np.ones(size, np.bool_)
    for a, b, c in planes:
        inside &= a * centres[0] + b * centres[1] + c <= 0
    return inside


def _near_segment(size: tuple[int, int], a: np.ndarray, b: np.ndarray, radius: float) -> np.ndarray:
    """Pixels whose centres are within `radius` of the segment from a to b."""
    x, y = _centres(size)
    d = b - a
    along = ((x - a[0]) * d[0] + (y - a[1]) * d[1]) / max(float(d @ d), 1e-12)
    along = np.clip(along, 0, 1)
    return (x - a[0] - along * d[0]) ** 2 + (y - a[1] - along * d[1]) ** 2 <= radius**2


def _centres(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """x (1, w) and y (h, 1) of the centres of pixels."""
    return np.arange(size[1])[None] + 0.5, np.arange(size[0])[:, None] + 0.5
