"""What detectors found, drawn over the photograph: parsing, mask, landmarks, keypoints."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from jaxrecon.detect.detections import Detections
from jaxrecon.pipelines import output
from jaxrecon.pipelines import views_drawing as drawing
from jaxrecon.pipelines.detections import LEAST_WEIGHT, STRAY, labels_of, landmark_weights
from jaxrecon.types import BODY_25, FACE_LABELS

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

SIDE = 1024
"""Longest side of a picture without its legend, pixels."""
LEGEND = 28
COLOURS: dict[str, drawing.Colour] = {
    "skin": (240, 190, 150), "lips": (220, 40, 70), "brows": (120, 70, 20), "eyes": (40, 120, 240),
    "ears": (240, 140, 40), "hair": (130, 60, 180), "neck": (230, 220, 80), "mouth": (120, 0, 20),
    "clothes": (60, 160, 120),
}  # fmt: skip
"""Of the labels of a parsing; the background has none."""
STRAY_COLOUR = (90, 90, 90)
MASK, SEEN, HIDDEN, BODY = (255, 0, 255), (0, 200, 0), (255, 140, 0), (0, 90, 255)
_TINT = 0.45
_LIMBS = (
    "nose-neck neck-right_shoulder right_shoulder-right_elbow right_elbow-right_wrist "
    "neck-left_shoulder left_shoulder-left_elbow left_elbow-left_wrist neck-mid_hip "
    "mid_hip-right_hip right_hip-right_knee right_knee-right_ankle mid_hip-left_hip "
    "left_hip-left_knee left_knee-left_ankle nose-right_eye right_eye-right_ear nose-left_eye "
    "left_eye-left_ear left_ankle-left_big_toe left_big_toe-left_small_toe left_ankle-left_heel "
    "right_ankle-right_big_toe right_big_toe-right_small_toe right_ankle-right_heel"
)
LIMBS = [
    (BODY_25.index(a), BODY_25.index(b)) for a, b in (limb.split("-") for limb in _LIMBS.split())
]
"""Pairs of keypoints that a line joins."""


def write_detections(
    path: pathlib.Path, image: UInt8[np.ndarray, "h w 3"], found: Detections
) -> pathlib.Path:
    """Draw what was found over the photograph, into a PNG.

    Labels of the parsing are tinted (grey: foreground away from the face, ignored); a magenta line
    is the outline of a person's mask, or of the face's where there is no parsing; landmarks are
    green discs, hidden ones orange rings; keypoints are joined by blue lines. A legend says so.
    """
    from PIL import Image, ImageDraw

    scale = SIDE / max(image.shape[:2])
    height, width = (max(1, round(n * scale)) for n in image.shape[:2])
    fine = _ground(image, found, (drawing.FINE * width, drawing.FINE * height))
    draw = ImageDraw.Draw(fine)
    _draw_people(draw, found, scale)
    _draw_face(draw, found, scale)
    picture = Image.new("RGB", (width, height + LEGEND), (255, 255, 255))
    picture.paste(drawing.smooth(fine))
    _write_legend(ImageDraw.Draw(picture), height, found)
    with output.atomic(path) as temporary:
        picture.save(temporary, format="PNG")
    return path


def _ground(image: np.ndarray, found: Detections, size: tuple[int, int]) -> Image.Image:
    """The photograph at some size, tinted by the parsing or with the mask's outline."""
    from PIL import Image

    picture = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    colours = np.asarray(picture).astype(np.float32)
    if found.parsing is not None:
        labels = Image.fromarray(labels_of(found.parsing)).resize(size, Image.Resampling.NEAREST)
        table = np.zeros((256, 4), np.float32)
        for number, name in enumerate(FACE_LABELS):
            if name in COLOURS:
                table[number] = (*COLOURS[name], _TINT)
        table[STRAY] = (*STRAY_COLOUR, 0.7)
        tint = table[np.asarray(labels)]
        colours += tint[..., 3:] * (tint[..., :3] - colours)
    if found.mask is not None and (found.parsing is None or found.people):
        whole = Image.fromarray(np.where(found.mask >= 0.5, 255, 0).astype(np.uint8))
        inside = np.asarray(whole.resize(size, Image.Resampling.BILINEAR)) > 127
        colours[drawing.outline(inside, 2 * drawing.FINE)] = MASK
    return Image.fromarray(np.round(colours).astype(np.uint8))


def _draw_face(draw: ImageDraw.ImageDraw, found: Detections, scale: float) -> None:
    face = found.face
    if face is None or face.landmarks is None:
        return
    for at, weight in zip(face.landmarks * scale, landmark_weights(face), strict=True):
        seen = weight > 0
        drawing.disc(draw, at, 3.5, SEEN if seen else None, SEEN if seen else HIDDEN)


def _draw_people(draw: ImageDraw.ImageDraw, found: Detections, scale: float) -> None:
    person = found.person
    if person is None or person.keypoints is None:
        return
    sure = np.ones(25) if person.confidence is None else person.confidence
    known = sure >= LEAST_WEIGHT
    points = person.keypoints * scale
    for a, b in LIMBS:
        if known[a] and known[b]:
            drawing.line(draw, [points[a], points[b]], BODY, 3)
    for at in points[known]:
        drawing.disc(draw, at, 5, BODY, (255, 255, 255))


def _write_legend(draw: ImageDraw.ImageDraw, top: int, found: Detections) -> None:
    words: list[tuple[str, drawing.Colour]] = []
    if found.face is not None and found.face.landmarks is not None:
        words += [("disc: landmark", (0, 100, 0)), ("ring: hidden", (170, 80, 0))]
    if found.person is not None and found.person.keypoints is not None:
        words.append(("line: keypoints", BODY))
    if found.parsing is not None:
        there = np.unique(found.parsing)
        names = [name for number, name in enumerate(FACE_LABELS) if number in there]
        words += [(name, _dark(COLOURS[name])) for name in names if name in COLOURS]
    if found.mask is not None and (found.parsing is None or found.people):
        words.append(("outline: mask", (190, 0, 190)))
    if not words:
        words.append(("nothing was found", (170, 0, 0)))
    x = 8.0
    for word, colour in words:
        drawing.text(draw, (x, top + LEGEND / 2), word, colour, 14, "lm")
        x += draw.textlength(word, font=drawing.font(14)) + 16


def _dark(colour: drawing.Colour) -> Any:
    """A colour that can be read on white."""
    factor = min(1.0, 330 / sum(colour))
    return tuple(int(factor * x) for x in colour)
