"""Procedural skin albedo on the vertices of a head model: cheap, pure, sampled on the device.

The parametric head models that are free carry shape but no colour. Here colour is a function of a
flat vector of `PARAMETERS` numbers and of the model's semantic masks and mean positions, so that it
is the same in all views and expressions of a subject. Skin follows Beer-Lambert absorption by
melanin, haemoglobin and a yellow chromophore (Igarashi, Nishino & Nayar, "The Appearance of Human
Skin", 2007); absorptions add, colours multiply.

Albedo is display-encoded RGB in [0, 1] (what an image file stores).

    surface = albedo_surface("ict_head.npz")
    albedo = vertex_albedo(sample_parameters(key), surface)  # (v, 3); vmap over parameters
"""

from __future__ import annotations

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PRNGKeyArray

from jaxrecon.errors import InputError
from jaxrecon.models.parametric.face_masks import MASKS, masks_from_landmarks
from jaxrecon.models.parametric.head_file import read_head

NOISE_FUNCTIONS = 6

SKIN_BASE = (0.955, 0.835, 0.755)
MELANIN = (1.22, 1.62, 1.95)
HAEMOGLOBIN = (0.04, 0.26, 0.21)
YELLOW = (0.0, 0.05, 0.22)
LIP = (0.12, 0.55, 0.42)
SCLERA = (0.90, 0.885, 0.865)
PUPIL = (0.03, 0.03, 0.035)
TEETH = (0.87, 0.83, 0.75)
GUMS = (0.66, 0.33, 0.32)
MOUTH = (0.42, 0.17, 0.16)
HAIR_COLOURS = (
    (0.07, 0.06, 0.06),  # black
    (0.17, 0.11, 0.08),  # dark brown
    (0.33, 0.21, 0.13),  # brown
    (0.62, 0.48, 0.30),  # blond
    (0.43, 0.21, 0.11),  # red
    (0.62, 0.61, 0.60),  # grey
)
IRIS_COLOURS = (
    (0.20, 0.11, 0.06),  # dark brown
    (0.38, 0.23, 0.12),  # brown
    (0.44, 0.38, 0.19),  # hazel
    (0.36, 0.46, 0.32),  # green
    (0.38, 0.53, 0.66),  # blue
    (0.50, 0.54, 0.57),  # grey
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AlbedoParameters:
    """The named parts of the flat vector, in its order (leading axes are a batch)."""

    melanin: jax.Array
    """(1,) 0 very light skin, 1 very dark"""
    haemoglobin: jax.Array
    """(1,) redness of the skin, about 0 to 1"""
    yellow: jax.Array
    """(1,) warmth of the skin, about 0 to 1"""
    mottle: jax.Array
    """(1,) amplitude of the fine texture, about 0 to 1"""
    lips: jax.Array
    """(2,) redness and darkness of the lips"""
    hair: jax.Array
    """(3,) RGB of hair, brows and beard"""
    brows: jax.Array
    """(1,) opacity in [0, 1]"""
    scalp: jax.Array
    """(1,) opacity of the hair on the scalp in [0, 1]; 0 is bald"""
    beard: jax.Array
    """(1,) opacity in [0, 1]"""
    blush: jax.Array
    """(1,) extra haemoglobin on cheeks and nose"""
    under_eye: jax.Array
    """(1,) darkening under the eyes"""
    iris: jax.Array
    """(3,) RGB of the iris"""
    noise_melanin: jax.Array
    """(6,) coefficients of the smooth functions in melanin"""
    noise_haemoglobin: jax.Array
    """(6,) coefficients of the smooth functions in haemoglobin"""


LAYOUT: tuple[tuple[str, int], ...] = (
    ("melanin", 1),
    ("haemoglobin", 1),
    ("yellow", 1),
    ("mottle", 1),
    ("lips", 2),
    ("hair", 3),
    ("brows", 1),
    ("scalp", 1),
    ("beard", 1),
    ("blush", 1),
    ("under_eye", 1),
    ("iris", 3),
    ("noise_melanin", NOISE_FUNCTIONS),
    ("noise_haemoglobin", NOISE_FUNCTIONS),
)
"""(name, length) of every part of the flat vector, in order."""
PARAMETERS = sum(n for _, n in LAYOUT)
"""Length p of the flat vector: 29."""


def unflatten(parameters: Float[Array | np.ndarray, "*b p"]) -> AlbedoParameters:
    """The named parts of flat vectors (*b, 29); raises `InputError` at another length."""
    if parameters.shape[-1] != PARAMETERS:
        raise InputError(
            f"albedo parameters of length {parameters.shape[-1]}",
            f"length {PARAMETERS}",
            "use sample_parameters",
        )
    parts, start = {}, 0
    for name, length in LAYOUT:
        parts[name] = jnp.asarray(parameters)[..., start : start + length]
        start += length
    return AlbedoParameters(**parts)


def flatten(parameters: AlbedoParameters) -> Float[Array, "*b p"]:
    """The flat vectors (*b, 29) of the named parts."""
    return jnp.concatenate([getattr(parameters, name) for name, _ in LAYOUT], axis=-1)


def _mixture(key, colours, weights, spread):
    """A colour of the palette, in proportion to the weights, with a log-normal brightness and
    jitter.
    """
    k_choice, k_bright, k_jitter = jax.random.split(key, 3)
    choice = jax.random.categorical(k_choice, jnp.log(weights))
    colour = jnp.asarray(colours, jnp.float32)[choice]
    bright = jnp.exp(spread * jax.random.normal(k_bright, (1,)))
    jitter = jnp.exp(0.06 * jax.random.normal(k_jitter, (3,)))
    return jnp.clip(colour * bright * jitter, 0.02, 0.95)


def sample_parameters(key: PRNGKeyArray) -> Float[Array, "p"]:
    """A plausible person: skin from very light to very dark, hair and eyes correlated with it.

    Args:
        key: a typed key; vmap over keys for many.

    Returns:
        (29,) flat vector in the order of `LAYOUT`.
    """
    k = jax.random.split(key, 14)
    # Beta(1, 1.25) by its inverse distribution function.
    melanin = 1 - jax.random.uniform(k[0], (1,)) ** 0.8
    # Dark skin goes with dark hair and eyes: palette weights interpolate with melanin.
    dark = jnp.clip(1.6 * melanin, 0.0, 1.0)
    hair_light = jnp.asarray([0.15, 0.25, 0.25, 0.18, 0.07, 0.10])
    hair_dark = jnp.asarray([0.75, 0.15, 0.02, 0.005, 0.005, 0.07])
    iris_light = jnp.asarray([0.2, 0.2, 0.12, 0.13, 0.27, 0.08])
    iris_dark = jnp.asarray([0.8, 0.18, 0.01, 0.005, 0.0025, 0.0025])
    hair = _mixture(k[1], HAIR_COLOURS, hair_light * (1 - dark) + hair_dark * dark, 0.15)
    iris = _mixture(k[2], IRIS_COLOURS, iris_light * (1 - dark) + iris_dark * dark, 0.12)
    bald = jax.random.bernoulli(k[3], 0.35, (1,))
    thin = jax.random.uniform(k[4], (1,), minval=0.0, maxval=0.25)
    full = jax.random.uniform(k[5], (1,), minval=0.85, maxval=1.0)
    shaven = jax.random.bernoulli(k[6], 0.65, (1,))
    stubble = jax.random.uniform(k[7], (1,), minval=0.15, maxval=0.8)
    u = jax.random.uniform(k[8], (8,))
    return flatten(
        AlbedoParameters(
            melanin=melanin,
            haemoglobin=0.15 + 0.75 * u[0:1],
            yellow=u[1:2],
            mottle=0.2 + 0.8 * u[2:3],
            lips=jnp.stack([0.35 + 0.6 * u[3], 0.15 * u[4]]),
            hair=hair,
            brows=0.45 + 0.5 * u[5:6],
            scalp=jnp.where(bald, thin, full),
            beard=jnp.where(shaven, 0.3 * thin, stubble),
            blush=0.9 * u[6:7],
            under_eye=0.6 * u[7:8],
            iris=iris,
            noise_melanin=jax.random.normal(k[9], (NOISE_FUNCTIONS,)),
            noise_haemoglobin=jax.random.normal(k[10], (NOISE_FUNCTIONS,)),
        )
    )


def vertex_albedo(
    parameters: Float[Array | np.ndarray, "p"], surface: dict[str, Array]
) -> Float[Array, "v 3"]:
    """Display-encoded albedo of every vertex.

    Args:
        parameters: (29,) flat vector; vmap over it for many people.
        surface: from `albedo_surface`; any subset of its vertices may be given (index every leaf).

    Returns:
        (v, 3) RGB in [0, 1].
    """
    a = unflatten(parameters)

    def rgb(value):
        return jnp.asarray(value, jnp.float32)[None]

    def column(name):
        return surface[name][:, None]

    def over(below, colour, opacity):
        return below + opacity * (colour - below)

    low_melanin = (surface["noise"] @ a.noise_melanin)[:, None]
    low_blood = (surface["noise"] @ a.noise_haemoglobin)[:, None]
    melanin = (
        a.melanin[None]
        + 0.010 * low_melanin
        + 0.022 * a.mottle[None] * column("fine")
        + 0.16 * a.under_eye[None] * column("under_eye")
    )
    blood = (
        a.haemoglobin[None]
        + 0.04 * low_blood
        + 0.10 * a.mottle[None] * column("fine_blood")
        + 0.75 * a.blush[None] * column("blush")
        + 0.30 * a.under_eye[None] * column("under_eye")
        + 0.35 * column("ears")
    )
    absorption = melanin * rgb(MELANIN) + blood * rgb(HAEMOGLOBIN) + a.yellow[None] * rgb(YELLOW)
    lips = a.lips[0] * rgb(LIP) + a.lips[1]
    absorption = absorption + column("lips") * (1 - 0.45 * a.melanin[None]) * lips
    skin = rgb(SKIN_BASE) * jnp.exp(-absorption)

    # Strands: hair is never one flat colour.
    hair = a.hair[None] * (1 + 0.14 * column("fine"))
    colour = over(skin, 0.6 * hair + 0.4 * skin, a.beard[None] * column("beard"))
    colour = over(colour, hair, a.brows[None] * column("brows"))
    colour = over(colour, hair, a.scalp[None] * column("scalp"))
    colour = over(colour, rgb(MOUTH), column("mouth"))
    colour = over(colour, rgb(GUMS), column("gums"))
    colour = over(colour, rgb(TEETH), column("teeth"))
    iris = a.iris[None] * (1 + 0.15 * column("fine"))
    colour = over(colour, rgb(SCLERA), column("eye"))
    colour = over(colour, iris, column("iris"))
    colour = over(colour, rgb(PUPIL), column("pupil"))
    return jnp.clip(colour, 0.0, 1.0)


def albedo_surface(path: str | os.PathLike) -> dict[str, Array]:
    """Masks and smooth functions of the mean surface of a head model, for `vertex_albedo`.

    Args:
        path: .npz of a head model that `head_file.read_head` takes, if possible with the `mask_*`
            of `MASKS`; where it has none they are drawn roughly from its landmarks.

    Returns:
        arrays over the v vertices of `read_head`, float32: (v,) lips, brows, scalp, ears, beard,
        blush, under_eye, iris, pupil, eye, teeth, gums, mouth in [0, 1]; (v,) fine, fine_blood
        (unit-variance texture); (v, 6) noise.

    Raises:
        InputError: no head model, or only some of the masks.
    """
    head = read_head(path)
    try:
        return surface_of_head(head)
    except InputError as error:
        raise InputError(f"{path}: {error.given}", error.expected, error.remedy) from error


def surface_of_head(head: dict[str, np.ndarray]) -> dict[str, Array]:
    """As `albedo_surface`, from the arrays of `head_file.read_head`."""
    missing = [f"mask_{m}" for m in MASKS if f"mask_{m}" not in head]
    names = [str(n) for n in head["part_names"]]
    arrays = head["v_mean"], head["faces"], head["face_part"], names
    if missing == [f"mask_{m}" for m in MASKS]:
        return _drawn_surface(head, *arrays)
    if missing:
        raise InputError(
            f"no {', '.join(missing)}",
            "all semantic masks, or none",
            "make it with `jaxrecon import-model CLONE_OF_ICT-FaceKit --kind ict`",
        )
    return surface_from_arrays(*arrays, {m: head[f"mask_{m}"] for m in MASKS})


def _drawn_surface(head: dict[str, np.ndarray], mean, faces, part, names) -> dict[str, Array]:
    """As `surface_of_head`, with masks drawn from the landmarks."""
    marks = np.einsum("lc,lcx->lx", head["landmark_weights"], mean[head["landmark_corners"]])
    drawn = masks_from_landmarks(mean, marks)
    eye = drawn.pop("eye")
    skin = np.array([n.startswith(("face", "head_neck")) for n in names])[part]
    within = np.setdiff1d(faces[~skin], faces[skin])  # eyeballs, teeth and the like
    drawn["lips"][within] = 0.0
    surface = surface_from_arrays(mean, faces, part, names, drawn)
    # Without eyeballs the openings of the eyes are painted on.
    surface["eye"] = surface["eye"] if surface["eye"].any() else jnp.asarray(eye)
    for name in ("iris", "pupil"):
        surface[name] = surface[name] * (surface["eye"] > 0)
    return surface


def smooth_mask(mask: np.ndarray, faces: np.ndarray, rounds: int = 2) -> np.ndarray:
    """The mask with soft borders: each round takes a vertex to the mean of its faces' corners."""
    corners = np.maximum(np.bincount(faces.reshape(-1), minlength=len(mask)), 1)
    for _ in range(rounds):
        face_mean = np.repeat(mask[faces].mean(1), 3)
        mean = np.bincount(faces.reshape(-1), weights=face_mean, minlength=len(mask)) / corners
        mask = np.where(corners > 0, mean, mask).astype(np.float32)
    return mask


def surface_from_arrays(
    mean: np.ndarray,
    faces: np.ndarray,
    face_part: np.ndarray,
    part_names: list[str],
    masks: dict[str, np.ndarray],
) -> dict[str, Array]:
    """As `albedo_surface`, from arrays: mean (v, 3) mm, faces (f, 3), part of every face (f,),
    uint8 masks (v,).
    """
    count = len(mean)
    surface = {
        name: (np.asarray(mask, np.float32) / (255.0 if mask.dtype == np.uint8 else 1.0))
        for name, mask in masks.items()
    }
    for name in ("lips", "scalp"):
        surface[name] = smooth_mask(surface[name], np.asarray(faces, np.int64))

    def of_parts(*wanted: str) -> np.ndarray:
        ids = [i for i, name in enumerate(part_names) if name.startswith(wanted)]
        inside = np.zeros(count, np.float32)
        inside[np.unique(np.asarray(faces)[np.isin(face_part, ids)])] = 1.0
        return inside

    skin = of_parts("face", "head_neck")
    surface["eye"] = of_parts("sclera", "iris") * (1 - skin)
    surface["teeth"] = of_parts("teeth") * (1 - skin)
    surface["gums"] = of_parts("gums") * (1 - skin)
    surface["mouth"] = of_parts("mouth_socket") * (1 - skin) * (1 - surface["lips"])

    # Fixed sums of plane waves: smooth in the mean position, hence the same for every shape and
    # expression.
    rng = np.random.default_rng(20240)
    position = np.asarray(mean, np.float64)

    def waves(functions: int, terms: int, shortest: float, longest: float) -> np.ndarray:
        direction = rng.normal(size=(functions * terms, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        length = np.exp(rng.uniform(np.log(shortest), np.log(longest), functions * terms))
        phase = rng.uniform(0, 2 * np.pi, functions * terms)
        wave = np.cos(position @ (2 * np.pi * direction / length[:, None]).T + phase[None])
        values = wave.reshape(count, functions, terms).sum(2) * np.sqrt(2 / terms)
        return values.astype(np.float32)

    surface["noise"] = waves(NOISE_FUNCTIONS, 3, 35.0, 160.0)
    surface["fine"] = waves(1, 60, 4.0, 12.0)[:, 0]
    surface["fine_blood"] = waves(1, 60, 5.0, 18.0)[:, 0]
    return {name: jnp.asarray(value) for name, value in surface.items()}
