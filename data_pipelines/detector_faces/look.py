"""What a random person wears and how their hair is cut: plain numbers, drawn on the host."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from data_pipelines.detector_faces.bust import sample_build, sample_neckline
from data_pipelines.detector_faces.glasses import sample_frame
from jaxrecon.models.parametric.procedural_albedo import HAIR_COLOURS, LAYOUT

OFFSETS = {name: sum(n for m, n in LAYOUT[:i]) for i, (name, _) in enumerate(LAYOUT)}
"""Place of every named part in the flat albedo vector."""


@dataclasses.dataclass(frozen=True)
class Look:
    """One person's hair, clothes and glasses."""

    albedo: np.ndarray
    """(29,) of `procedural_albedo`"""
    style: np.ndarray
    """(16,) of `morphable_heads.hair`"""
    build: np.ndarray
    """(6,) of `sample_build`"""
    neckline: np.ndarray
    """(7,) of `sample_neckline`"""
    collar: tuple[float, float, float]
    """radius, tallness, and extra radius behind of the tube along the neckline; radius 0: none"""
    cloth: np.ndarray
    """(20,) colours and pattern of the clothes, see `sample_cloth`"""
    hat: np.ndarray
    """(8,) height of the rim at the axis, its slope, RGB, ribs per mm, thickness in mm, spare"""
    long_hair: tuple[float, float, float, float] | None
    """half angle, height of the ends, flare, thickness of `shells.curtain`"""
    scarf: bool
    """whether `long_hair` is a headscarf"""
    fringe: tuple[float, float, float] | None
    """half angle, height of the ends, sweep of `shells.fringe`"""
    peak: float
    """length of a cap's peak, mm; 0: none"""
    bun: np.ndarray | None
    """(4,) place on the scalp relative to the middle of the head, and radius, mm"""
    frame: dict[str, Any] | None
    """of `sample_frame`"""
    garment: float
    """thickness of the clothes, mm"""
    shade: np.ndarray
    """(4,) darkness below the jaw, of the lash line, gloss of the skin, its exponent"""


def _colour(rng: np.random.Generator) -> np.ndarray:
    grey = rng.uniform(0.04, 0.95)
    strength = rng.choice([0.05, 0.25, 0.5])
    return np.clip(grey + strength * rng.uniform(-1, 1, 3), 0.02, 0.97)


def sample_cloth(rng: np.random.Generator) -> np.ndarray:
    """(20,): three RGB colours (main, second, collar), pattern's weight, its two wave vectors
    (rad/mm; x, y), sharpness, width of the collar band (mm), collar's weight, folds (3).
    """
    main, second = _colour(rng), _colour(rng)
    collar = main if rng.uniform() < 0.5 else _colour(rng)
    kind = rng.choice(4, p=[0.5, 0.22, 0.14, 0.14])
    period = rng.uniform(8, 60)
    turn = rng.choice([0.0, 0.5 * np.pi, rng.uniform(0, np.pi)])
    first = 2 * np.pi / period * np.array([np.sin(turn), np.cos(turn)])
    other = 2 * np.pi / period * np.array([np.cos(turn), -np.sin(turn)])
    weight = 0.0 if kind == 0 else 1.0
    if kind == 1:
        other = np.zeros(2)
    if kind == 3:  # two halves
        first, other = 2 * np.pi / rng.uniform(300, 900) * np.array([0.3, 1.0]), np.zeros(2)
    sharp = rng.uniform(1, 8)
    band = rng.uniform(5, 30) if rng.uniform() < 0.5 else 0.0
    return np.concatenate(
        [main, second, collar, [weight], first, other, [sharp, band, 1.0], rng.uniform(0, 1, 3)]
    )


