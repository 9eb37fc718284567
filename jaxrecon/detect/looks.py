"""Several looks at one subject, turned and scaled a little, as one answer.

A network that is not sure answers each look differently; their mean is nearer to the truth than any
(test-time augmentation).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from jaxrecon.detect.crops import Crop, cut, feather, paste
from jaxrecon.detect.guided import guided_filter
from jaxrecon.detect.network import Output

ROOM = 1.15
"""Side of the canvas over that of the widest look: corners of turned ones reach further."""


@dataclasses.dataclass(frozen=True)
class Points:
    """What several looks say of the points."""

    places: Float[np.ndarray, "n 2"]
    """float32 pixels of the photograph"""
    sigma: Float[np.ndarray, " n"]
    """float32 standard deviation of a coordinate, pixels of the photograph"""
    visible: Float[np.ndarray, " n"]
    """float32 probability"""


def points_of(looks: Sequence[tuple[Crop, Output]]) -> Points:
    """Means of places weighted by their precisions, of logarithms of spreads, and of visibilities.

    Args:
        looks: each with the network's answer (`finding.look`).
    """
    places, log_sigma = [], []
    for crop, output in looks:
        places.append(crop.to_photo(output.points.astype(np.float64)))
        log_sigma.append(output.log_spread.astype(np.float64) + math.log(crop.side / crop.size))
    logs = np.stack(log_sigma)
    weight = np.exp(-2.0 * logs)[..., None]
    mean = (weight * np.stack(places)).sum(0) / weight.sum(0)
    return Points(
        places=mean.astype(np.float32),
        # Errors of the looks are alike: the mean is not taken to be surer than they are.
        sigma=np.exp(logs.mean(0)).astype(np.float32),
        visible=np.stack([output.visible for _, output in looks]).mean(0).astype(np.float32),
    )


def canvas_around(widest: Crop, fineness: float = 2.0) -> Crop:
    """The crop on which the labels of looks are laid, turned as the widest of them.

    Args:
        widest: of the looks.
        fineness: pixels of the canvas a pixel of the widest look.
    """
    size = round(ROOM * fineness * widest.size)
    return Crop(widest.centre, ROOM * widest.side, widest.angle, size)


def lay(
    canvas: Crop, layers: Sequence[tuple[Sequence[tuple[Crop, Output]], float]]
) -> Float[np.ndarray, "s s c"]:
    """Probabilities of the labels on a canvas; background (label 0) where no look reaches.

    Args:
        canvas: of `canvas_around`.
        layers: from below to above, each (looks that are averaged, share of a look's side over
            which it fades at its rim).
    """
    shape = (canvas.size, canvas.size)
    labels = layers[0][0][0][1].labels.shape[-1]
    whole = np.zeros((*shape, labels), np.float32)
    whole[..., 0] = 1.0
    for looks, margin in layers:
        total = np.zeros((*shape, labels + 1), np.float32)
        for crop, output in looks:
            weight = feather(crop.size, margin)[..., None]
            values = np.concatenate([output.labels * weight, weight], axis=-1)
            part, where = paste(values, _within(crop, canvas), shape)
            total[where] += part
        weight = total[..., -1:]
        cover = np.minimum(weight, 1.0)
        whole += cover * (total[..., :-1] / np.maximum(weight, 1e-6) - whole)
    return whole


def _within(crop: Crop, canvas: Crop) -> Crop:
    """A crop of a photograph as the crop of a canvas."""
    scale = canvas.size / canvas.side
    c, s = math.cos(canvas.angle), math.sin(canvas.angle)
    # The canvas's axes are the columns of the rotation.
    away = np.array([[c, s], [-s, c]]) @ (crop.centre - canvas.centre)
    centre = scale * away + canvas.size / 2
    return Crop(centre, scale * crop.side, crop.angle - canvas.angle, crop.size)


def follow_edges(
    photo: UInt8[np.ndarray, "h w 3"],
    canvas: Crop,
    values: Float[np.ndarray, "s s c"],
    wide: float,
    narrow: float = 0.0,
) -> Float[np.ndarray, "s s c"]:
    """Probabilities whose bounds follow the edges of the photograph (`guided.guided_filter`): first
    of the subject against the background, with wide windows, then of the labels within it.

    Args:
        photo: RGB.
        canvas: on which the values lie.
        values: of `lay`; label 0 is the background.
        wide: half the side of the windows of the subject, pixels of the photograph.
        narrow: of the labels; of no matter where there are two.

    Returns:
        probabilities on the canvas, which sum to at most 1: to less where something is the subject
        and no label is near.
    """
    guide = cut(photo, canvas)
    # Beyond the photograph there is nothing to learn.
    middles = np.arange(canvas.size) + 0.5
    places = canvas.to_photo(np.stack(np.meshgrid(middles, middles), axis=-1))
    within = np.all((places > 0) & (places < np.array(photo.shape[1::-1])), axis=-1)

    def snapped(part, reach: float):
        radius = max(1, round(reach * canvas.size / canvas.side))
        return guided_filter(guide, part, radius, weight=within.astype(np.float64))

    subject = snapped(1.0 - values[..., :1], wide)
    labels = subject
    if values.shape[-1] > 2:
        labels = snapped(values[..., 1:], narrow)
        labels *= subject / np.maximum(labels.sum(-1, keepdims=True), 1e-6)
    return np.concatenate([1.0 - subject, labels], axis=-1)


def labels_of(
    values: Float[np.ndarray, "s s c"], canvas: Crop, shape: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """(most probable label, probability of not being background) at every pixel of a photograph of
    `shape` (height, width); background beyond the canvas.
    """
    labels, best = np.zeros(shape, np.uint8), np.ones(shape, np.float32)
    mask = np.zeros(shape, np.float32)
    alpha, part = paste(np.ones((canvas.size, canvas.size, 1), np.float32), canvas, shape)
    # One label after another: all at once would take gigabytes of a large photograph.
    for label in range(values.shape[-1]):
        own = paste(values[..., label : label + 1], canvas, shape)[0][..., 0]
        if label == 0:
            best[part] = own + 1.0 - alpha[..., 0]
            mask[part] = np.clip(1.0 - best[part], 0.0, 1.0)
            continue
        higher = own > best[part]
        labels[part][higher] = label
        best[part] = np.where(higher, own, best[part])
    return labels, mask
