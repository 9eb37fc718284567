"""Expressions, gaze, light and cameras: what changes from picture to picture."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from data_pipelines.head_cameras import orbit_camera
from data_pipelines.lighting import sample_lighting
from jaxrecon.geometry.shading import constant_lighting, directional_lighting
from jaxrecon.types import Cameras

EYE_SPAN = 0.22
"""Distance of the outer eye corners in a frontal view, relative to the picture."""


def vary_expression(
    rng: np.random.Generator, expression: np.ndarray, names: tuple[str, ...], gaze: np.ndarray
) -> Float[np.ndarray, "e"]:
    """A sampled expression with more closed eyes, open mouths and smiles, and lids that follow the
    gaze (radians to the subject's left and up). Names that the model lacks change nothing.
    """
    weights = np.array(expression, np.float64)
    place = {name: i for i, name in enumerate(names)}

    def put(name: str, value: float, sides: bool = True) -> None:
        for full in (f"{name}_L", f"{name}_R") if sides else (name,):
            if full in place:
                weights[place[full]] = np.clip(value * rng.uniform(0.85, 1.0), 0, 1)

    for name in ("eyeLookUp", "eyeLookDown", "eyeLookIn", "eyeLookOut"):
        put(name, 0.0)
    put("eyeLookUp", max(gaze[1], 0) / 0.5)
    put("eyeLookDown", max(-gaze[1], 0) / 0.6)
    u = rng.uniform(size=4)
    if u[0] < 0.25:
        put("jawOpen", rng.uniform(0.15, 1.0), False)
        put("mouthClose", 0.0, False)
    if u[1] < 0.25:
        put("mouthSmile", rng.uniform(0.4, 1.0))
        put("mouthUpperUp", rng.uniform(0.1, 0.6))
        put("mouthLowerDown", rng.uniform(0.0, 0.5))
        put("mouthPress", 0.0)
        for name in (
            "mouthClose",
            "mouthPucker",
            "mouthFunnel",
            "mouthRollLower",
            "mouthRollUpper",
        ):
            put(name, 0.0, False)
        if u[0] >= 0.25:
            put("jawOpen", rng.uniform(0.0, 0.25), False)
    if u[2] < 0.10:
        put("eyeBlink", rng.uniform(0.85, 1.0))
        put("eyeWide", 0.0)
    elif u[2] < 0.2:
        put("eyeBlink", rng.uniform(0.2, 0.6))
    else:
        for full in ("eyeBlink_L", "eyeBlink_R"):
            if full in place:
                weights[place[full]] = min(weights[place[full]], 0.35)
    return weights.astype(np.float32)


def turn_eyes(
    vertices: Float[np.ndarray, "v 3"], balls: list[np.ndarray], gaze: Float[np.ndarray, "2"]
) -> Float[np.ndarray, "v 3"]:
    """Vertices with the eyeballs (lists of their vertices) turned to the left and up by `gaze`,
    radians, each about the centre of the sphere through it.
    """
    vertices = vertices.copy()
    c, s = np.cos(gaze), np.sin(gaze)
    about_y = np.array([[c[0], 0, s[0]], [0, 1, 0], [-s[0], 0, c[0]]])
    about_x = np.array([[1, 0, 0], [0, c[1], s[1]], [0, -s[1], c[1]]])
    for ball in balls:
        p = vertices[ball]
        system = np.concatenate([2 * p, np.ones((len(p), 1))], 1)
        centre = np.linalg.lstsq(system, (p**2).sum(1), rcond=None)[0][:3]
        vertices[ball] = (p - centre) @ (about_y @ about_x).T + centre
    return vertices


@jax.jit
def sample_lights(key: Array) -> tuple[Float[Array, "9 3"], Float[Array, "3"]]:
    """Light of a picture: rooms and skies, hard side light, light from behind, coloured light.

    Returns:
        (9, 3) coefficients in the frame of the head, and the unit direction of what shines on
        glossy skin.
    """
    k = jax.random.split(key, 9)
    usual = sample_lighting(k[0])
    u = jax.random.uniform(k[1], (6,))
    sign = jnp.where(u[0] < 0.5, -1.0, 1.0)
    azimuth = sign * (0.7 + 1.2 * u[1])
    elevation = -0.3 + 1.2 * u[2]

    def direction(a, e):
        return jnp.stack([jnp.cos(e) * jnp.sin(a), jnp.sin(e), jnp.cos(e) * jnp.cos(a)])

    def coloured(key, strength):
        return jnp.exp(strength * jax.random.normal(key, (3,)))

    hue = jnp.where(jax.random.uniform(k[2], ()) < 0.3, 0.3, 0.05)
    toward = direction(azimuth, elevation)
    hard = constant_lighting((0.06 + 0.3 * u[3]) * coloured(k[3], hue)) + directional_lighting(
        toward, (0.7 + 0.6 * u[4]) * coloured(k[4], hue)
    )
    back = constant_lighting((0.15 + 0.4 * u[3]) * coloured(k[5], hue)) + directional_lighting(
        direction(sign * (2.2 + 0.9 * u[1]), elevation), (0.8 + u[4]) * coloured(k[6], hue)
    )
    pick = jax.random.uniform(k[7], ())
    lighting = jnp.where(pick < 0.25, hard, jnp.where(pick < 0.35, back, usual))
    tint = jnp.where(jax.random.uniform(k[8], ()) < 0.2, 0.2, 0.03)
    return lighting * coloured(jax.random.fold_in(k[8], 1), tint)[None], direction(
        0.6 * azimuth, 0.3 + 0.5 * u[5]
    )


def sample_camera(
    rng: np.random.Generator, size: int, landmarks: Float[np.ndarray, "68 3"]
) -> tuple[Cameras, float]:
    """A camera around a face, and its azimuth (radians).

    The middle of eyes and mouth lies within 5 % of the picture's centre, and the outer eye corners
    would be `EYE_SPAN` of its width apart if seen from the front at the same distance.

    Args:
        rng: source of randomness.
        size: height and width, pixels.
        landmarks: mm.

    Returns:
        one `Cameras`, float32.
    """
    u = rng.uniform()
    azimuth = rng.uniform(-45, 45) if u < 0.72 else rng.normal(0, 14) if u < 0.85 else 0.0
    if u >= 0.85:
        azimuth = rng.choice([-1, 1]) * rng.uniform(45, 80)
    azimuth = float(np.radians(azimuth))
    elevation = np.radians(np.clip(rng.normal(2, 13), -30, 35))
    roll = np.radians(np.clip(rng.normal(0, 6), -18, 18))
    distance = 350.0 * (3000.0 / 350.0) ** rng.uniform()
    eyes, mouth = landmarks[36:48].mean(0), landmarks[48:60].mean(0)
    target = (eyes + mouth) / 2
    corners = landmarks[[36, 45]]
    # The frontal view at this distance settles the focal length.
    depth = distance - (corners[:, 2] - target[2])
    span = np.hypot(*(corners[1, :2] / depth[1] - corners[0, :2] / depth[0]))
    focal = EYE_SPAN * size / span
    centre = size * (0.5 + rng.uniform(-0.05, 0.05, 2))
    camera = orbit_camera(azimuth, elevation, roll, distance, focal, centre, target)
    return jax.tree.map(lambda a: np.asarray(a, np.float32), camera), azimuth
