"""A latent space whose codes move 68 landmarks linearly, and cameras that look at them."""

import jax
import numpy as np

from jaxrecon.fitting.latents import LatentSpace
from jaxrecon.fitting.problem import ViewData
from jaxrecon.types import Cameras

UNIT = 150.0
SIZE = 128
IDS, EXPRESSIONS = 4, 2


def space(seed: int = 0) -> LatentSpace:
    """Four identity and two expression channels; PCA bases that mix them."""
    rng = np.random.default_rng(seed)

    def draw(*shape, scale=1.0):
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    turn = np.linspace(-1.2, 1.2, 68)
    height = 0.5 * np.cos(7 * turn)
    mean = np.stack([0.5 * np.sin(turn), height, 0.55 * np.cos(turn) - 0.2 * height**2], 1)
    return LatentSpace(
        id_mean=draw(IDS, scale=0.2),
        id_basis=np.linalg.qr(draw(IDS, IDS))[0],
        exp_mean=draw(EXPRESSIONS, scale=0.2),
        exp_basis=np.linalg.qr(draw(EXPRESSIONS, EXPRESSIONS))[0],
        colour_mean=draw(3),
        colour_basis=draw(2, 3),
        landmarks_mean=mean.astype(np.float32),
        landmarks_id=draw(IDS, 68, 3, scale=0.03),
        landmarks_exp=draw(EXPRESSIONS, 68, 3, scale=0.03),
    )


def landmarks(space: LatentSpace, w_id, w_exp) -> np.ndarray:
    """(n, 68, 3) canonical landmarks, by NumPy."""
    z_id = space.id_mean + w_id @ space.id_basis
    z_exp = space.exp_mean + w_exp @ space.exp_basis
    of_id = np.einsum("i,ipx->px", z_id, space.landmarks_id)
    return space.landmarks_mean + of_id + np.einsum("ne,epx->npx", z_exp, space.landmarks_exp)


def rotation(axis_angle) -> np.ndarray:
    w = np.asarray(axis_angle, float)
    angle = np.linalg.norm(w)
    k = w / angle
    cross = np.array([[0, -k[2], k[1]], [k[2], 0, -k[0]], [-k[1], k[0], 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def cameras(angles, distance: float = 900.0, focal: float = 330.0) -> Cameras:
    """Cameras about y at these angles (radians), looking at the origin; world in mm."""
    K = np.array([[focal, 0, SIZE / 2 + 1.5], [0, focal, SIZE / 2 - 2.0], [0, 0, 1.0]])
    R, t = [], []
    for a in angles:
        z = -np.array([np.sin(a), 0.1, np.cos(a)]) / np.linalg.norm([np.sin(a), 0.1, np.cos(a)])
        x = np.cross(z, [0, 1.0, 0])
        x /= np.linalg.norm(x)
        R.append(np.stack([x, np.cross(z, x), z]))
        t.append([0, 0, distance])
    single = np.float32
    return Cameras(K=np.stack([K] * len(angles)).astype(single), R=single(R), t=single(t))


def project(cameras: Cameras, i: int, x: np.ndarray) -> np.ndarray:
    """(n, 2) pixels of world points in view i, by NumPy in float64."""
    y = (x @ np.float64(cameras.R[i]).T + cameras.t[i]) @ np.float64(cameras.K[i]).T
    return y[:, :2] / y[:, 2:]


def view_data(
    space, angles, w_id, w_exp, pose=((0.1, -0.25, 0.05), (8.0, -12.0, 20.0)), unit=UNIT
) -> tuple[ViewData, dict]:
    """Exact projections of landmarks: views of a head at x_world = UNIT R x_canonical + t.

    View i shows expression i modulo len(w_exp). `unit` is what the fit is told (0: unknown).
    """
    views, (turn, t) = cameras(angles), pose
    R = rotation(turn)
    world = UNIT * landmarks(space, w_id, w_exp) @ R.T + np.array(t)
    expression = np.arange(len(angles)) % len(w_exp)
    pixels = np.stack([project(views, i, world[e]) for i, e in enumerate(expression)])
    count = len(angles)
    blank = np.zeros((count, SIZE, SIZE), np.float32)
    data = ViewData(
        images=np.zeros((count, SIZE, SIZE, 3), np.float32),
        subject=blank,
        valid=blank,
        still=blank,
        cameras=views,
        landmarks=pixels.astype(np.float32),
        landmark_weights=np.ones((count, 68), np.float32),
        expression=expression.astype(np.int32),
        unit=np.float32(unit),
    )
    truth = {"R": R, "t": np.array(t), "world": world, "w_id": w_id, "w_exp": w_exp}
    return jax.tree.map(jax.numpy.asarray, data), truth
