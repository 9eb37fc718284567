"""What cameras of other programs have in common: a lens, a pose, a name; checked, in our axes.

`colmap`, `transforms_json` and `idr_cameras` read the formats. Everything here and there is NumPy
in float64: x_camera = R x_world + t, OpenCV axes (x right, y down, z forward), pixel centres at
+0.5, world units as in the file.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxrecon.errors import InputError, excerpt

MAX_DISTORTION = 0.5
"""Pixels: where a lens moves no pixel by more, its distortion is left out."""
MAX_SIDE = 100_000
"""Pixels along a side of an image; more is taken for a broken file."""
_GRID = 33
"""Places along each side of an image at which a lens is measured."""
_UNDISTORT = (
    "undistort the photographs, and import the cameras of the new ones: `colmap image_undistorter "
    "--image_path IMAGES --input_path SPARSE --output_path OUT`, then OUT/sparse with OUT/images"
)


@dataclasses.dataclass(frozen=True)
class Lens:
    """What a file says of a lens; None where it is silent. Pixels of an image of `size`."""

    fx: float | None = None
    fy: float | None = None
    cx: float | None = None
    """Pixel centres at +0.5: the middle of the image is half its width."""
    cy: float | None = None
    skew: float = 0.0
    angle_x: float | None = None
    """Horizontal field of view, radians; used where fx and fy are not given."""
    size: tuple[int, int] | None = None
    """(width, height) of the image that the numbers are for."""
    distortion: tuple[float, ...] = (0.0,) * 6
    """k1, k2, k3, k4 (radial), p1, p2 (tangential), as OpenCV defines them."""


@dataclasses.dataclass(frozen=True)
class FileCamera:
    """One camera of a file, in the file's world."""

    name: str
    """Of its image: a path as the file has it, or a number alone."""
    lens: Lens
    R: Float[np.ndarray, "3 3"]
    """R_camera_world."""
    t: Float[np.ndarray, "3"]
    """t_camera_world, units of the file."""