def sample_look(rng: np.random.Generator, albedo: np.ndarray, style: np.ndarray) -> Look:
    """A person's look, from albedo and hair as the samplers of `procedural_albedo` and
    `morphable_heads.hair` draw them.
    """
    albedo, style = np.array(albedo, np.float64), np.array(style, np.float64)
    # As many light as dark skins on the screen: colour falls off exponentially with melanin.
    albedo[OFFSETS["melanin"]] = rng.beta(1.0, 2.0)
    kind = rng.choice(4, p=[0.12, 0.40, 0.40, 0.08])  # bald, short, long, tied up
    albedo[OFFSETS["scalp"]] = rng.uniform(0, 0.25) if kind == 0 else rng.uniform(0.85, 1.0)
    if kind == 0 and rng.uniform() < 0.4:
        albedo[OFFSETS["scalp"]] = rng.uniform(0.25, 0.49)
    if rng.uniform() < 0.05:  # dyed
        hair = rng.uniform(0.05, 0.9, 3)
    elif rng.uniform() < 0.25:  # any natural colour with any skin
        hair = np.array(HAIR_COLOURS[rng.integers(len(HAIR_COLOURS))]) * rng.uniform(0.8, 1.2)
    else:
        hair = albedo[OFFSETS["hair"] : OFFSETS["hair"] + 3]
    albedo[OFFSETS["hair"] : OFFSETS["hair"] + 3] = np.clip(hair, 0.02, 0.95)
    bearded = rng.uniform() < (0.12 if kind >= 2 else 0.5)
    if bearded:
        albedo[OFFSETS["beard"]] = rng.choice([rng.uniform(0.2, 0.6), rng.uniform(0.85, 1.25)])
    else:
        albedo[OFFSETS["beard"]] = rng.uniform(0, 0.08)
    if not bearded and rng.uniform() < 0.25:  # lipstick
        albedo[OFFSETS["lips"]] = rng.uniform(0.9, 2.2)
        albedo[OFFSETS["lips"] + 1] = rng.uniform(0.0, 0.5)
    if kind >= 2:
        volume = rng.uniform(8, 28)
        style[:3] = volume * np.array([rng.uniform(0.7, 1.1), rng.uniform(0.5, 0.9), 0.9])
    if kind == 3:
        style[:3] = rng.uniform(4, 12)
    if kind == 1 and rng.uniform() < 0.10:  # afro
        style[:3] = rng.uniform(40, 75) * np.array([1.0, rng.uniform(0.7, 1.0), 1.0])
        style[3] = 0.1
    covered = rng.choice(4, p=[0.885, 0.05, 0.035, 0.03])  # nothing, beanie, cap, headscarf
    long_hair = None
    if kind == 2:
        length = (rng.uniform(-85, -35), rng.uniform(-170, -90), rng.uniform(-330, -190))[
            rng.choice(3, p=[0.35, 0.35, 0.3])
        ]
        half = np.radians(rng.uniform(85, 132))
        flare = rng.uniform(-14, 22) if length > -100 else rng.uniform(-10, 30)
        long_hair = (half, length, flare, rng.uniform(8, 22))
    if covered == 3:
        long_hair = (np.radians(rng.uniform(125, 140)), rng.uniform(-190, -120), 20.0, 8.0)
    ends = rng.choice(
        [rng.uniform(62, 92), rng.uniform(44, 62), rng.uniform(30, 44)], p=[0.5, 0.35, 0.15]
    )
    fringe = None
    if kind in (1, 2, 3) and covered == 0 and rng.uniform() < (0.45 if kind == 2 else 0.25):
        fringe = (np.radians(rng.uniform(30, 62)), ends, rng.normal(0, 14))
    hat = np.array([1e4, 0, 0, 0, 0, 1.0, 0.0, 0.0])
    if covered:
        rim = rng.uniform(68, 92)
        ribs = rng.uniform(0.15, 0.8)
        slope = rng.uniform(0.05, 0.35)
        hat = np.concatenate([[rim, slope], _colour(rng), [ribs, rng.uniform(5, 11), 0.0]])
        style[:3] = np.minimum(style[:3], 8.0)
    bun = None
    if kind == 3 and covered == 0:
        tilt = rng.uniform(-0.2, 1.2)
        bun = np.array(
            [rng.normal(0, 8), np.cos(tilt) * 85, -np.sin(tilt) * 88, rng.uniform(20, 42)]
        )
    collar = (0.0, 1.0, 0.0)
    if rng.uniform() < 0.35:
        collar = (rng.uniform(4, 16), rng.uniform(0.8, 1.8), rng.choice([0.0, rng.uniform(5, 30)]))
    frame = sample_frame(rng) if rng.uniform() < 0.22 else None
    return Look(
        albedo=albedo.astype(np.float32),
        style=style.astype(np.float32),
        build=sample_build(rng),
        neckline=sample_neckline(rng),
        collar=collar,
        cloth=sample_cloth(rng),
        hat=hat,
        long_hair=long_hair,
        scarf=bool(covered == 3),
        fringe=fringe,
        peak=float(rng.uniform(45, 75)) if covered == 2 else 0.0,
        bun=bun,
        frame=frame,
        garment=float(rng.uniform(1.5, 8)),
        shade=np.array(
            [
                rng.uniform(0.1, 0.5),
                rng.uniform(0.1, 0.85),
                rng.uniform(0, 0.35),
                rng.uniform(8, 40),
            ]
        ),
    )
