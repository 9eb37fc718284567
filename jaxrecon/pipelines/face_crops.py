"""Aligned crops of faces, as Deep3DFaceRecon's network expects them.

Five landmarks are fitted to those of a mean face; the picture is scaled so that the face has its
usual size and cut around the image of the model's origin. Points are in pixels, x right, y down,
centres of pixels at integer + 0.5; the authors' own points are pixel indices with y up.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8

from jaxrecon.errors import InputError
from jaxrecon.geometry.scaled_orthography import scaled_orthography
from jaxrecon.images import MAX_PIXELS

STANDARD_POINTS = np.array(
    [
        [-0.31148657, 0.29036078, 0.13377953],
        [0.30979887, 0.28972036, 0.13179526],
        [0.00325350, -0.04617932, 0.55244243],
        [-0.25216928, -0.38133916, 0.22405732],
        [0.24846619, -0.38128236, 0.22235769],
    ]
)
"""Left eye, right eye (of the picture), nose, left and right corner of the mouth; y up, z to the
viewer, decimetres: what the authors take from their similarity_Lm3D_all.mat."""
FACE_SCALE = 102.0
"""Pixels for each unit of the standard points, in the crop."""


@dataclasses.dataclass(frozen=True)
class FaceCrop:
    """An aligned crop and how it came about."""

    image: np.ndarray
    """(size, size, 3) uint8 RGB; black beyond the picture"""
    landmarks: np.ndarray
    """(5, 2) in the crop's pixels, by the exact scale (`A_crop_image` has the rounded one)"""
    A_crop_image: np.ndarray
    """(2, 3) pixels of the picture to those of the crop, as it was cut"""
    scale: float
    """Pixels of the crop per pixel of the picture, before the rounding of sizes"""
    centre: np.ndarray
    """(2,) pixel of the picture where the model's origin is"""


def five_points(landmarks68: Float[np.ndarray, "68 2"]) -> Float[np.ndarray, "5 2"]:
    """Eyes (means of their corners), nose and corners of the mouth, of Multi-PIE's 68 landmarks."""
    p = landmarks68
    eyes = [0.5 * (p[36] + p[39]), 0.5 * (p[42] + p[45])]
    return np.stack([*eyes, p[30], p[48], p[54]])


def align_face(
    image: UInt8[np.ndarray, "h w 3"],
    landmarks: Float[np.ndarray, "n 2"],
    standard: Float[np.ndarray, "5 3"] = STANDARD_POINTS,
    size: int = 224,
) -> FaceCrop:
    """The crop of a picture around a face, by its five (or 68) landmarks.

    Args:
        image: RGB.
        landmarks: five as `five_points`, or all 68.
        standard: the five points of the mean face.
        size: pixels of the crop.

    Raises:
        InputError: landmarks that show no face, or one so small that the picture would have to
            grow beyond 64 million pixels.

    Source: Deep3DFaceRecon_pytorch, util/preprocess.py.
    """
    from PIL import Image

    height, width = image.shape[:2]
    points = five_points(landmarks) if len(landmarks) == 68 else landmarks
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise InputError(f"{len(landmarks)} landmarks", "five or 68 finite points")
    # The authors' frame: pixel (0, 0) is the centre of the lowest left one.
    index = points.astype(np.float64) - 0.5
    y_up = np.stack([index[:, 0], height - 1 - index[:, 1]], axis=1)
    units, t = scaled_orthography(y_up, np.asarray(standard, np.float64))
    scale = FACE_SCALE / units if units > 0 else np.inf
    w, h = scale * width, scale * height
    if not w * h <= MAX_PIXELS or min(w, h) < 1:
        raise InputError(
            f"five landmarks within {np.ptp(points, axis=0).max():.3g} pixels of a picture of "
            f"{width} x {height}",
            "eyes, nose and corners of the mouth of a face in the picture",
        )
    w, h = int(w), int(h)
    # Truncated, not floored, as the authors cut.
    left = int(w / 2 - size / 2 + (t[0] - width / 2) * scale)
    top = int(h / 2 - size / 2 + (height / 2 - t[1]) * scale)
    resized = Image.fromarray(image).resize((w, h), resample=Image.Resampling.BICUBIC)
    crop = np.asarray(resized.crop((left, top, left + size, top + size)))
    moved = (y_up - t + np.array([width, height]) / 2) * scale
    moved = moved - (np.array([w, h]) - size) / 2
    A = np.array([[w / width, 0.0, -left], [0.0, h / height, -top]])
    return FaceCrop(
        image=crop,
        landmarks=np.stack([moved[:, 0], size - 1 - moved[:, 1]], axis=1) + 0.5,
        A_crop_image=A,
        scale=float(scale),
        centre=np.array([t[0], height - 1 - t[1]]) + 0.5,
    )
