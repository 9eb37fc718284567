"""Examples in files of 64; an interrupted run goes on with the files that are missing."""

from __future__ import annotations

import os
import pathlib
import sys
import time
from typing import Any

import numpy as np

from data_pipelines.detector_bodies.studio import Studio
from jaxrecon.errors import InputError

SPLITS = ("train", "validation", "test")
SEEDS_PER_SPLIT = 1_000_000
"""Seeds of a split: train has 0 to 999,999, validation the next million, test the third."""
SHARD = 64
"""Examples a file."""


def shard_path(folder: pathlib.Path, split: str, index: int) -> pathlib.Path:
    """The file of a split's examples from 64 * index on."""
    return folder / split / f"{index:06d}.npz"


def render_shards(
    studio: Studio, folder: str | os.PathLike, split: str, count: int, first: int = 0
) -> int:
    """Write the shards that a folder lacks: image (n, S, S, 4) uint8 straight RGBA, keypoints
    (n, 25, 2) float32 pixels, visible (n, 25) bool, seed (n,) int64. Tells on stderr how far it
    is.

    Args:
        studio: of `make_studio`.
        folder: gets SPLIT/000000.npz and so on.
        split: one of `SPLITS`.
        count: examples, a multiple of 64 or a last shard that is smaller.
        first: number of the first example, a multiple of 64: so that several processes share a
            split.

    Returns:
        the number of examples rendered now.

    Raises:
        InputError: another split, no examples, or `first` within a file.
    """
    if split not in SPLITS or count < 1 or first < 0 or first % SHARD:
        raise InputError(
            f"split {split!r}, count {count}, first {first}",
            f"one of {', '.join(SPLITS)}, a positive number, and a multiple of {SHARD}",
            "change them",
        )
    if first + count > SEEDS_PER_SPLIT:
        raise InputError(f"{first + count} examples", f"at most {SEEDS_PER_SPLIT}", "fewer")
    folder = pathlib.Path(folder)
    (folder / split).mkdir(parents=True, exist_ok=True)
    starts = range(first, first + count, SHARD)
    todo = [s for s in starts if not shard_path(folder, split, s // SHARD).is_file()]
    offset, done, start = SPLITS.index(split) * SEEDS_PER_SPLIT, 0, time.monotonic()
    for k, number in enumerate(todo):
        length = min(SHARD, first + count - number)
        examples = [studio.example(offset + number + i) for i in range(length)]
        save_shard(shard_path(folder, split, number // SHARD), examples)
        done += length
        pace = (time.monotonic() - start) / done
        left = int(pace * SHARD * (len(todo) - k - 1))
        print(
            f"rendered {done} of {min(len(todo) * SHARD, count)}, {pace:.2f} s an example, "
            f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left",
            file=sys.stderr,
            flush=True,
        )
    return done


def save_shard(path: pathlib.Path, examples: list[dict[str, np.ndarray]]) -> None:
    """Examples stacked in one .npz, by way of a temporary name."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.npz")
    arrays: dict[str, Any] = {k: np.stack([e[k] for e in examples]) for k in examples[0]}
    np.savez_compressed(temporary, **arrays)
    os.replace(temporary, path)


def read_shard(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a shard."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
