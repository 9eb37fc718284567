"""68 landmarks by MediaPipe's FaceLandmarker and a model that the user brings.

Follows the Tasks interface of mediapipe 0.10.9 to 1.2 (`mediapipe.tasks.vision`); the legacy
`solutions` are not used. The wheel has no model: `face_landmarker.task` is Google's to give. It
sees 478 points, in shares of the picture's width and height from its corner (not from the centre of
the first pixel), of which 68, or means of two, stand for iBUG's.

Source of the table: github.com/PeizhiYan/Mediapipe_2_Dlib_Landmarks, made symmetric (jaw, brows and
nostrils: iBUG's are).
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from jaxrecon.detect.detections import Detections, Detector, Face, face_box
from jaxrecon.detect.tools import model_file, require
from jaxrecon.errors import FAULTS, InputError

MESH_POINTS = 468
"""Of the face; newer models add 10 of the irises, which we do not use."""
_ROWS: tuple[int | tuple[int, int], ...] = (
    *(127, 234, 93, (132, 58), (58, 172), 136, 150, 176, 152),  # jaw, from the right ear
    *(400, 379, 365, (288, 397), (361, 288), 323, 454, 356),
    *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),  # brows
    *((168, 6), (197, 195), 5, 4, 98, 97, 2, 326, 327),  # nose
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),  # eyes
    *(61, 39, 37, 0, 267, 269, 291, 321, 314, 17, 84, 91),  # lips, outside
    *(78, 82, 13, 312, 308, 317, 14, 87),  # lips, inside
)
MESH_TO_68 = np.array([row if isinstance(row, tuple) else (row, row) for row in _ROWS])
"""(68, 2) points of the mesh whose mean is each landmark."""


def landmarks_of_mesh(mesh: Float[np.ndarray, "m 2"]) -> Float[np.ndarray, "68 2"]:
    """iBUG's 68 landmarks of the points of MediaPipe's mesh, in the same unit.

    Raises:
        InputError: fewer points than the mesh has.
    """
    if len(mesh) < MESH_POINTS:
        raise InputError(f"a mesh of {len(mesh)} points", f"{MESH_POINTS} or {MESH_POINTS + 10}")
    return mesh[MESH_TO_68].mean(axis=1)


def mediapipe_detector(model: str | pathlib.Path, faces: int = 4) -> Detector:
    """A detector of landmarks by MediaPipe.

    Largest face first, since MediaPipe tells no score (0.5, its own threshold, stands for it).
    Confidence is the presence of a point, where the model tells one.

    Args:
        model: `face_landmarker.task`.
        faces: at most so many.

    Raises:
        InputError: the package or the file is absent, or MediaPipe does not take the file.
    """
    mediapipe = require("mediapipe", "mediapipe", "FaceLandmarker")
    path = model_file(model, "MediaPipe's face_landmarker.task")
    vision = mediapipe.tasks.vision
    try:
        landmarker = vision.FaceLandmarker.create_from_options(
            vision.FaceLandmarkerOptions(
                base_options=mediapipe.tasks.BaseOptions(model_asset_path=str(path)),
                num_faces=faces,
            )
        )
    except FAULTS:
        raise
    except Exception as error:  # ValueError, RuntimeError and more, by version
        raise InputError(
            f"{path}: MediaPipe does not take it ({str(error)[:120]})",
            "MediaPipe's face_landmarker.task, whole",
        ) from error

    def detect(image: UInt8[np.ndarray, "h w 3"]) -> Detections:
        picture = mediapipe.Image(
            image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(image)
        )
        size = image.shape[:2]
        found = [_face(points, size) for points in landmarker.detect(picture).face_landmarks]
        found.sort(key=lambda face: -float(face.box[2] - face.box[0]))
        sources = {"landmarks": f"MediaPipe ({path.name})"} if found else {}
        return Detections(size, tuple(found), sources=sources)

    return detect


def _face(points: Any, size: tuple[int, int]) -> Face:
    """One face of a result: a list of points with x, y and perhaps presence."""
    mesh = np.array([(p.x, p.y) for p in points], np.float64).reshape(-1, 2)
    places = landmarks_of_mesh(mesh * np.array(size[::-1], np.float64)[None]).astype(np.float32)
    told = [getattr(p, "presence", None) for p in points]
    presence = np.array([np.nan if p is None else p for p in told], np.float64)
    # Unset values are None or, in older versions, 0; some models give logits: neither tells.
    tells = ((presence >= 0) & (presence <= 1)).all() and presence.any()
    confidence = presence[MESH_TO_68].min(axis=1).astype(np.float32) if tells else None
    return Face(face_box(places), 0.5, places, confidence=confidence)
