"""68 landmarks by dlib and a shape predictor that the user brings.

Follows dlib 19.22 to 20.0: `get_frontal_face_detector().run(image, upsampling, threshold)` gives
rectangles, scores and kinds; `shape_predictor(path)(image, rectangle)` gives `num_parts` points.
The detector is in the package, the predictor is not; the common one, of 68 points, was trained on
pictures (300-W) that exclude commercial use. dlib counts from the centre of the first pixel, and
its rectangles include their last pixel.
"""

from __future__ import annotations

import math
import pathlib

import numpy as np
from jaxtyping import UInt8

from jaxrecon.detect.detections import Detections, Detector, Face
from jaxrecon.detect.tools import model_file, require
from jaxrecon.errors import FAULTS, InputError


def dlib_detector(model: str | pathlib.Path, upsampling: int = 1) -> Detector:
    """A detector of landmarks by dlib; the surest face first.

    The score is the logistic function of dlib's margin: 0.5 at its threshold. Points have no
    confidence of their own.

    Args:
        model: a shape predictor of 68 points (.dat).
        upsampling: how often the picture is doubled first; 1 finds faces from 40 pixels.

    Raises:
        InputError: the package or the file is absent, or dlib does not take the file; when called,
            a predictor of another number of points.
    """
    dlib = require("dlib", "dlib", "the shape predictor")
    path = model_file(model, "a shape predictor of 68 points (.dat)")
    find = dlib.get_frontal_face_detector()
    try:
        predict = dlib.shape_predictor(str(path))
    except FAULTS:
        raise
    except Exception as error:  # RuntimeError of its deserialisation
        raise InputError(
            f"{path}: dlib does not take it ({str(error)[:120]})",
            "a shape predictor of 68 points (.dat), unpacked",
        ) from error

    def detect(image: UInt8[np.ndarray, "h w 3"]) -> Detections:
        image = np.ascontiguousarray(image)
        rectangles, scores, _ = find.run(image, upsampling, 0.0)
        pairs = sorted(zip(scores, rectangles, strict=True), key=lambda pair: -pair[0])
        faces = tuple(_face(path, predict(image, r), r, score) for score, r in pairs)
        sources = {"landmarks": f"dlib ({path.name})"} if faces else {}
        return Detections(image.shape[:2], faces, sources=sources)

    return detect


def _face(path: pathlib.Path, shape, rectangle, score: float) -> Face:
    if shape.num_parts != 68:
        raise InputError(
            f"{path} places {shape.num_parts} points",
            "a shape predictor of 68 points",
            "use shape_predictor_68_face_landmarks.dat",
        )
    parts = [shape.part(i) for i in range(68)]
    landmarks = np.array([(p.x, p.y) for p in parts], np.float32) + np.float32(0.5)
    left, top = rectangle.left(), rectangle.top()
    box = np.array([left, top, rectangle.right() + 1, rectangle.bottom() + 1], np.float64)
    return Face(box, 1 / (1 + math.exp(-score)), landmarks)
