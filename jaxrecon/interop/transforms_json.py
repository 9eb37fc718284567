"""Cameras of NeRF programs: `transforms.json` of NeRF, Instant-NGP and nerfstudio.

`transform_matrix` maps camera to world, with OpenGL's camera axes (x right, y up, z backward);
pixel centres are at +0.5 (docs.nerf.studio/quickstart/data_conventions.html), as ours. Fields of a
frame go before those of the file. nerfstudio's `applied_transform` and `applied_scale`, by which
it has changed the world of COLMAP, are undone, so that both files give the same cameras.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from jaxrecon.errors import InputError
from jaxrecon.interop.camera_files import FileCamera, Lens, finite, image_size, nearest_rotation

_MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE", "SIMPLE_RADIAL", "RADIAL")
"""Of `camera_model`: a perspective lens, with OpenCV's distortion."""
_FISHEYE = ("is_fisheye", "ftheta_p0", "latlong")
_FLIP = np.diag([1.0, -1.0, -1.0])
"""OpenGL's camera axes in OpenCV's."""


def transforms_cameras(path: pathlib.Path, document: dict) -> list[FileCamera]:
    """The cameras of a transforms.json, already parsed.

    Args:
        path: for messages.
        document: the JSON object.

    Raises:
        InputError: no frames, a matrix that is no pose, a lens that is not perspective.
    """
    frames = document.get("frames")
    if not isinstance(frames, list) or not frames:
        raise InputError(
            f"{path} lists no frames",
            expected='"frames": [{"file_path": NAME, "transform_matrix": 4 x 4}, ...]',
        )
    A_file_world, scale = _applied(path, document)
    found = []
    for i, frame in enumerate(frames):
        name = frame.get("file_path") if isinstance(frame, dict) else None
        if not isinstance(name, str) or not name:
            raise InputError(f"{path}: frame {i} has no file_path", expected="the image's name")
        where = f"{path}: frame {i} ({name})"
        T = _matrix(f"{where}: transform_matrix", frame.get("transform_matrix"))
        # x_file = A (x_world; 1) * scale, so the camera's pose in the world is A⁻¹ of the file's
        R_world_camera = np.linalg.inv(A_file_world[:, :3]) @ T[:, :3]
        centre = np.linalg.solve(A_file_world[:, :3], T[:, 3] / scale - A_file_world[:, 3])
        R = _FLIP @ nearest_rotation(f"{where}: transform_matrix", R_world_camera).T
        found.append(FileCamera(name, _lens(where, {**document, **frame}), R, -R @ centre))
    return found


def _applied(path: pathlib.Path, document: dict) -> tuple[np.ndarray, float]:
    """What nerfstudio has done to the world: (3, 4) and a factor."""
    A = _matrix(f"{path}: applied_transform", document.get("applied_transform", np.eye(4)[:3]))
    nearest_rotation(f"{path}: applied_transform", A[:, :3])
    scale = float(finite(f"{path}: applied_scale", document.get("applied_scale", 1.0), ()))
    if scale <= 0:
        raise InputError(f"{path}: applied_scale is {scale:g}", expected="a positive number")
    return A, scale


def _matrix(where: str, value: Any) -> np.ndarray:
    """A (3, 4) transform from 3 x 4 or 4 x 4 numbers."""
    rows = value[:3] if isinstance(value, list) and len(value) == 4 else value
    if rows is not value and not np.array_equal(finite(where, value, (4, 4))[3], (0, 0, 0, 1)):
        raise InputError(f"{where}: its last row is {value[3]}", expected="[0, 0, 0, 1]")
    return finite(where, rows, (3, 4))


def _lens(where: str, fields: dict) -> Lens:
    """The lens that the fields of a frame, completed by the file's, describe."""
    model = fields.get("camera_model", "OPENCV")
    odd = [name for name in _FISHEYE if fields.get(name)]
    if model not in _MODELS or odd:
        raise InputError(
            f"{where}: {odd[0] if odd else f'camera model {model}'}",
            expected="a perspective camera: " + ", ".join(_MODELS),
            remedy="undistort the photographs with the program that made the cameras",
        )

    def number(name: str) -> float | None:
        given = fields.get(name)
        return None if given is None else float(finite(f"{where}: {name}", given, ()))

    angle = number("camera_angle_x")
    if angle is not None and not 0 < angle < np.pi:
        raise InputError(f"{where}: camera_angle_x is {angle:g}", expected="radians below pi")
    if angle is None and number("fl_x") is None and number("fl_y") is None:
        raise InputError(f"{where}: no focal length", expected="fl_x (pixels) or camera_angle_x")
    sized = fields.get("w") is not None and fields.get("h") is not None
    k1, k2, k3, k4, p1, p2 = (number(name) or 0.0 for name in ("k1", "k2", "k3", "k4", "p1", "p2"))
    return Lens(
        fx=number("fl_x"),
        fy=number("fl_y"),
        cx=number("cx"),
        cy=number("cy"),
        angle_x=angle,
        size=image_size(where, fields["w"], fields["h"]) if sized else None,
        distortion=(k1, k2, k3, k4, p1, p2),
    )
