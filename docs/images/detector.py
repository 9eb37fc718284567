"""The pictures of docs/how-to/detections.md: what our networks see in photographs.

python docs/images/detector.py PHOTO... --out docs/images
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile

import numpy as np
from PIL import Image

from jaxrecon.detect.own import face_detector, person_detector
from jaxrecon.images import read_image
from jaxrecon.pipelines.detections_drawing import write_detections

HEIGHT = 420
"""Of every picture in a row, pixels."""


def row(photos: list[pathlib.Path], detector, folder: pathlib.Path) -> Image.Image:
    """What a detector sees in photographs, side by side."""
    pictures = []
    for photo in photos:
        colour, _ = read_image(photo)
        image = np.round(255 * colour).astype(np.uint8)
        path = write_detections(folder / f"{photo.stem}.png", image, detector(image))
        picture = Image.open(path).convert("RGB")
        width = round(picture.width * HEIGHT / picture.height)
        pictures.append(picture.resize((width, HEIGHT), Image.Resampling.LANCZOS))
    whole = Image.new("RGB", (sum(p.width for p in pictures), HEIGHT), (255, 255, 255))
    left = 0
    for picture in pictures:
        whole.paste(picture, (left, 0))
        left += picture.width
    return whole


def main() -> None:
    """One row for each network."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("photos", nargs="+", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    for name, detector in (("face", face_detector()), ("person", person_detector())):
        with tempfile.TemporaryDirectory() as folder:
            picture = row(args.photos, detector, pathlib.Path(folder))
        colours = picture.quantize(128, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        colours.save(args.out / f"detector_{name}.png", optimize=True)


if __name__ == "__main__":
    main()
