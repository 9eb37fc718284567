"""Faces by our own network: found on a pyramid, then looked at upright and closer.

The first look, at the size that the network knows best, tells how the head is turned in the plane;
two more have the face upright and larger. Then several together give the landmarks and what is
inside the face, and wider ones the hair, neck and clothes.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float, UInt8

from jaxrecon.detect.crops import Crop, cut
from jaxrecon.detect.detections import Detections, Face
from jaxrecon.detect.finding import (
    Candidate,
    Network,
    distinct,
    find,
    in_box,
    look,
    read_grid,
    run_grid,
)
from jaxrecon.detect.looks import canvas_around, follow_edges, labels_of, lay, points_of
from jaxrecon.detect.network import Output
from jaxrecon.types import LANDMARKS_MIRRORED

SIDES = (64, 128, 256, 512, 1024)
"""Of the levels that faces are sought on, pixels."""
CLOSE = 1.35
"""Size of the face in the closer crop, over the reference."""
CLOSE_LOOKS = ((1.35, -8.0), (1.35, 8.0), (1.1, -8.0), (1.1, 8.0), (1.7, -6.0), (1.7, 6.0))
"""The last looks at a face: (size over the reference, degrees that the crop is turned)."""
WIDE_LOOKS = ((0.75, -8.0), (0.75, 8.0), (0.95, 0.0))
"""Those at what is around it."""
FAR_LOOKS = ((0.55, 0.0),)
"""Those at what is further away."""
RIMS = 0.02, 0.05, 0.15
"""Share of the side of far, wide and close looks over which their labels fade at the rim."""
FINENESS = 3.1
"""Pixels that labels are laid on for one of a far look: as many as the closest look has."""
WINDOWS = 0.2, 0.06
"""Half the sides of the windows in which mask and labels follow edges, over the distance of the
eyes' outer corners."""
EYES_TO_MOUTH = 1.3
"""Distance of the eyes' outer corners over that from the eyes to the mouth, seen from the front,
of ICT-FaceKit's mean."""
BOX = 2.2
"""Side of the reported box over the distance of the eyes' outer corners."""
SURE = 0.8
"""Score of a closer look; of 256 pictures of validation people faces had 0.89 and more, the three
things beside them that are none 0.61 and less.
"""
DOUBTFUL = 0.2
"""A face below `SURE` but above this is reported where there is no other."""
SOURCE = "our own face network"
"""What `Detections.sources` says."""
SPREAD = 0.04
"""Standard deviation, of the distance of the eyes' outer corners, that halves the confidence."""
MOST = 8
"""Faces that are looked at."""
MIRROR = np.array(LANDMARKS_MIRRORED)


def detect_faces(
    network: Network,
    photo: UInt8[np.ndarray, "h w 3"],
    box: Float[np.ndarray, "4"] | None = None,
) -> Detections:
    """Faces of a photograph, best first, and the parsing of the best.

    Args:
        network: of `own.load_network("face")`.
        photo: upright RGB.
        box: [left, top, right, bottom] of the one face to look at, as in `Face.box`; None finds
            them.

    Returns:
        faces with landmarks, sigma, visible and confidence (of the place, apart from whether it
        is seen); parsing and mask (what is not background) of the best: head and shoulders, some
        six eye distances wide; what lies beyond counts as background. No faces where none is found.

    Raises:
        InputError: a box that is none, or outside of the photograph.
    """
    if box is None:
        candidates = find(network, photo, SIDES)[:MOST]
    else:
        candidates = [in_box(box, photo.shape, BOX)]
    looked = [_look_closer(network, photo, c, given=box is not None) for c in candidates]
    # Looked at closely, two candidates may turn out to be one face.
    best = distinct(looked)
    sure = [one for one in best if one.score >= SURE]
    chosen = sure or [one for one in best[:1] if one.score >= DOUBTFUL]
    # The largest of those that surely are faces comes first: it is whom the picture shows.
    chosen.sort(key=lambda one: -one.extent * one.score)
    size = (photo.shape[0], photo.shape[1])
    if not chosen:
        return Detections(size)
    close = [_looks(network, photo, one, CLOSE_LOOKS) for one in chosen]
    faces = tuple(_face(one, looks) for one, looks in zip(chosen, close, strict=True))
    parsing, mask = parse(network, photo, chosen[0], close[0])
    sources = {part: SOURCE for part in ("landmarks", "parsing", "mask")}
    return Detections(
        size,
        faces=faces,
        parsing=parsing,
        mask=mask,
        sources=sources,
    )


