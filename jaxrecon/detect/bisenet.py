"""Face parsing by imported BiSeNet weights (`jaxrecon import-checkpoint --network bisenet`).

The network was trained on the squares of CelebA-HQ, upright: four times the distance of the eyes,
or 3.6 times that of eyes and mouth, around a point just below the eyes. Given a detector of faces,
it sees such a square around the best one; else the whole picture. Its 19 classes become ours by
`parsing_labels`.
"""

from __future__ import annotations

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from jaxrecon.detect.detections import Detections, Detector, Face
from jaxrecon.detect.parsing_labels import ORDERS, face_labels_of
from jaxrecon.errors import InputError
from jaxrecon.interop.weights import config_from_dict, load_weights
from jaxrecon.models.bisenet import BiSeNet, BiSeNetConfig
from jaxrecon.models.resnet import IMAGE_MEAN, normalise_image
from jaxrecon.types import FACE_LABELS

SIDE = 512
"""Pixels of the square that the network sees."""
_REMEDY = "make them with jaxrecon import-checkpoint 79999_iter.pth --network bisenet --out NAME"


def bisenet_detector(weights: str | pathlib.Path, faces: Detector | None = None) -> Detector:
    """A detector of face parsing, and of the mask of what is not background.

    Args:
        weights: NAME of NAME.safetensors and NAME.json that the import wrote.
        faces: where to look, by its best face; what it finds is kept. None: the whole picture.

    Raises:
        InputError: the weights are absent, damaged, or another network's.
    """
    variables, header = load_weights(weights)
    if header.get("network") != "bisenet":
        raise InputError(f"{weights}: no weights of BiSeNet", "imported ones", _REMEDY)
    config = config_from_dict(BiSeNetConfig, header.get("config"), f"{weights}: config")
    if config.heads.classes != len(ORDERS["bisenet"]):
        raise InputError(
            f"{weights}: {config.heads.classes} classes",
            f"the {len(ORDERS['bisenet'])} of face-parsing.PyTorch",
            _REMEDY,
        )
    network, table = BiSeNet(config), face_labels_of("bisenet")
    name = pathlib.Path(weights).name.removesuffix(".safetensors")

    @jax.jit
    def classes(variables, rgb):
        final, *_ = network.apply(variables, normalise_image(rgb)[None])
        return jnp.argmax(final[0], axis=-1).astype(jnp.uint8)

    def detect(image: UInt8[np.ndarray, "h w 3"]) -> Detections:
        found = Detections(image.shape[:2]) if faces is None else faces(image)
        if faces is not None and found.face is None:
            return found
        square = whole(found.size) if found.face is None else square_of(found.face, found.size)
        seen = np.float32(1 / 255) * cut(image, square)
        labels = table[np.asarray(classes(variables, seen))]
        parsing = paste(labels, square, found.size)
        source = f"BiSeNet ({name})"
        return dataclasses.replace(
            found,
            parsing=parsing,
            mask=(parsing != FACE_LABELS.index("background")).astype(np.float32),
            sources={**found.sources, "parsing": source, "mask": source},
        )

    return detect


def square_of(face: Face, size: tuple[int, int]) -> tuple[int, int, int]:
    """(left, top, side) in pixels of CelebA-HQ's square around a face, upright.

    By eyes and mouth where they are known, else by the box of a face's landmarks.
    """
    if face.landmarks is not None:
        p = face.landmarks.astype(np.float64)
        right, left, mouth = p[36:42].mean(0), p[42:48].mean(0), 0.5 * (p[48] + p[54])
    elif face.five is not None:
        p = face.five.astype(np.float64)
        right, left, mouth = p[0], p[1], 0.5 * (p[3] + p[4])
    else:  # of an average face, seen from the front: eyes 0.29 of the box's side apart
        centre, unit = (face.box[:2] + face.box[2:]) / 2, 0.29 * (face.box[2] - face.box[0])
        eyes = centre - (0.0, 0.65 * unit)
        right, left = eyes - (unit / 2, 0.0), eyes + (unit / 2, 0.0)
        mouth = eyes + (0.0, 1.1 * unit)
    eyes = (right + left) / 2
    down = float(np.linalg.norm(mouth - eyes))
    side = max(4 * float(np.linalg.norm(left - right)), 3.6 * down)
    side = round(min(max(side, 16), 2 * max(size)))
    corner = eyes + 0.1 * (mouth - eyes) - side / 2
    return round(float(corner[0])), round(float(corner[1])), side


def whole(size: tuple[int, int]) -> tuple[int, int, int]:
    """(left, top, side) of the smallest square around a picture, which lies in its middle."""
    side = max(size)
    return -((side - size[1]) // 2), -((side - size[0]) // 2), side


def cut(
    image: UInt8[np.ndarray, "h w 3"], square: tuple[int, int, int]
) -> Float[np.ndarray, "s s 3"]:
    """The square (left, top, side) of a picture at the network's size, float32, 0 to 255.

    Beyond the picture it has the mean colour, which the network sees as 0.
    """
    from PIL import Image

    left, top, side = square
    x0, y0, x1, y1 = _common(square, image.shape[:2])
    canvas = np.empty((side, side, 3), np.uint8)
    canvas[:] = np.round(255 * np.array(IMAGE_MEAN)).astype(np.uint8)
    canvas[y0 - top : y1 - top, x0 - left : x1 - left] = image[y0:y1, x0:x1]
    seen = Image.fromarray(canvas).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(seen, np.float32)


def paste(
    labels: UInt8[np.ndarray, "s s"], square: tuple[int, int, int], size: tuple[int, int]
) -> UInt8[np.ndarray, "h w"]:
    """Labels of a square (left, top, side) in a picture of (height, width); background outside.

    Each label is resized like a picture, and the largest share wins: edges stay smooth.
    """
    from PIL import Image

    out = np.full(size, FACE_LABELS.index("background"), np.uint8)
    left, top, side = square
    x0, y0, x1, y1 = _common(square, size)
    if x1 <= x0 or y1 <= y0:
        return out
    zoom = len(labels) / side
    box = (zoom * (x0 - left), zoom * (y0 - top), zoom * (x1 - left), zoom * (y1 - top))
    best = np.full((y1 - y0, x1 - x0), -1, np.float32)
    for label in np.unique(labels):
        one = Image.fromarray((labels == label).astype(np.float32))
        share = np.asarray(one.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=box))
        out[y0:y1, x0:x1] = np.where(share > best, label, out[y0:y1, x0:x1])
        best = np.maximum(best, share)
    return out


def _common(square: tuple[int, int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of what a square and a picture have in common."""
    left, top, side = square
    (x0, x1), (y0, y1) = (
        (min(max(low, 0), n), min(max(low + side, 0), n))
        for low, n in ((left, size[1]), (top, size[0]))
    )
    return x0, y0, x1, y1
