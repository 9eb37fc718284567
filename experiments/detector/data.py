"""Rendered people from their shards, in memory."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Float

from jaxrecon.errors import InputError

NEEDED = {
    "face": ("image", "labels", "landmarks", "visible", "seed"),
    "person": ("image", "keypoints", "visible", "seed"),
}
"""Arrays of a shard that training reads."""
BACKGROUND_SIDE = 256
"""Pixels of the squares that backgrounds are cut to."""
MOST_BACKGROUNDS = 1000
"""Photographs that are kept in memory, 0.8 MB each."""


def load_split(folder: pathlib.Path, subject: str, limit: int | None = None) -> dict:
    """All examples of a split: image (n, s, s, 4) uint8, labels (n, s, s) uint8 (faces), points
    (n, k, 2) float32 pixels, visible (n, k), seed (n,).

    Args:
        folder: of shards of `data_pipelines.detector_faces` or `detector_bodies`.
        subject: `face` or `person`.
        limit: no more than these.

    Raises:
        InputError: no shards, or shards of something else.
    """
    files = sorted(folder.glob("[0-9]*.npz"))
    if not files:
        raise InputError(
            f"{folder}: no shards", f"of data_pipelines.detector_{subject}", "make them"
        )
    parts: list[dict] = []
    count = 0
    for file in files:
        with np.load(file, allow_pickle=False) as shard:
            missing = [name for name in NEEDED[subject] if name not in shard.files]
            if missing:
                raise InputError(f"{file}: no {', '.join(missing)}", f"a shard of {subject}s", "")
            part = {name: shard[name] for name in NEEDED[subject]}
        parts.append(part)
        count += len(part["image"])
        if limit is not None and count >= limit:
            break
    data = {}
    for name in NEEDED[subject]:
        # One array after another, so that little is held twice.
        data[name] = np.concatenate([part.pop(name) for part in parts])[:limit]
    data["points"] = data.pop("landmarks" if subject == "face" else "keypoints")
    return data


def load_backgrounds(folder: pathlib.Path) -> Float[np.ndarray, "m s s 3"]:
    """The middle squares of a folder's photographs, float32 RGB in [0, 1].

    Raises:
        InputError: none, or one that cannot be read.
    """
    from PIL import Image

    from jaxrecon.images import SUFFIXES, read_image

    files = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES)[:MOST_BACKGROUNDS]
    if not files:
        raise InputError(f"{folder}: no photographs", "files that end in " + ", ".join(SUFFIXES))
    squares = []
    for file in files:
        colour, _ = read_image(file)
        side = min(colour.shape[:2])
        top, left = ((n - side) // 2 for n in colour.shape[:2])
        square = np.round(255 * colour[top : top + side, left : left + side]).astype(np.uint8)
        small = Image.fromarray(square).resize((BACKGROUND_SIDE,) * 2, Image.Resampling.BOX)
        squares.append(np.asarray(small, np.float32) / 255)
    return np.stack(squares)


def batches(data: dict, batch: int, seed: int, start: int) -> Iterator[dict]:
    """Endless batches from step `start` on, the same for the same start; examples are drawn without
    replacement within an epoch, and each carries a key of its own.
    """
    count = len(data["image"])
    if count < batch:
        raise InputError(f"{count} examples", f"at least a batch of {batch}", "render more")
    steps = count // batch
    step, key = start, jax.random.fold_in(jax.random.key(seed), 1)
    while True:
        epoch, place = divmod(step, steps)
        order = np.random.default_rng([seed, epoch]).permutation(count)
        chosen = order[place * batch : (place + 1) * batch]
        keys = jax.random.split(jax.random.fold_in(key, step), batch)
        arrays = {name: value[chosen] for name, value in data.items() if name != "seed"}
        yield arrays | {"key": keys}
        step += 1
