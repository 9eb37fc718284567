"""A small, valid views folder to load, and to spoil: three views of 16 x 12 pixels with alpha,
cameras and landmarks.
"""

import json
import pathlib

import numpy as np
from PIL import Image

K = [[50.0, 0.0, 8.0], [0.0, 50.0, 6.0], [0.0, 0.0, 1.0]]
R = [[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, -1.0]]
HEIGHT, WIDTH = 12, 16


def rgba(rng, height=HEIGHT, width=WIDTH):
    """Noise, opaque in 48 pixels."""
    pixels = rng.integers(0, 256, (height, width, 4), np.uint8)
    pixels[..., 3] = 0
    pixels[3:9, 4:12, 3] = 255
    return pixels


def entry(i, **changes):
    """A view of cameras.json."""
    return {"file": f"view_{i:03d}.png", "K": K, "R": R, "t": [0, 1, 100 + i], **changes}


def write_cameras(folder: pathlib.Path, views, **changes):
    """cameras.json of these views."""
    document = {"width": WIDTH, "height": HEIGHT, "units": "millimetres", "views": views, **changes}
    (folder / "cameras.json").write_text(json.dumps(document))


def landmarks(count=3, **changes):
    """What landmarks.json holds: 68 points inside each picture."""
    points = np.random.default_rng(1).uniform(0, 12, (count, 68, 2)).tolist()
    return {
        "landmarks2d": points,
        "visible": [[True] * 68] * count,
        "valid": [True] * 68,
        **changes,
    }


def write_views(folder: pathlib.Path, rng) -> pathlib.Path:
    """The whole folder, with a ground truth of the third view that is no mesh."""
    for i in range(3):
        Image.fromarray(rgba(rng)).save(folder / f"view_{i:03d}.png")
    looks = ({"expression": 0}, {"expression": 1}, {"expression": 0, "gt": "gt.ply"})
    write_cameras(folder, [entry(i, **more) for i, more in enumerate(looks)])
    (folder / "landmarks.json").write_text(json.dumps(landmarks()))
    (folder / "gt.ply").write_text("ply")
    return folder


def edit(path: pathlib.Path, change):
    """Apply `change` to the object in a JSON file, in place."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
