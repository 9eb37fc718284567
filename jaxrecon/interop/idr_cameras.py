"""IDR's `cameras.npz` (also of NeuS, VolSDF, UNISURF, H3DS): a projection per image.

`world_mat_i` is P = K [R | t] up to scale, from the original world to pixels whose centres are
whole numbers (IDR casts rays through them), so that 0.5 is added to the principal point here.
`scale_mat_i` maps IDR's unit sphere to that world and is not applied: the cameras stay in the
original world.
"""

from __future__ import annotations

import pathlib
import re

import numpy as np
from jaxtyping import Float

from jaxrecon.errors import InputError
from jaxrecon.interop.camera_files import FileCamera, Lens, finite
from jaxrecon.interop.state_dicts import read_npz

_CENTRE = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
"""From whole-numbered pixel centres to ours."""


def read_idr(path: pathlib.Path) -> list[FileCamera]:
    """The cameras of a cameras.npz in the order of their numbers, which are their names.

    Raises:
        InputError: not an .npz of arrays, no world_mat_i, or one that is no camera.
    """
    arrays = read_npz(path)
    keys = {int(m[1]): m[0] for m in map(re.compile(r"world_mat_(\d{1,9})").fullmatch, arrays) if m}
    if not keys:
        raise InputError(
            f"{path} holds no cameras: {', '.join(list(arrays)[:6]) or 'nothing'}",
            expected="world_mat_0, world_mat_1, ... of IDR",
        )
    found = []
    for number, key in sorted(keys.items()):
        where, P = f"{path}: {key}", arrays[key]
        P = finite(where, P[:3] if P.shape == (4, 4) else P, (3, 4))
        K, R, t = decompose_projection(where, P)
        K = _CENTRE @ K
        lens = Lens(fx=K[0, 0], fy=K[1, 1], cx=K[0, 2], cy=K[1, 2], skew=K[0, 1])
        found.append(FileCamera(str(number), lens, R, t))
    return found


def decompose_projection(
    where: str, P: Float[np.ndarray, "3 4"]
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]:
    """K (positive focal lengths, K[2, 2] = 1), R (determinant +1) and t of P = s K [R | t], s of
    any sign (Hartley and Zisserman 2004, 6.2.4).

    Raises:
        InputError: the left 3 x 3 part is singular: a camera at infinity.
    """
    M = P[:, :3]
    size = np.abs(M).max()
    scaled = M / size if size > 0 else M
    # K's rows differ by a focal length in pixels, so that the bound is loose
    if not size > 0 or np.linalg.cond(scaled) > 1e10:
        raise InputError(
            f"{where} is not a projection: {P.tolist()}",
            expected="K [R | t] with an invertible left 3 x 3 part",
        )
    if np.linalg.det(scaled) < 0:  # P and -P project alike
        M, P = -M, -P
    # RQ of M by QR of its transpose turned about: M = (E r E) (E q^T), E the exchange of rows
    q, r = np.linalg.qr(M[::-1].T)
    upper, rotation = r.T[::-1, ::-1], q.T[::-1]
    signs = np.where(np.diag(upper) < 0, -1.0, 1.0)
    upper, rotation = upper * signs, rotation * signs[:, None]
    return upper / upper[2, 2], rotation, np.linalg.solve(upper, P[:, 3])