def intrinsics(where: str, lens: Lens, width: int, height: int) -> Float[np.ndarray, "3 3"]:
    """K of a lens for an image of width x height pixels.

    An image that is a scaled copy of the lens's own (within a pixel of its aspect ratio) scales K.
    Unknown: fy = fx, principal point in the middle.

    Raises:
        InputError: another aspect ratio, or neither a focal length nor a field of view.
    """
    own_width, own_height = lens.size or (width, height)
    _check_aspect(where, (own_width, own_height), (width, height))
    fx, fy = lens.fx, lens.fy
    if fx is None and fy is None and lens.angle_x is not None:
        fx = own_width / (2.0 * np.tan(lens.angle_x / 2.0))
    fx, fy = (fy if fx is None else fx), (fx if fy is None else fy)
    if fx is None or fy is None or not (0 < fx < np.inf and 0 < fy < np.inf):
        raise InputError(
            f"{where}: focal length {fx} x {fy}", expected="a positive number of pixels"
        )
    cx = own_width / 2.0 if lens.cx is None else lens.cx
    cy = own_height / 2.0 if lens.cy is None else lens.cy
    K = np.array([[fx, lens.skew, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    # pixel coordinates begin at the image's corner, so that scaling the image scales them
    return np.diag([width / own_width, height / own_height, 1.0]) @ K


def _check_aspect(where: str, own: tuple[int, int], actual: tuple[int, int]) -> None:
    """Raise unless one size is a scaled copy of the other, up to rounding."""
    (w, h), (width, height) = own, actual
    slack = max(own + actual)  # sides that were rounded to whole pixels, on either side
    if abs(width * h - w * height) <= slack:
        return
    turned = abs(width * w - h * height) <= slack
    raise InputError(
        f"{where} is for an image of {w} x {h} pixels; the image has {width} x {height}",
        expected="the image that the camera was made for, or a scaled copy",
        remedy=(
            "the photograph has been turned: save it upright, without an EXIF rotation, and make "
            "the cameras again"
            if turned
            else "do not crop photographs between making the cameras and importing them"
        ),
    )


def distortion_shift(lens: Lens, K: Float[np.ndarray, "3 3"], width: int, height: int) -> float:
    """The longest way, in pixels, by which the lens moves a place in the image from where K alone
    would put it.

    OpenCV's model: with x, y the place at depth 1 and r² = x² + y²,
    x' = x (1 + k1 r² + k2 r⁴ + k3 r⁶ + k4 r⁸) + 2 p1 x y + p2 (r² + 2 x²), and y' likewise.
    """
    if not any(lens.distortion):
        return 0.0
    k1, k2, k3, k4, p1, p2 = lens.distortion
    u, v = np.meshgrid(np.linspace(0, width, _GRID), np.linspace(0, height, _GRID))
    y = (v - K[1, 2]) / K[1, 1]
    x = (u - K[0, 2] - K[0, 1] * y) / K[0, 0]
    r = x * x + y * y
    radial = r * (k1 + r * (k2 + r * (k3 + r * k4)))
    dx = x * radial + 2 * p1 * x * y + p2 * (r + 2 * x * x)
    dy = y * radial + 2 * p2 * x * y + p1 * (r + 2 * y * y)
    return float(np.hypot(K[0, 0] * dx + K[0, 1] * dy, K[1, 1] * dy).max())


def check_distortion(where: str, shift: float) -> None:
    """Raise `InputError` with the remedy where a lens moves pixels by more than `MAX_DISTORTION`
    (or by no finite amount)."""
    if not shift <= MAX_DISTORTION:
        raise InputError(
            f"{where}: lens distortion moves pixels by up to {shift:.3g}",
            expected=f"photographs without distortion (at most {MAX_DISTORTION} pixels)",
            remedy=_UNDISTORT,
        )


# ---------------------------------------------------------------- numbers of untrusted files


def finite(where: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A finite float64 array of one shape from nested lists, strings or an array."""
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.empty(0)
    return check_finite(where, value, array, shape)


def check_finite(where: str, value: Any, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The array that was made of a value, if it is finite and of that shape.

    Raises:
        InputError: it is not.
    """
    if array.shape != shape or not np.isfinite(array).all():
        words = f"{' x '.join(map(str, shape))} finite numbers" if shape else "a finite number"
        raise InputError(f"{where} is {excerpt(value)}", expected=words)
    return array


def image_size(where: str, width: Any, height: Any) -> tuple[int, int]:
    """(width, height) in pixels, whole numbers from 1 to `MAX_SIDE`."""
    sides = finite(f"{where}: width and height", [width, height], (2,))
    if (sides != np.round(sides)).any() or sides.min() < 1 or sides.max() > MAX_SIDE:
        raise InputError(
            f"{where}: an image of {width} x {height} pixels",
            expected=f"whole numbers from 1 to {MAX_SIDE}",
        )
    return int(sides[0]), int(sides[1])


def nearest_rotation(where: str, R: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """The rotation nearest to a matrix that is one up to rounding (1e-3).

    Raises:
        InputError: it is a reflection, or scaled, or sheared.
    """
    u, _, vt = np.linalg.svd(R)
    nearest = u @ vt
    check_rotation(
        where, nearest, np.abs(nearest - R).max(),
        expected="an orthogonal 3 x 3 part with determinant +1",
        remedy="export the cameras without scale or mirroring",
    )  # fmt: skip
    return nearest


def check_rotation(
    where: str, R: Float[np.ndarray, "3 3"], error: float, expected: str, remedy: str
) -> None:
    """Raise `InputError` where `error`, how far a matrix is from an orthogonal one, is over 1e-3 or
    NaN, or the matrix mirrors.
    """
    if error <= 1e-3 and np.linalg.det(R) > 0:
        return
    what = "a reflection (determinant -1)" if error <= 1e-3 else f"off by {error:.2g}"
    raise InputError(f"{where} is not a rotation: {what}", expected, remedy)


def rotation_from_quaternion(where: str, q: Float[np.ndarray, "4"]) -> Float[np.ndarray, "3 3"]:
    """The rotation of (w, x, y, z), of any length but 0, Hamilton's convention; q and -q agree."""
    length = np.linalg.norm(q)
    if not length > 1e-6:
        raise InputError(f"{where}: quaternion {q.tolist()}", expected="one of length 1")
    w, v = q[0] / length, q[1:] / length
    cross = np.array([[0.0, -v[2], v[1]], [v[2], 0.0, -v[0]], [-v[1], v[0], 0.0]])
    return (w * w - v @ v) * np.eye(3) + 2.0 * np.outer(v, v) + 2.0 * w * cross
