"""Shards of people; an interrupted run goes on with the files that are missing."""

from __future__ import annotations

import os
import pathlib
import sys
import time
from typing import Any

from data_pipelines.detector_bodies.studio import BodiesConfig, Studio
from data_pipelines.detector_shards import (
    check_span,
    has_shard,
    save_shard,
    seeds_of,
    settle_recipe,
    sha256,
    shard_paths,
)

RECIPE = 1
"""Raised with every change of what an example contains, so that old shards are not mixed in."""


def recipe_of(config: BodiesConfig) -> dict[str, Any]:
    """What an example looks like, whatever the number of examples.

    Raises:
        InputError: a file of the configuration is absent.
    """
    return {
        "recipe": RECIPE,
        "model_sha256": sha256(config.model),
        "clothes_sha256": sha256(config.clothes) if config.clothes else None,
        **{k: getattr(config, k) for k in ("size", "seed", "supersampling")},
    }


def render_shards(
    studio: Studio, folder: str | os.PathLike, split: str, count: int, first: int = 0
) -> int:
    """Write the shards that a folder lacks: image (n, S, S, 4) uint8 straight RGBA, keypoints
    (n, 25, 2) float32 pixels, visible (n, 25) bool, seed (n,) int64. Tells on stderr how far it
    is.

    Args:
        studio: of `make_studio`.
        folder: gets SPLIT/000000.npz and so on, and SPLIT/recipe.json.
        split: one of `morphable_heads.examples.SPLITS`.
        count: examples, a multiple of 64 or a last shard that is smaller.
        first: number of the first example, a multiple of 64: so that several processes share a
            split.

    Returns:
        the number of examples rendered now.

    Raises:
        InputError: another split, no examples, too many, `first` within a file, or the folder
            holds shards of something else.
    """
    check_span(split, first, count)
    folder = pathlib.Path(folder) / split
    folder.mkdir(parents=True, exist_ok=True)
    settle_recipe(folder, recipe_of(studio.config))
    spans = [(path, seeds_of(split, span)) for path, span in shard_paths(folder, first, count)]
    todo = [(path, seeds) for path, seeds in spans if not has_shard(path, seeds)]
    total, done, start = sum(len(seeds) for _, seeds in todo), 0, time.monotonic()
    for path, seeds in todo:
        save_shard(path, [studio.example(int(seed)) for seed in seeds])
        done += len(seeds)
        pace = (time.monotonic() - start) / done
        left = int(pace * (total - done))
        print(
            f"rendered {done} of {total}, {pace:.2f} s an example, "
            f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left",
            file=sys.stderr,
            flush=True,
        )
    return done
