"""Coarse to fine: where subjects are, by the network's own grid on the levels of an image pyramid.

Levels are squares of fixed sides, so that photographs of any size share compilations.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from jaxrecon.detect.crops import Crop, cut
from jaxrecon.detect.network import (
    FIND_STRIDE,
    OFFSET,
    DetectorConfig,
    DetectorNetwork,
    Output,
)
from jaxrecon.errors import InputError

ENOUGH = 0.5
"""Score of a subject that is taken for one; finer levels are then not looked at."""
LEAST = 0.12
"""Score below which a cell says nothing."""
NEAR = 0.5
"""Candidates nearer to each other than this share of their size are one."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A detector's configuration and weights."""

    config: DetectorConfig
    variables: dict
    """`params` and `batch_stats`"""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A subject that may be there."""

    centre: Any
    """(2,) float64 pixels of the photograph"""
    extent: float
    """its size as the network's reference means it, pixels of the photograph"""
    score: float
    """in [0, 1]"""
    angle: float = 0.0
    """radians by which it is turned in the plane, as `Crop.angle`"""


@functools.partial(jax.jit, static_argnums=0)
def run(config: DetectorConfig, variables: dict, images: Float[Array, "b h w 3"]) -> Output:
    """The network's answers, with probabilities in place of the logits of labels and visibility."""
    output: Any = DetectorNetwork(config).apply(variables, images)
    return output._replace(
        labels=jax.nn.softmax(output.labels), visible=jax.nn.sigmoid(output.visible)
    )


@functools.partial(jax.jit, static_argnums=0)
def run_grid(
    config: DetectorConfig, variables: dict, images: Float[Array, "b h w 3"]
) -> Float[Array, "b i j 4"]:
    """`Output.found` alone: half of the network is not computed."""
    output: Any = DetectorNetwork(config).apply(variables, images)
    return output.found


def in_box(box: Float[np.ndarray, "4"], shape: tuple[int, ...], ratio: float = 1.0) -> Candidate:
    """The subject that a box tells, as surely as can be.

    Args:
        box: [left, top, right, bottom], pixels.
        shape: of the photograph.
        ratio: longer side of the box over the subject's size.

    Raises:
        InputError: a box that is none, or that lies outside of the photograph.
    """
    box = np.asarray(box, np.float64)
    low, high = box[:2], box[2:]
    empty = not np.isfinite(box).all() or (high <= low).any()
    if empty or (high <= 0).any() or (low >= [shape[1], shape[0]]).any():
        raise InputError(
            f"the box {box.tolist()} in a photograph of {shape[1]} x {shape[0]} pixels",
            "[left, top, right, bottom] in pixels, within it",
        )
    return Candidate((low + high) / 2, float((high - low).max()) / ratio, 1.0)


def find(
    network: Network, photo: UInt8[np.ndarray, "h w 3"], sides: Sequence[int]
) -> list[Candidate]:
    """Subjects of a photograph, best first.

    Args:
        network: which also looks at them later.
        photo: RGB.
        sides: of the pyramid's levels, pixels (multiples of 32), from coarse to fine; each holds
            the whole photograph. Levels after the first that shows a subject of score `ENOUGH` and
            the one after it are left out.
    """
    height, width = photo.shape[:2]
    found: list[Candidate] = []
    ends = len(sides)
    for place, side in enumerate(sides):
        if place > ends:
            break
        crop = Crop(np.array([width, height]) / 2, float(max(width, height)), 0.0, side)
        image = cut(photo, crop)
        grid = np.asarray(run_grid(network.config, network.variables, image[None]))[0]
        found += read_grid(network.config, grid, crop)
        # The next level may hold smaller subjects, or show the same one better.
        if ends == len(sides) and any(c.score >= ENOUGH for c in found):
            ends = place + 1
    return distinct(found)


def read_grid(
    config: DetectorConfig, grid: Float[np.ndarray, "i j 4"], crop: Crop
) -> list[Candidate]:
    """Cells whose score is `LEAST` or more and the largest among their eight neighbours'."""
    with np.errstate(over="ignore"):
        score = 1.0 / (1.0 + np.exp(-grid[..., 0].astype(np.float64)))
    padded = np.pad(score, 1)
    h, w = score.shape
    around = np.max([padded[i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=0)
    scale = crop.side / crop.size
    candidates = []
    for i, j in np.argwhere((score >= LEAST) & (score >= around)):
        offset = np.clip(grid[i, j, 1:3], -2.0, 2.0).astype(np.float64) * OFFSET
        centre = (np.array([j, i]) + 0.5) * FIND_STRIDE + offset
        extent = config.reference * float(np.exp(np.clip(grid[i, j, 3], -2.0, 2.0)))
        candidates.append(Candidate(crop.to_photo(centre), extent * scale, float(score[i, j])))
    return candidates


def distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Best first, without those that a better one has the place of."""
    kept: list[Candidate] = []
    for one in sorted(candidates, key=lambda c: -c.score):
        apart = [
            np.linalg.norm(one.centre - other.centre) > NEAR * max(one.extent, other.extent)
            for other in kept
        ]
        if all(apart):
            kept.append(one)
    return kept


def look(
    network: Network, photo: UInt8[np.ndarray, "h w 3"], crop: Crop, mirror: np.ndarray
) -> Output:
    """The network's answer on a crop and on its mirror image, as one without a batch axis: points
    weighted by their precisions, labels and visibility averaged; `maps` are those of the crop.

    Args:
        network: to run.
        photo: RGB.
        crop: where; its size is the network's.
        mirror: (n,) which point a mirrored picture shows at the place of each.
    """
    image = cut(photo, crop)
    pair = np.stack([image, image[:, ::-1]])
    out = jax.device_get(run(network.config, network.variables, jnp.asarray(pair)))
    flipped = out.points[1][mirror]
    flipped = np.stack([crop.size - flipped[:, 0], flipped[:, 1]], axis=-1)
    log_spread = np.stack([out.log_spread[0], out.log_spread[1][mirror]])
    weight = np.exp(-2.0 * log_spread.astype(np.float64))
    points = (weight[0][:, None] * out.points[0] + weight[1][:, None] * flipped) / weight.sum(0)[
        :, None
    ]
    return Output(
        maps=out.maps[0],
        points=points.astype(np.float32),
        # Errors of the two are alike: the mean is not taken to be surer than either.
        log_spread=log_spread.mean(0),
        visible=0.5 * (out.visible[0] + out.visible[1][mirror]),
        labels=0.5 * (out.labels[0] + out.labels[1][:, ::-1]),
        found=out.found[0],
    )
