"""Batches of rendered heads through grain: random access, shuffled by seed, resumable.

    for batch in load(folder, "train", batch_size=8, seed=0):
        batch["image"]          # (8, views, size, size, 3) uint8

Nothing here imports TensorFlow, or JAX beyond what grain does.
"""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

PICTURES = ("image", "mask", "parsing")
PER_VIEW = ("K", "R", "t", "landmarks2d", "visible", *PICTURES)


class _Undecoded(tfds.decode.SkipDecoding):
    """PNG files as they are; tfds's own does not know sequences without TensorFlow."""

    def decode_batch_example_np(self, serialized_example):
        return list(serialized_example)


class PictureSource:
    """Examples, or with `single` each view by itself, decoded from a TFDS data source.

    A random-access source for grain; only the pictures asked for are decoded.
    """

    def __init__(self, folder: str | os.PathLike, split: str, single: bool):
        builder: Any = tfds.builder_from_directory(os.fspath(folder))
        skip = {name: _Undecoded() for name in PICTURES}
        self.source = builder.as_data_source(split=split, decoders=skip)
        self.views = builder.info.features["K"].shape[0]
        self.single = single

    def __len__(self) -> int:
        return len(self.source) * (self.views if self.single else 1)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        view = slice(None)
        if self.single:
            index, view = divmod(int(index), self.views)
        example: dict[str, Any] = dict(self.source[int(index)])
        for name in PER_VIEW:
            value = example[name]
            if name not in PICTURES:
                example[name] = np.asarray(value)[view]
            elif self.single:
                example[name] = decode_png(value[view])
            else:
                example[name] = np.stack([decode_png(png) for png in value])
        example["mask"] = example["mask"] > 0
        return {name: np.asarray(value) for name, value in example.items()}

    def __repr__(self) -> str:
        return f"PictureSource({self.source!r}, single={self.single})"


def decode_png(png: bytes) -> np.ndarray:
    """uint8 (h, w, 3) or (h, w) of a PNG file."""
    from PIL import Image

    return np.array(Image.open(io.BytesIO(png)))


def load(
    folder: str | os.PathLike,
    split: str = "train",
    batch_size: int = 8,
    *,
    seed: int | None = 0,
    epochs: int | None = None,
    single: bool = False,
    workers: int = 0,
):
    """A grain dataset of batches; iterate over it.

    Args:
        folder: of a built data set (what `build` returns).
        split: train, validation, test, or a slice such as `train[:50%]`.
        batch_size: examples a batch (B); the last, smaller batch is left out.
        seed: of the order, another in every epoch; None keeps the order of identities.
        epochs: passes over the split; None goes on for ever.
        single: batches of single pictures instead of all V views of an example: leaves that have
            a V axis lose it, and B counts pictures.
        workers: processes that decode; 0 decodes in threads of this one.

    Returns:
        a `grain.IterDataset` of dicts of NumPy arrays (V views, S pixels):
        image (B, V, S, S, 3) uint8; mask (B, V, S, S) bool; parsing (B, V, S, S) uint8;
        K, R (B, V, 3, 3), t (B, V, 3), landmarks2d (B, V, 68, 2) float32; visible (B, V, 68) bool;
        landmarks3d (B, 68, 3), identity (B, k), expression (B, e), albedo (B, 29), hair (B, 16),
        lighting (B, 9, 3) float32; identity_seed, expression_index (B,) int64.
        Its iterator has `get_state` and `set_state`, which resume exactly, and `close`, which ends
        worker processes before the program does.
    """
    import grain

    dataset = grain.MapDataset.source(PictureSource(folder, split, single))
    if seed is not None:
        dataset = dataset.shuffle(seed=seed)
    dataset = dataset.repeat(epochs).batch(batch_size, drop_remainder=True).to_iter_dataset()
    if workers > 0:
        _parse_flags()
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return dataset


def _parse_flags() -> None:
    """Grain's processes read absl flags, which only absl's own main functions parse."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