def crop_of(network: Network, candidate: Candidate, ratio: float, turn: float = 0.0) -> Crop:
    """The crop, turned by `turn` degrees from upright, in which a candidate has `ratio` times the
    reference size.
    """
    size = network.config.size
    side = size * candidate.extent / (ratio * network.config.reference)
    angle = candidate.angle + math.radians(turn)
    return Crop(np.asarray(candidate.centre, np.float64), float(side), angle, size)


def pose_in_plane(landmarks: Float[np.ndarray, "68 2"]) -> tuple[np.ndarray, float, float]:
    """(centre, extent, angle) of a face: the middle between eyes and mouth, the distance of the
    eyes' outer corners as from the front, and the roll in radians.

    The line from the eyes to the mouth tells both at any yaw, which shortens the one between the
    eyes.
    """
    eyes, mouth = landmarks[36:48].mean(0), landmarks[48:60].mean(0)
    down = mouth - eyes
    extent = max(
        EYES_TO_MOUTH * float(np.linalg.norm(down)),
        float(np.linalg.norm(landmarks[45] - landmarks[36])),
    )
    return (eyes + mouth) / 2, max(extent, 1e-3), math.atan2(-down[0], down[1])


def _look_closer(
    network: Network, photo: np.ndarray, candidate: Candidate, given: bool
) -> Candidate:
    """The candidate with its place, size, turn and score as two closer looks see them."""
    now = candidate
    for ratio in (1.0, CLOSE):
        crop = crop_of(network, now, ratio)
        output = look(network, photo, crop, MIRROR)
        centre, extent, turn = pose_in_plane(output.points.astype(np.float64))
        # A wild first look must not lead far away.
        extent *= crop.side / crop.size
        extent = float(np.clip(extent, candidate.extent / 1.8, candidate.extent * 1.8))
        now = Candidate(crop.to_photo(centre), extent, candidate.score, now.angle + turn)
    if given:
        return now
    return dataclasses.replace(now, score=_score(network, photo, crop_of(network, now, 1.0)))


def _score(network: Network, photo: np.ndarray, crop: Crop) -> float:
    """How surely a face of the reference size is in the middle of an upright crop."""
    grid = np.asarray(run_grid(network.config, network.variables, cut(photo, crop)[None]))[0]
    found = read_grid(network.config, grid, crop)
    near = [c.score for c in found if np.linalg.norm(c.centre - crop.centre) < 0.15 * crop.side]
    return max(near, default=0.0)


def _looks(
    network: Network,
    photo: np.ndarray,
    candidate: Candidate,
    kinds: tuple[tuple[float, float], ...],
) -> list[tuple[Crop, Output]]:
    """Looks of some kinds (size over the reference, degrees) at a candidate."""
    crops = [crop_of(network, candidate, ratio, turn) for ratio, turn in kinds]
    return [(crop, look(network, photo, crop, MIRROR)) for crop in crops]


def _face(candidate: Candidate, looks: list[tuple[Crop, Output]]) -> Face:
    points = points_of(looks)
    confidence = 1.0 / (1.0 + (points.sigma / (SPREAD * candidate.extent)) ** 2)
    half = BOX * candidate.extent / 2
    return Face(
        box=np.concatenate([candidate.centre - half, candidate.centre + half]),
        score=float(candidate.score),
        landmarks=points.places,
        sigma=points.sigma,
        visible=points.visible,
        confidence=confidence.astype(np.float32),
    )


def parse(
    network: Network,
    photo: np.ndarray,
    candidate: Candidate,
    close: list[tuple[Crop, Output]],
) -> tuple[UInt8[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """(most probable label, probability of not being background) at every pixel of the photograph;
    background where no look reaches.

    Args:
        network: of faces.
        photo: RGB.
        candidate: the face.
        close: the last looks at it.
    """
    far = _looks(network, photo, candidate, FAR_LOOKS)
    wide = _looks(network, photo, candidate, WIDE_LOOKS)
    widest = crop_of(network, candidate, min(ratio for ratio, _ in FAR_LOOKS))
    canvas = canvas_around(widest, FINENESS)
    layers = list(zip((far, wide, close), RIMS, strict=True))
    reaches = (ratio * candidate.extent for ratio in WINDOWS)
    values = follow_edges(photo, canvas, lay(canvas, layers), *reaches)
    return labels_of(values, canvas, (photo.shape[0], photo.shape[1]))
