"""What somebody wears: garments of the file where there is one, painted garments, hair."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from data_pipelines.detector_bodies.looks import BOTTOM, OFF, TOP, Region, rows
from data_pipelines.detector_bodies.surface import ARM_WEIGHT, HEIGHT, Person
from data_pipelines.detector_bodies.wardrobe import Extra, Garment, long_hair, skirt, worn

PAINTED = 0.3
"""How often clothes are painted although there is a file of clothes."""


@dataclasses.dataclass(frozen=True)
class Outfit:
    """What is worn."""

    regions: Float[np.ndarray, "l p"]
    """painted garments, see `looks.rows`"""
    extras: list[Extra]
    """meshes at rest"""
    hidden: Int[np.ndarray, " h"]
    """vertices of the body's file whose faces are not drawn"""
    shod: bool
    """toes hidden in painted shoes"""


def sample_outfit(
    rng: np.random.Generator,
    person: Person,
    garments: list[Garment],
    body: Float[np.ndarray, "n 3"],
    bald: bool,
) -> Outfit:
    """Random clothes and hair for a person at rest (n vertices of the file)."""
    u = rng.uniform
    suits = [g for g in garments if not g.is_shoes]
    shoes = [g for g in garments if g.is_shoes]
    layers = {k: Region() for k in ("shoes", "bottom", "top", "jacket", "hat")}
    extras: list[Extra] = []
    hidden: list[np.ndarray] = []
    legs_bare = False
    if suits and u() >= PAINTED:
        suit = suits[rng.integers(len(suits))]
        extras.append(worn(suit, body, person, u(0.9, 1.5)))
        hidden.append(suit.hidden)
        legs_bare = not (person.fields[suit.bind, HEIGHT] < -0.8).any()
    else:
        dress, legs_bare = _painted_clothes(rng, layers)
        if dress is not None:
            waist, hem, flare, material = dress
            extras.append(skirt(body, person, waist, hem, flare, material))
            fields = person.fields
            under = (fields[:, HEIGHT] > hem + 0.07) & (fields[:, HEIGHT] < -0.12)
            hidden.append(np.flatnonzero(under & (fields[:, ARM_WEIGHT] < 0.3)))
    if legs_bare and u() < 0.35:  # tights
        layers["bottom"] = dataclasses.replace(
            layers["bottom"], low=min(OFF, layers["bottom"].low), high=0.2
        )
    shod = False
    if shoes and u() < 0.6:
        pair = shoes[rng.integers(len(shoes))]
        extras.append(worn(pair, body, person, 1.0))
        hidden.append(pair.hidden)
    elif u() < 0.95:
        shod = True
        top = -0.97 if u() < 0.75 else u(-0.9, -0.55)
        layers["shoes"] = Region(low=OFF, high=top, thickness=u(0.007, 0.014))
    # a cap or a woollen hat; hair lies under it
    if u() < 0.13:
        layers["hat"] = Region(head=1.0, thickness=u(0.008, 0.03))
    if not bald and u() < 0.4:
        if u() < 0.75:
            shell = long_hair(body, person, u(0.12, 0.45), u(1.5, 2.3), u(0.012, 0.035))
        else:  # a tail
            shell = long_hair(body, person, u(0.2, 0.45), u(0.3, 0.6), u(0.02, 0.04))
        extras.append(shell)
    none = np.zeros(0, np.int64)
    return Outfit(
        regions=rows(list(layers.values())),
        extras=extras,
        hidden=np.concatenate([*hidden, none]).astype(np.int64),
        shod=shod,
    )


def _painted_clothes(rng, layers: dict[str, Region]):
    """Fills the layers; returns the skirt (waist, hem, flare, material) or None, and whether legs
    are bare.
    """
    u = rng.uniform
    short = u(0.35, 0.75) if rng.uniform() < 0.8 else u(-0.05, 0.15)
    sleeve = short if u() < 0.45 else u(1.55, 2.05)
    loose = u(0.0, 0.02)
    layers["top"] = Region(
        low=u(-0.12, 0.22) if u() < 0.9 else u(0.25, 0.36),
        high=9.0,
        sleeve=sleeve,
        collar=u(0.45, 1.15) if u() < 0.85 else u(1.4, 1.9),
        neck=u(0.07, 0.11),
        v_neck=u(0.0, 0.14) if u() < 0.4 else 0.0,
        thickness=u(0.003, 0.012),
        loose=loose,
    )
    dress, legs_bare = None, False
    kind = u()
    waist = u(0.12, 0.3)
    if kind < 0.16:  # skirt or dress
        legs_bare = True
        material = BOTTOM if u() < 0.5 else TOP
        hem = u(-0.9, -0.25)
        dress = (u(0.15, 0.35), hem, u(0.0, 0.16), material)
        layers["bottom"] = Region(low=-0.2, high=waist, thickness=0.003)
    elif kind < 0.36:  # shorts
        legs_bare = True
        low = u(-0.62, -0.22)
        layers["bottom"] = Region(
            low=low, high=waist, thickness=u(0.005, 0.01), loose=u(0.0, 0.025)
        )
    else:
        thin = u() < 0.3
        layers["bottom"] = Region(
            low=u(-1.0, -0.8) if u() < 0.9 else u(-0.8, -0.6),
            high=waist,
            thickness=u(0.002, 0.006) if thin else u(0.006, 0.014),
            loose=0.0 if thin else u(0.0, 0.03),
        )
    if u() < 0.32:
        layers["jacket"] = Region(
            low=u(-0.15, 0.2) if u() < 0.8 else u(-0.6, -0.25),
            high=9.0,
            sleeve=u(1.7, 2.05) if u() < 0.85 else u(-0.05, 0.1),
            collar=u(0.7, 1.3),
            neck=u(0.075, 0.1),
            opening=u(0.01, 0.08) if u() < 0.6 else 0.0,
            head=float(u() < 0.15),
            thickness=u(0.01, 0.025),
            loose=u(0.0, 0.02),
        )
    return dress, legs_bare
