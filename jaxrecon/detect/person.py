"""The person of a photograph by our own network: found on a pyramid, then looked at twice,
each time within the bounds of what was seen before, and then several times at once.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, UInt8

from jaxrecon.detect.crops import Crop
from jaxrecon.detect.detections import Detections, Person
from jaxrecon.detect.finding import ENOUGH, Candidate, Network, find, in_box, look
from jaxrecon.detect.looks import canvas_around, follow_edges, labels_of, lay, points_of
from jaxrecon.detect.network import Output
from jaxrecon.types import BODY_25_MIRRORED

SIDES = (128, 192, 256, 512)
"""Of the levels that people are sought on, pixels."""
FIRST, SECOND = 0.9, 1.1
"""Size of the person in the two crops, over the reference."""
LOOKS = ((1.1, -5.0), (1.1, 5.0), (1.3, 0.0))
"""The last looks: (size over the reference, degrees that the crop is turned)."""
RIM = 0.01
"""Share of their side over which their masks fade at the rim."""
WINDOW = 0.14
"""Half the side of the windows in which the mask follows edges, over the person's longer side."""
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

    def crop_at(candidate: Candidate, ratio: float, turn: float = 0.0) -> Crop:
        side = size * candidate.extent / (ratio * network.config.reference)
        middle = np.asarray(candidate.centre, np.float64)
        return Crop(middle, float(side), math.radians(turn), size)

    crop = crop_at(start, FIRST)
    output = look(network, photo, crop, MIRROR)
    for _ in range(2 if start.score < ENOUGH else 1):
        start = bounds(output, crop, start)
        crop = crop_at(start, SECOND)
        output = look(network, photo, crop, MIRROR)
    start = bounds(output, crop, start)
    if box is None and not shows_somebody(output):
        return Detections((height, width))

    crops = [crop_at(start, ratio, turn) for ratio, turn in LOOKS]
    looks = [(crop, look(network, photo, crop, MIRROR)) for crop in crops]
    points = points_of(looks)
    confidence = points.visible / (1.0 + (points.sigma / (SPREAD * start.extent)) ** 2)
    half = start.extent / 2
    person = Person(
        box=np.concatenate([start.centre - half, start.centre + half]),
        score=float(start.score),
        keypoints=points.places,
        confidence=confidence.astype(np.float32),
    )
    canvas = canvas_around(crop_at(start, min(ratio for ratio, _ in LOOKS)))
    values = lay(canvas, [(looks, RIM)])
    values = follow_edges(photo, canvas, values, WINDOW * start.extent)
    _, mask = labels_of(values, canvas, (height, width))
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
