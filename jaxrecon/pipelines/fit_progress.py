"""Progress of a fit on disk, so that an interrupted one goes on to the same bits.

One `.npz` for each batch of subjects: optimiser state, losses so far and seconds; no pickle,
replaced at once. The file is named by all that decides the result, so that nothing else ever
continues from it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pathlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrecon.pipelines.output import write_bytes

FOLDER = ".fit"
"""Below the output folder; gone when nothing is left to resume."""
_DAMAGED = (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error)


@dataclasses.dataclass(frozen=True)
class Progress:
    """A batch under way; arrays lead with the lanes, one for each subject."""

    state: Any
    """`FitState` of all lanes"""
    history: dict[str, np.ndarray]
    """loss name -> (lanes, steps done)"""
    seconds: dict[str, float]
    """of each stage so far"""

    @property
    def done(self) -> int:
        """Pixel steps done."""
        return next((v.shape[1] for v in self.history.values()), 0)


@dataclasses.dataclass(frozen=True)
class Store:
    """Where a batch keeps its progress."""

    folder: pathlib.Path
    identity: str
    """hash of all that decides the result"""
    subjects: tuple[str, ...]

    @property
    def path(self) -> pathlib.Path:
        """The file."""
        return self.folder / f"{self.identity[:32]}.npz"


class Damaged(Exception):
    """A progress file that cannot be continued from; the message says why."""


def save(store: Store, progress: Progress, start: str) -> None:
    """Write progress whole or not at all.

    Args:
        store: where.
        progress: what.
        start: `digest` of the state that the fit began from.

    Raises:
        InputError: the disk is full or the folder cannot be written.
    """
    about = {
        "identity": store.identity,
        "subjects": store.subjects,
        "start": start,
        "seconds": progress.seconds,
        "history": sorted(progress.history),
    }
    arrays = {f"history/{k}": v for k, v in progress.history.items()}
    arrays |= {f"state/{k}": v for k, v in _leaves(progress.state)}
    store.folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()  # not compressed: it is replaced within seconds
    np.savez(buffer, allow_pickle=False, about=np.array(json.dumps(about)), **arrays)
    write_bytes(store.path, buffer.getvalue())


def load(store: Store, like: Any, start: str) -> Progress | None:
    """The progress of a batch, None where there is none.

    Args:
        store: where.
        like: `FitState` that the fit begins from; gives structure, shapes and dtypes.
        start: `digest` of it.

    Raises:
        Damaged: the file cannot be read, or the fit began from other numbers (another machine).
    """
    if not store.path.exists():
        return None
    try:
        with _opened(store.path) as file:
            about = json.loads(str(file["about"]))
            history = {name: file[f"history/{name}"] for name in about["history"]}
            arrays = {name: file[f"state/{name}"] for name, _ in _leaves(like)}
        identity, began, seconds = about["identity"], about["start"], dict(about["seconds"])
    except _DAMAGED as error:
        raise Damaged(f"it is damaged ({type(error).__name__})") from error
    if identity != store.identity or began != start:
        raise Damaged("it began from other numbers, as on another machine")
    if any(a.shape != x.shape or a.dtype != x.dtype for a, (_, x) in _pairs(arrays, like)):
        raise Damaged("its arrays do not fit")
    leaves = [_restored(a, x) for a, x in zip(arrays.values(), jax.tree.leaves(like), strict=True)]
    return Progress(jax.tree.unflatten(jax.tree.structure(like), leaves), history, seconds)


def drop(path: pathlib.Path) -> None:
    """Remove a progress file, and what a killed run left of its writing."""
    path.unlink(missing_ok=True)
    for half in path.parent.glob(f".{path.stem}.*.tmp{path.suffix}"):
        half.unlink(missing_ok=True)


def subjects_of(path: pathlib.Path) -> tuple[str, ...]:
    """Names of the subjects of a progress file; none where it cannot be read."""
    try:
        with _opened(path) as file:
            return tuple(str(name) for name in json.loads(str(file["about"]))["subjects"])
    except _DAMAGED:
        return ()


def _opened(path: pathlib.Path):
    # from memory: np.load leaves a damaged file open
    return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)


def digest(*trees: Any) -> str:
    """SHA-256 of pytrees of arrays: names, shapes, dtypes and bytes."""
    hashed = hashlib.sha256()
    for number, tree in enumerate(trees):
        for name, array in _leaves(jax.device_get(tree)):
            hashed.update(f"{number} {name} {array.dtype.str} {array.shape}\n".encode())
            hashed.update(np.ascontiguousarray(array).data)
    return hashed.hexdigest()


def digest_of_record(record: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _leaves(tree: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Name and array of each leaf; typed PRNG keys as their data."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if _is_key(leaf):
            leaf = jax.random.key_data(leaf)
        yield jax.tree_util.keystr(path, simple=True, separator="/"), np.asarray(leaf)


def _pairs(arrays: dict[str, np.ndarray], like: Any):
    return zip(arrays.values(), _leaves(like), strict=True)


def _restored(array: np.ndarray, like: Any) -> Any:
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(like))
    return jnp.asarray(array)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
