"""A tiny linear head model of our own, in the layout that `load_face_model` reads: for tests and
first steps where no head model is at hand.

    python -m data_pipelines.synthetic_head --out synthetic_head.npz

An ellipsoid with a nose, brow ridges and a chin; six identity modes, thirteen expression shapes
with ARKit names, 68 landmarks in Multi-PIE order, parts and semantic masks. Everything is a smooth
function of the position on the ellipsoid, symmetric about x = 0 but for the modes that say so.
Frame and unit of head models: x to the subject's left, y up, z out of the face, millimetres.
"""

from __future__ import annotations

import argparse
import os
import pathlib

import numpy as np

CENTRE = np.array([0.0, 10.0, 5.0])
RADII = np.array([72.0, 100.0, 88.0])
PARTS = ("face", "head_neck", "mouth_socket", "teeth", "sclera_left", "sclera_right")
NOSE, CHIN, MOUTH = (0.0, -6.0), (0.0, -72.0), (0.0, -42.0)
"""Places on the face, (x, y) mm."""
EYE, BROW, MOUTH_CORNER, CHEEK = (31.0, 22.0), (31.0, 42.0), (25.0, -42.0), (42.0, -20.0)
"""Places on the subject's left; mirrored for the right."""


def sphere(subdivisions: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Unit icosphere: vertices (v, 3), faces (f, 3) counter-clockwise from outside; 642 vertices at
    3 subdivisions, symmetric about x = 0.
    """
    p = (1 + np.sqrt(5)) / 2
    vertices = [(s, t * p, 0.0) for s in (-1, 1) for t in (-1, 1)]
    vertices += [(0.0, s, t * p) for s in (-1, 1) for t in (-1, 1)]
    vertices += [(t * p, 0.0, s) for s in (-1, 1) for t in (-1, 1)]
    v = np.array(vertices, float)
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    near = np.linalg.norm(v[:, None] - v[None], axis=-1)
    edge = near[near > 1e-6].min()
    linked = (near < 1.01 * edge) & (near > 1e-6)
    faces = [
        (i, j, k)
        for i in range(12)
        for j in range(i + 1, 12)
        for k in range(j + 1, 12)
        if linked[i, j] and linked[j, k] and linked[i, k]
    ]
    f = np.array(faces)
    for _ in range(subdivisions):
        edges = np.sort(f[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
        unique, index = np.unique(edges, axis=0, return_inverse=True)
        middle = v[unique].sum(1)
        middle /= np.linalg.norm(middle, axis=1, keepdims=True)
        a, b, c = (len(v) + index.reshape(-1, 3)).T
        i, j, k = f.T
        v = np.concatenate([v, middle])
        f = np.stack([i, a, c, a, j, b, c, b, k, a, b, c], axis=1).reshape(-1, 3)
    inward = np.sum(np.cross(v[f[:, 1]] - v[f[:, 0]], v[f[:, 2]] - v[f[:, 0]]) * v[f[:, 0]], 1) < 0
    f[inward] = f[inward][:, ::-1]
    return v, f


def _bump(points: np.ndarray, place: tuple[float, float], width: float, tall: float = 1.0):
    """(v,) Gaussian bump on the front of the head about (x, y)."""
    x, y = points[:, 0] - place[0], (points[:, 1] - place[1]) / tall
    front = 1 / (1 + np.exp(-(points[:, 2] - 20.0) / 8.0))
    return front * np.exp(-0.5 * (x**2 + y**2) / width**2)


def _mirrored(place: tuple[float, float], side: str) -> tuple[float, float]:
    return (place[0] if side == "L" else -place[0], place[1])


def mean_shape(directions: np.ndarray) -> np.ndarray:
    """Vertices (v, 3), mm, of the mean head at unit directions (v, 3)."""
    # Vertices are drawn towards the face, where the landmarks are.
    angle = np.arccos(np.clip(directions[:, 2], -1, 1))
    drawn = np.pi * (angle / np.pi) ** 1.4
    across = (
        directions[:, :2] / np.maximum(np.linalg.norm(directions[:, :2], axis=1), 1e-9)[:, None]
    )
    unit = np.concatenate([np.sin(drawn)[:, None] * across, np.cos(drawn)[:, None]], axis=1)
    points = CENTRE + RADII * unit
    depth = 22 * _bump(points, NOSE, 9, 1.8) + 5 * _bump(points, CHIN, 14)
    depth += 5 * _bump(points, MOUTH, 16, 0.5)
    for side in "LR":
        depth += 3 * _bump(points, _mirrored(BROW, side), 14, 0.4)
        depth -= 4 * _bump(points, _mirrored(EYE, side), 12, 0.6)
    return points + depth[:, None] * np.array([0, 0, 1.0])


def identity_modes(mean: np.ndarray) -> np.ndarray:
    """(6, v, 3) mm per standard deviation: width, height, depth, nose, chin, and lopsidedness."""
    x, y, z = (mean - CENTRE).T
    zero = np.zeros_like(x)
    nose, chin = 3.0 * _bump(mean, NOSE, 10, 1.8), _bump(mean, CHIN, 22)
    return np.stack(
        [
            np.stack([0.04 * x, zero, zero], 1),
            np.stack([zero, 0.04 * y, zero], 1),
            np.stack([zero, zero, 0.03 * z], 1),
            np.stack([zero, zero, nose], 1),
            np.stack([zero, -3.0 * chin, 2.0 * chin], 1),
            np.stack([1.5 * np.exp(-((y / 60) ** 2)), zero, zero], 1),
        ]
    )


def expression_shapes(mean: np.ndarray) -> dict[str, np.ndarray]:
    """ARKit name -> (v, 3) mm at full activation."""

    def moved(place, width, direction, tall=1.0):
        return _bump(mean, place, width, tall)[:, None] * np.asarray(direction, float)[None]

    jaw = moved((0.0, -70.0), 26, (0, -16, -6))
    shapes = {
        "jawOpen": jaw,
        "mouthClose": -0.7 * moved(MOUTH, 20, (0, -10, -3)),
        "mouthPucker": moved(MOUTH, 15, (0, 0, 7), 0.7),
    }
    for side, sign in (("L", 1.0), ("R", -1.0)):
        shapes[f"browDown_{side}"] = moved(_mirrored(BROW, side), 13, (-2 * sign, -6, 2), 0.6)
        shapes[f"browOuterUp_{side}"] = moved(_mirrored(BROW, side), 14, (0, 7, 0), 0.6)
        shapes[f"cheekPuff_{side}"] = moved(_mirrored(CHEEK, side), 18, (5 * sign, 0, 6))
        shapes[f"eyeBlink_{side}"] = moved(_mirrored(EYE, side), 9, (0, -4, 2), 0.5)
        shapes[f"mouthSmile_{side}"] = moved(_mirrored(MOUTH_CORNER, side), 11, (6 * sign, 8, -2))
    return dict(sorted(shapes.items()))


def landmark_places() -> np.ndarray:
    """(68, 2) places (x, y), mm, in Multi-PIE order: the subject's right first."""
    turn = np.linspace(-np.pi / 2, np.pi / 2, 17)
    jaw = np.stack([66 * np.sin(turn), 15 - 92 * np.cos(turn)], 1)
    brow = np.stack([np.linspace(48, 14, 5), 42 + 5 * np.sin(np.linspace(0.3, 2.8, 5))], 1)
    brows = np.concatenate([brow * [-1, 1], brow[::-1]])
    bridge = np.stack([np.zeros(4), np.linspace(26, -4, 4)], 1)
    nostrils = np.stack([np.linspace(-13, 13, 5), [-15, -17, -18, -17, -15]], 1)
    ring = np.radians([180, 120, 60, 0, 300, 240])
    eye = np.stack([13 * np.cos(ring), 5 * np.sin(ring)], 1)
    eyes = np.concatenate([eye + [-EYE[0], EYE[1]], eye + [EYE[0], EYE[1]]])
    outer = np.radians(180 - 30 * np.arange(12))
    inner = np.radians(180 - 45 * np.arange(8))
    lips = np.stack([25 * np.cos(outer), 11 * np.sin(outer)], 1)
    inside = np.stack([17 * np.cos(inner), 4 * np.sin(inner)], 1)
    mouth = np.concatenate([lips, inside]) + np.array(MOUTH)
    return np.concatenate([jaw, brows, bridge, nostrils, eyes, mouth])


def _landmarks(mean: np.ndarray, count: int) -> np.ndarray:
    """(68,) different vertices of the first `count`, each the nearest free one in front."""
    distance = np.linalg.norm(landmark_places()[:, None] - mean[None, :count, :2], axis=-1)
    distance[:, mean[:count, 2] < -20] = np.inf
    chosen = []
    for row in distance:
        row[chosen] = np.inf
        chosen.append(int(np.argmin(row)))
    return np.array(chosen)


def _masks(mean: np.ndarray) -> dict[str, np.ndarray]:
    """Semantic masks, uint8 (v,)."""
    x, y, z = mean.T
    front, side_x = z > 30, np.abs(x)

    def near(place, a, b):
        return front & (((side_x - place[0]) / a) ** 2 + ((y - place[1]) / b) ** 2 < 1)

    masks = {
        "lips": near((0.0, MOUTH[1]), 26, 10),
        "brows": near(BROW, 19, 6),
        "scalp": (y > 70) | ((z < -20) & (y > 0)),
        "ears": (side_x > 60) & (np.abs(y - 10) < 25) & (np.abs(z) < 25),
        "beard": front & (y < -30) & ~near((0.0, MOUTH[1]), 26, 10),
        "blush": near(CHEEK, 16, 14),
        "under_eye": near((EYE[0], EYE[1] - 14), 14, 7),
        "iris": near(EYE, 7, 7),
        "pupil": near(EYE, 4, 4),
    }
    return {f"mask_{name}": 255 * inside.astype(np.uint8) for name, inside in masks.items()}


def synthetic_head() -> dict[str, np.ndarray]:
    """The arrays of the file, by name (see `jaxrecon.models.parametric.face.load_face_model`)."""
    directions, faces = sphere()
    skin = mean_shape(directions)
    corners = skin[faces].mean(1)
    part = np.where((corners[:, 2] > 15) & (corners[:, 1] > -80), 0, 1)
    # The eyeballs' fronts are faces of the same closed surface.
    for index, sign in ((4, 1.0), (5, -1.0)):
        offset = (corners[:, :2] - [sign * EYE[0], EYE[1]]) / [18.0, 13.0]
        part[(np.linalg.norm(offset, axis=1) < 1) & (corners[:, 2] > 30)] = index
    # Something within the mouth, which the outer skin leaves out.
    ball, ball_faces = sphere(0)
    pocket = [np.array([0, MOUTH[1], 55.0]) + r * ball for r in (12.0, 6.0)]
    mean = np.concatenate([skin, *pocket])
    faces = np.concatenate(
        [faces, ball_faces[:, ::-1] + len(skin), ball_faces + len(skin) + len(ball)]
    )
    part = np.concatenate([part, np.full(len(ball_faces), 2), np.full(len(ball_faces), 3)])
    shapes = expression_shapes(mean)
    moved = {name: np.flatnonzero(np.abs(s).max(1) > 0.05) for name, s in shapes.items()}
    return {
        "v_mean": mean.astype(np.float32),
        "id_basis": identity_modes(mean).astype(np.float16),
        "expr_names": np.array(list(shapes)),
        "expr_ptr": np.cumsum([0, *(len(i) for i in moved.values())]),
        "expr_idx": np.concatenate(list(moved.values())).astype(np.uint16),
        "expr_delta": np.concatenate([shapes[n][i] for n, i in moved.items()]).astype(np.float16),
        "faces": faces.astype(np.uint16),
        "face_part": part.astype(np.uint8),
        "part_names": np.array(PARTS),
        "landmarks68": _landmarks(mean, len(skin)).astype(np.int32),
        **_masks(mean),
    }


def write_synthetic_head(path: str | os.PathLike) -> pathlib.Path:
    """Write the model to `path` (.npz), by way of a temporary name."""
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.stem}.tmp.npz")
    np.savez_compressed(temporary, **synthetic_head())
    os.replace(temporary, path)
    return path


def main(argv: list[str] | None = None) -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", required=True, type=pathlib.Path, help="file to write (.npz)")
    args = parser.parse_args(argv)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    print(write_synthetic_head(args.out))


if __name__ == "__main__":
    main()
