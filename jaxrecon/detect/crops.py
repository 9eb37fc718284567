"""Square crops of photographs by similarities, and their answers back in the photograph.

Pixel centres are at + 0.5 in both; what lies beyond the photograph is grey.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

GREY = 128
"""Of pixels beyond the photograph, in uint8."""


@dataclasses.dataclass(frozen=True)
class Crop:
    """A square of a photograph: its middle, its side, and how it is turned."""

    centre: Float[np.ndarray, "2"]
    """float64 pixels of the photograph"""
    side: float
    """pixels of the photograph"""
    angle: float
    """radians by which the crop's x axis is turned towards the photograph's y axis"""
    size: int
    """pixels of the crop"""

    def matrix(self) -> Float[np.ndarray, "2 3"]:
        """A_photo_crop: pixels of the crop to pixels of the photograph."""
        scale = self.side / self.size
        c, s = scale * math.cos(self.angle), scale * math.sin(self.angle)
        linear = np.array([[c, -s], [s, c]])
        shift = self.centre - linear @ np.full(2, self.size / 2)
        return np.concatenate([linear, shift[:, None]], axis=1)

    def to_photo(self, points: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
        """Pixels of the crop as pixels of the photograph."""
        A = self.matrix()
        return points @ A[:, :2].T + A[:, 2]


def _inverse(A: np.ndarray) -> np.ndarray:
    linear = np.linalg.inv(A[:, :2])
    return np.concatenate([linear, -(linear @ A[:, 2])[:, None]], axis=1)


def _transform(image: Any, A: np.ndarray, size: tuple[int, int], fill: Any) -> Any:
    """PIL image whose pixel p shows `image` at A p, bilinear."""
    from PIL import Image

    data = tuple(float(x) for x in A.ravel())
    return image.transform(
        size,
        Image.Transform.AFFINE,
        data,
        resample=Image.Resampling.BILINEAR,
        fillcolor=fill,
    )


def cut(photo: UInt8[np.ndarray, "h w 3"], crop: Crop) -> Float[np.ndarray, "s s 3"]:
    """The crop, float32 RGB in [0, 1]; large photographs are first reduced by whole factors."""
    from PIL import Image

    A = crop.matrix()
    low, high = _reach(crop, photo.shape[:2])
    if (high <= low).any():
        return np.full((crop.size, crop.size, 3), GREY / 255, np.float32)
    part = Image.fromarray(np.ascontiguousarray(photo[low[1] : high[1], low[0] : high[0]]))
    A = np.concatenate([A[:, :2], (A[:, 2] - low)[:, None]], axis=1)
    factor = max(1, round(crop.side / crop.size / 1.15))
    if factor > 1:
        part = part.reduce(factor)
        A = A / factor
    out = _transform(part, A, (crop.size, crop.size), (GREY,) * 3)
    return np.asarray(out, np.float32) / 255


def _reach(crop: Crop, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) whole pixels (x, y) of the photograph that the crop shows."""
    corners = crop.to_photo(np.array([[0, 0], [1, 0], [0, 1], [1, 1]], float) * crop.size)
    extent = np.array([shape[1], shape[0]])
    low = np.clip(np.floor(corners.min(0)) - 2, 0, extent).astype(int)
    high = np.clip(np.ceil(corners.max(0)) + 2, 0, extent).astype(int)
    return low, high


def paste(
    values: Float[np.ndarray, "s s c"], crop: Crop, shape: tuple[int, int]
) -> tuple[Float[np.ndarray, "h w c"], tuple[slice, slice]]:
    """Values of a crop on the pixels of the photograph: (the part that the crop reaches, where it
    is, as (rows, columns)); 0 where the crop does not reach.

    Args:
        values: at the crop's pixels.
        crop: where they are.
        shape: (height, width) of the photograph.
    """
    from PIL import Image

    low, high = _reach(crop, shape)
    where = (slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0])))
    width, height = (int(x) for x in np.maximum(high - low, 0))
    if width == 0 or height == 0:
        return np.zeros((height, width, values.shape[-1]), np.float32), where
    A = _inverse(crop.matrix())
    A = np.concatenate([A[:, :2], (A[:, :2] @ low + A[:, 2])[:, None]], axis=1)
    planes = [
        np.asarray(
            _transform(Image.fromarray(np.ascontiguousarray(v, np.float32)), A, (width, height), 0)
        )
        for v in np.moveaxis(values, -1, 0)
    ]
    return np.stack(planes, axis=-1), where


def feather(size: int, margin: float = 0.12) -> Float[np.ndarray, "s s"]:
    """Weights of a crop's pixels: 1 inside, falling to 0 over `margin` of its side at the rim."""
    ij = (np.arange(size) + 0.5) / size
    ramp = np.clip(np.minimum(ij, 1 - ij) / margin, 0.0, 1.0)
    return (ramp[:, None] * ramp[None]).astype(np.float32)
