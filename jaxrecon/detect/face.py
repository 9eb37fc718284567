"""Faces by our own network: found on a pyramid, then looked at upright and closer.

The first look, at the size that the network knows best, tells how the head is turned in the plane;
two more have the face upright and larger, and the last gives the landmarks. Parsing takes the hair,
neck and clothes from a wider crop and what is inside the face from the closest one.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, UInt8

from jaxrecon.detect.crops import Crop, cut, feather, paste
from jaxrecon.detect.detections import Detections, Face
from jaxrecon.detect.finding import (
    ENOUGH,
    Candidate,
    Network,
    distinct,
    find,
    in_box,
    look,
    read_grid,
    run_grid,
)
from jaxrecon.detect.network import Output
from jaxrecon.types import LANDMARKS_MIRRORED

SIDES = (64, 128, 256, 512, 1024)
"""Of the levels that faces are sought on, pixels."""
CLOSE = 1.35
"""Size of the face in the closer crop, over the reference."""
WIDE = 0.75
"""The same in the wider one."""
EYES_TO_MOUTH = 1.3
"""Distance of the eyes' outer corners over that from the eyes to the mouth, seen from the front,
of ICT-FaceKit's mean."""
BOX = 2.2
"""Side of the reported box over the distance of the eyes' outer corners."""
DOUBTFUL = 0.2
"""A face below `ENOUGH` but above this is reported where there is no other."""
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
    kept = distinct([c for c, _, _ in looked])
    best = [one for one in looked if any(one[0] is c for c in kept)]
    best.sort(key=lambda one: -one[0].score)
    sure = [one for one in best if one[0].score >= ENOUGH]
    chosen = sure or [one for one in best[:1] if one[0].score >= DOUBTFUL]
    # The largest of those that surely are faces comes first: it is whom the picture shows.
    chosen.sort(key=lambda one: -one[0].extent * one[0].score)
    faces = tuple(_face(candidate, crop, output) for candidate, crop, output in chosen)
    size = (photo.shape[0], photo.shape[1])
    if not faces:
        return Detections(size)
    parsing, mask = parse(network, photo, *chosen[0])
    sources = {part: SOURCE for part in ("landmarks", "parsing", "mask")}
    return Detections(
        size,
        faces=faces,
        parsing=parsing,
        mask=mask,
        sources=sources,
    )


def crop_of(network: Network, candidate: Candidate, ratio: float, angle: float) -> Crop:
    """The crop in which a candidate has `ratio` times the reference size."""
    size = network.config.size
    side = size * candidate.extent / (ratio * network.config.reference)
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
) -> tuple[Candidate, Crop, Output]:
    """The candidate with its place, size and score as the closer looks see them, and the last
    look.
    """
    score, angle = candidate.score, 0.0
    crop = crop_of(network, candidate, 1.0, angle)
    output = look(network, photo, crop, MIRROR)
    for _ in range(2):
        centre, extent, turn = pose_in_plane(output.points.astype(np.float64))
        scale = crop.side / crop.size
        # A wild first look must not lead far away.
        extent = float(np.clip(extent * scale, candidate.extent / 1.8, candidate.extent * 1.8))
        angle += turn
        moved = Candidate(crop.to_photo(centre), extent, score)
        crop = crop_of(network, moved, CLOSE, angle)
        output = look(network, photo, crop, MIRROR)
    if not given:
        middle = crop_of(network, moved, 1.0, angle)
        score = _score(network, photo, middle)
    return Candidate(moved.centre, moved.extent, score), crop, output


def _score(network: Network, photo: np.ndarray, crop: Crop) -> float:
    """How surely a face of the reference size is in the middle of an upright crop."""
    grid = np.asarray(run_grid(network.config, network.variables, cut(photo, crop)[None]))[0]
    found = read_grid(network.config, grid, crop)
    near = [c.score for c in found if np.linalg.norm(c.centre - crop.centre) < 0.15 * crop.side]
    return max(near, default=0.0)


def _face(candidate: Candidate, crop: Crop, output: Output) -> Face:
    scale = crop.side / crop.size
    sigma = np.exp(output.log_spread) * scale
    confidence = 1.0 / (1.0 + (sigma / (SPREAD * candidate.extent)) ** 2)
    half = BOX * candidate.extent / 2
    return Face(
        box=np.concatenate([candidate.centre - half, candidate.centre + half]),
        score=float(candidate.score),
        landmarks=crop.to_photo(output.points.astype(np.float64)).astype(np.float32),
        sigma=sigma.astype(np.float32),
        visible=output.visible.astype(np.float32),
        confidence=confidence.astype(np.float32),
    )


def parse(
    network: Network, photo: np.ndarray, candidate: Candidate, crop: Crop, output: Output
) -> tuple[UInt8[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """(most probable label, probability of not being background) at every pixel of the photograph;
    background where no crop reaches.

    Args:
        network: of faces.
        photo: RGB.
        candidate, crop, output: of the closest look.
    """
    shape = (photo.shape[0], photo.shape[1])
    wide = crop_of(network, candidate, WIDE, crop.angle)
    looks = [(wide, look(network, photo, wide, MIRROR), 0.02), (crop, output, 0.15)]
    layers = []
    for where, answer, margin in looks:
        weight = feather(where.size, margin)[..., None]
        layers.append((answer.labels * weight, where, paste(weight, where, shape)))
    labels, best = np.zeros(shape, np.uint8), np.ones(shape, np.float32)
    mask = np.zeros(shape, np.float32)
    # One label after another: all at once would take gigabytes of a large photograph.
    for label in range(network.config.labels):
        plane = np.full(shape, float(label == 0), np.float32)
        for values, where, (alpha, part) in layers:
            own, _ = paste(values[..., label : label + 1], where, shape)
            plane[part] = own[..., 0] + (1.0 - alpha[..., 0]) * plane[part]
        if label == 0:
            best, mask = plane, np.clip(1.0 - plane, 0.0, 1.0)
            continue
        higher = plane > best
        labels[higher] = label
        best = np.where(higher, plane, best)
    return labels, mask
