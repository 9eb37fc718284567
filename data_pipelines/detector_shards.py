"""Rendered examples of a detector in files of 64, `FOLDER/SPLIT/000000.npz` and so on.

An interrupted run goes on with the files that are missing; files that are broken, too small or of
other examples are rendered again, and shards of two recipes do not mix.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Int

from data_pipelines.morphable_heads.examples import SEEDS_PER_SPLIT, SPLITS
from jaxrecon.errors import FAULTS, InputError

SHARD = 64
"""Examples of a file."""
RECIPE_FILE = "recipe.json"
"""Beside the shards of a split: what they were rendered with."""


def check_span(split: str, first: int, count: int) -> None:
    """Raise `InputError` unless examples `first` to `first + count` of a split can be shards."""
    if split not in SPLITS:
        raise InputError(f"split {split}", f"one of {', '.join(SPLITS)}", "name one")
    if not 1 <= count <= SEEDS_PER_SPLIT - first or first < 0:
        raise InputError(
            f"examples {first} to {first + count}",
            f"1 to {SEEDS_PER_SPLIT} of a split",
            "change --first or --count",
        )
    if first % SHARD:
        raise InputError(f"first example {first}", f"a multiple of {SHARD}", "shards start there")


def seeds_of(split: str, span: range) -> Int[np.ndarray, " n"]:
    """int64 seeds of a span of examples: other splits have others."""
    return SPLITS.index(split) * SEEDS_PER_SPLIT + np.asarray(span, np.int64)


def shard_paths(folder: pathlib.Path, first: int, count: int) -> list[tuple[pathlib.Path, range]]:
    """Every shard's file in the folder of a split, with the examples in it; the last may be
    smaller.
    """
    last = first + count
    return [
        (folder / f"{start // SHARD:06d}.npz", range(start, min(start + SHARD, last)))
        for start in range(first, last, SHARD)
    ]


def has_shard(path: pathlib.Path, seeds: Int[np.ndarray, " n"]) -> bool:
    """Whether a file holds a shard that begins with these examples."""
    try:
        # np.load leaves a file that it cannot read open.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            return bool(np.array_equal(file["seed"][: len(seeds)], seeds))
    except FAULTS:
        raise
    except Exception:  # absent, or damaged: OSError, zlib.error, tokenize.TokenError, ...
        return False


def sha256(path: str | os.PathLike) -> str:
    """Of a file's bytes, for recipes.

    Raises:
        InputError: there is no such file.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", "a file") from error


def settle_recipe(folder: pathlib.Path, recipe: dict[str, Any]) -> None:
    """Note what the shards of a split's folder are rendered with, where nothing is noted.

    Raises:
        InputError: they were rendered with something else.
    """
    path, text = folder / RECIPE_FILE, json.dumps(recipe)
    if path.is_file():
        if (found := path.read_text()) != text:
            raise InputError(
                f"{path}: shards of {found}",
                f"shards of {text}",
                "name another --out, or remove the old shards",
            )
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def save_shard(path: pathlib.Path, examples: list[dict[str, Any]], compress: bool = True) -> None:
    """Examples stacked in one .npz, by way of a temporary name."""
    arrays: dict[str, Any] = {k: np.stack([e[k] for e in examples]) for k in examples[0]}
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.npz")
    (np.savez_compressed if compress else np.savez)(temporary, **arrays)
    os.replace(temporary, path)
