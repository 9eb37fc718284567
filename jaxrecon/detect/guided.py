"""Guided filter: labels that follow the edges of the picture.

He, Sun, Tang, "Guided Image Filtering", IEEE TPAMI 2013. Around every pixel each label is explained
as an affine function of the colours (least squares in a square window); the explanations of all
windows that hold the pixel are averaged and read off its own colour. What a network says coarsely
snaps to the edges of the picture. As in He, Sun, "Fast Guided Filter" (arXiv 1505.00996), the
explanations are fitted at half the resolution. Our own choice: what the colours do not explain
stays as it was (`guided_filter`), so that noise, blur and thin things do not wash labels out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
"""Entries of a symmetric 3x3 matrix."""
_NONE = 1e-3
"""Values below count as 0: where a label is nowhere near, nothing is computed."""
_STEADY = 1e-4
"""Variance of values in a window that asks for no explanation."""

_Area = tuple[slice, slice]


def guided_filter(
    guide: Float[np.ndarray, "h w 3"],
    values: Float[np.ndarray, "h w c"],
    radius: int,
    epsilon: float = 1e-5,
    weight: Float[np.ndarray, "h w"] | None = None,
) -> Float[np.ndarray, "h w c"]:
    """Values p as locally affine functions q of the colours of a guide (He et al. 2013, equation
    19, and the average over windows that follows it): p + sqrt(R) (q - p), where R is the share of
    the variance of p that the windows around a pixel explain.

    Args:
        guide: colours in [0, 1].
        values: probabilities of any channels; those below 0.001 count as 0.
        radius: windows have 2 radius + 1 pixels along each side; in effect an even number is
            taken, and 2 at least.
        epsilon: variance of colours that does not count as an edge; positive.
        weight: of the pixels in the fits, not negative; None: all alike. Where no window has any
            the values stay.

    Returns:
        float32 values in [0, 1].

    Raises:
        ValueError: a radius below 1, or an epsilon that is not positive.
    """
    if radius < 1 or not epsilon > 0:
        raise ValueError(f"radius {radius} and epsilon {epsilon}; expected >= 1 and > 0")
    height, width = guide.shape[:2]
    grown = ((0, height % 2), (0, width % 2))
    weight = np.ones((height, width)) if weight is None else weight
    # Float64: variances are differences of nearly equal numbers.
    weight = np.pad(np.asarray(weight, np.float64), grown)
    colours = [np.pad(np.asarray(guide[..., k], np.float64), grown, "edge") for k in range(3)]
    half = max(1, round(radius / 2))
    windows = _windows([_halve(c) for c in colours], _halve(weight), half, epsilon)
    out = np.pad(np.asarray(values, np.float32), (*grown, (0, 0)), "edge")
    for c in range(out.shape[-1]):
        # Values change as far away as two windows reach, and a cell for the doubling.
        area = _reach(out[..., c] > _NONE, 4 * half + 4)
        if area is not None:
            p = out[..., c][area].astype(np.float64)
            own = [plane[area] for plane in colours]
            out[..., c][area] = np.clip(_explain(p, own, _part(windows, area)), 0.0, 1.0)
    return out[:height, :width]


class _Windows(NamedTuple):
    """Windows around the pixels of a picture of half the resolution."""

    radius: int
    colours: list[np.ndarray]
    """three planes"""
    weight: np.ndarray
    """of the pixels"""
    scale: np.ndarray
    """1 over the mean weight in the window; 0 where it has none"""
    share: np.ndarray
    """of the windows that hold a pixel that have any weight"""
    middle: list[np.ndarray]
    """mean colour in the window, three planes"""
    inverse: dict[tuple[int, int], np.ndarray]
    """of the covariance of its colours, plus epsilon along the diagonal"""

    def mean(self, plane: np.ndarray) -> np.ndarray:
        """Weighted mean in each window."""
        return _window_mean(plane * self.weight, self.radius) * self.scale

    def around(self, plane: np.ndarray) -> np.ndarray:
        """Mean over the windows with any weight that hold a pixel."""
        return _window_mean(plane, self.radius) / np.maximum(self.share, 1e-9)


def _windows(
    colours: list[np.ndarray], weight: np.ndarray, radius: int, epsilon: float
) -> _Windows:
    total = _window_mean(weight, radius)
    fitted = total > 1e-9
    scale = np.where(fitted, 1.0 / np.maximum(total, 1e-9), 0.0)
    share = _window_mean(fitted.astype(np.float64), radius)
    bare = _Windows(radius, colours, weight, scale, share, [], {})
    middle = [bare.mean(c) for c in colours]
    spread = {
        (i, j): bare.mean(colours[i] * colours[j]) - middle[i] * middle[j] + epsilon * (i == j)
        for i, j in _PAIRS
    }
    return bare._replace(middle=middle, inverse=_inverse(spread))


def _part(windows: _Windows, area: _Area) -> _Windows:
    """Those of an area of the whole picture, with even bounds."""
    rows, columns = (slice(s.start // 2, s.stop // 2) for s in area)
    return windows._replace(
        colours=[plane[rows, columns] for plane in windows.colours],
        weight=windows.weight[rows, columns],
        scale=windows.scale[rows, columns],
        share=windows.share[rows, columns],
        middle=[plane[rows, columns] for plane in windows.middle],
        inverse={pair: plane[rows, columns] for pair, plane in windows.inverse.items()},
    )


def _explain(values: np.ndarray, colours: list[np.ndarray], windows: _Windows) -> np.ndarray:
    """`guided_filter` of one channel in one area."""
    p = _halve(values)
    level = windows.mean(p)
    joint = [
        windows.mean(p * c) - level * middle
        for c, middle in zip(windows.colours, windows.middle, strict=True)
    ]
    offset, explained = level.copy(), np.zeros_like(level)
    out = np.zeros_like(values)
    for i in range(3):
        a, b, c = (windows.inverse[min(i, j), max(i, j)] for j in range(3))
        slope = a * joint[0] + b * joint[1] + c * joint[2]
        offset -= slope * windows.middle[i]
        explained += slope * joint[i]
        out += _double(windows.around(slope)) * colours[i]
    out += _double(windows.around(offset))
    variance = windows.around(windows.mean(p * p) - level * level)
    trust = (windows.around(explained) + _STEADY) / (np.maximum(variance, 0.0) + _STEADY)
    trust = np.where(windows.share > 1e-9, np.sqrt(np.clip(trust, 0.0, 1.0)), 0.0)
    return values + _double(trust) * (out - values)


def _reach(there: Bool[np.ndarray, "h w"], margin: int) -> _Area | None:
    """Even bounds of some pixels, grown by an even margin; None where there is none."""
    if not there.any():
        return None
    spans = []
    for axis, size in ((1, there.shape[0]), (0, there.shape[1])):
        index = np.nonzero(there.any(axis))[0]
        low, high = int(index[0]) // 2 * 2 - margin, int(index[-1]) // 2 * 2 + 2 + margin
        spans.append(slice(max(0, low), min(high, size)))
    return spans[0], spans[1]


def _window_mean(plane: np.ndarray, radius: int) -> np.ndarray:
    """Mean over square windows; beyond the rim the nearest pixel counts."""
    from scipy.ndimage import uniform_filter

    return uniform_filter(plane, 2 * radius + 1, mode="nearest")


def _halve(plane: np.ndarray) -> np.ndarray:
    """Means of squares of four pixels."""
    return (plane[::2, ::2] + plane[1::2, ::2] + plane[::2, 1::2] + plane[1::2, 1::2]) / 4


def _double(plane: np.ndarray) -> np.ndarray:
    """Twice as many pixels along each side, bilinear."""
    for _ in range(2):
        padded = np.pad(plane, ((1, 1), (0, 0)), "edge")
        taller = np.empty((2 * plane.shape[0], plane.shape[1]))
        taller[::2] = 0.75 * plane + 0.25 * padded[:-2]
        taller[1::2] = 0.75 * plane + 0.25 * padded[2:]
        plane = taller.T
    return plane


def _inverse(a: dict[tuple[int, int], np.ndarray]) -> dict[tuple[int, int], np.ndarray]:
    """Inverse of symmetric 3x3 matrices, entries as arrays."""
    cofactors = {
        (0, 0): a[1, 1] * a[2, 2] - a[1, 2] ** 2,
        (0, 1): a[0, 2] * a[1, 2] - a[0, 1] * a[2, 2],
        (0, 2): a[0, 1] * a[1, 2] - a[0, 2] * a[1, 1],
        (1, 1): a[0, 0] * a[2, 2] - a[0, 2] ** 2,
        (1, 2): a[0, 1] * a[0, 2] - a[0, 0] * a[1, 2],
        (2, 2): a[0, 0] * a[1, 1] - a[0, 1] ** 2,
    }
    determinant = a[0, 0] * cofactors[0, 0] + a[0, 1] * cofactors[0, 1] + a[0, 2] * cofactors[0, 2]
    return {entry: value / determinant for entry, value in cofactors.items()}
