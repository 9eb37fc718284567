"""The person of a photograph by our own network: found on a pyramid, then looked at twice."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

from jaxrecon.detect.crops import Crop, feather, paste
from jaxrecon.detect.detections import Detections, Person
from jaxrecon.detect.finding import ENOUGH, Candidate, Network, find, in_box, look
from jaxrecon.detect.network import Output
from jaxrecon.types import BODY_25_MIRRORED

SIDES = (128, 192, 256, 512)
"""Of the levels that people are sought on, pixels."""
FIRST, SECOND = 0.9, 1.1
"""Size of the person in the two crops, over the reference."""
SOURCE = "our own person network"
"""What `Detections.sources` says."""
DOUBTFUL = 0.2
"""Score below which a subject that was found is nobody."""
LEAST_COVERED = 0.005
"""Share of a crop; a mask that covers less of it shows nobody."""
SPREAD = 0.05
"""Standard deviation, of the longer side of the person's bounds, that halves the confidence."""
MIRROR = np.array(BODY_25_MIRRORED)


def detect_person(
    network: Network,
    photo: UInt8[np.ndarray, "h w 3"],
    box: Float[np.ndarray, "4"] | None = None,
) -> Detections:
    """The largest person of a photograph: keypoints and mask.

    Args:
        network: of `own.load_network("person")`.
        photo: upright RGB.
        box: [left, top, right, bottom] of the person; None finds it.

    Returns:
        one person, and the mask of what the crop around that person shows of people. Neither where
        no box was given, and the score is below `DOUBTFUL` or the mask covers less than
        `LEAST_COVERED` of the crop: nobody is there.

    Raises:
        InputError: a box that is none, or outside of the photograph.
    """
    height, width = photo.shape[:2]
    if box is not None:
        start = in_box(box, photo.shape)
    else:
        found = [c for c in find(network, photo, SIDES) if c.score >= DOUBTFUL]
        sure = [c for c in found if c.score >= ENOUGH]
        if not found:
            return Detections((height, width))
        start = max(sure or found, key=lambda c: c.score * c.extent)
    size = network.config.size

    def crop_at(candidate: Candidate, ratio: float) -> Crop:
        side = size * candidate.extent / (ratio * network.config.reference)
        return Crop(np.asarray(candidate.centre, np.float64), float(side), 0.0, size)

    crop = crop_at(start, FIRST)
    output = look(network, photo, crop, MIRROR)
    for _ in range(2 if start.score < ENOUGH else 1):
        start = bounds(output, crop, start)
        crop = crop_at(start, SECOND)
        output = look(network, photo, crop, MIRROR)
    start = bounds(output, crop, start)
    if box is None and not shows_somebody(output):
        return Detections((height, width))

    scale = crop.side / crop.size
    sigma = np.exp(output.log_spread) * scale
    confidence = output.visible / (1.0 + (sigma / (SPREAD * start.extent)) ** 2)
    half = start.extent / 2
    person = Person(
        box=np.concatenate([start.centre - half, start.centre + half]),
        score=float(start.score),
        keypoints=crop.to_photo(output.points.astype(np.float64)).astype(np.float32),
        confidence=confidence.astype(np.float32),
    )
    mask = np.zeros((height, width), np.float32)
    weight = feather(crop.size, 0.01)[..., None]
    values, part = paste(output.labels[..., 1:] * weight, crop, (height, width))
    mask[part] = np.clip(values[..., 0], 0.0, 1.0)
    sources = {part: SOURCE for part in ("keypoints", "mask")}
    return Detections((height, width), people=(person,), mask=mask, sources=sources)


def shows_somebody(output: Output) -> bool:
    """Whether the mask of a look covers `LEAST_COVERED` of its crop."""
    covered = output.labels[..., 1] > 0.5
    return bool(covered.sum() >= LEAST_COVERED * covered.size)


def bounds(output: Output, crop: Crop, start: Candidate) -> Candidate:
    """Centre and longer side of what the mask of a look covers, if it covers anything: rows and
    columns that hold less than a thousandth of it at the ends do not count.
    """
    if not shows_somebody(output):
        return start
    covered = output.labels[..., 1] > 0.5
    ends = []
    for axis in (0, 1):
        share = np.cumsum(covered.sum(axis)) / covered.sum()
        ends.append((np.searchsorted(share, 0.001), np.searchsorted(share, 0.999) + 1))
    (left, right), (top, bottom) = ends
    centre = crop.to_photo(np.array([left + right, top + bottom]) / 2)
    extent = max(right - left, bottom - top) * crop.side / crop.size
    return Candidate(centre, float(extent), start.score)
