"""Checkpoints of one's own runs, with orbax, always restored against an abstract tree.

Orbax folders from strangers are not safe to open; released weights are safetensors
(interop/weights.py).
"""

from __future__ import annotations

import pathlib
import stat
from typing import cast

import jax

from jaxrecon.errors import InputError
from jaxrecon.training.state import TrainState

_BROKEN = (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError)


class Checkpoints:
    """Saves and restores `TrainState`s under one folder, keeping the latest ones."""

    def __init__(self, folder: str | pathlib.Path, keep: int = 2):
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self.folder = pathlib.Path(folder).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        _refuse_links(self.folder)
        self._manager = ocp.CheckpointManager(
            self.folder,
            item_handlers=ocp.StandardCheckpointHandler(),
            options=ocp.CheckpointManagerOptions(max_to_keep=keep),
        )

    def latest(self) -> int | None:
        """Step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, wait: bool = False) -> None:
        """Save in the background; `wait` blocks until it is on disk."""
        step = int(state.step)
        if step != self.latest():
            self._manager.save(step, args=self._ocp.args.StandardSave(state))
        if wait:
            self._manager.wait_until_finished()

    def restore(self, like: TrainState) -> TrainState:
        """The newest checkpoint, in the structure, shapes and placement of `like`.

        Raises:
            InputError: none is there, it is damaged or does not fit, or the folder holds links.
        """
        _refuse_links(self.folder)
        step = self.latest()
        if step is None:
            raise InputError(
                f"{self.folder}: no checkpoint",
                "a folder of an earlier run",
                "train without resuming",
            )
        try:
            saved = _described(self._manager.item_metadata(step).tree)
        except _BROKEN as error:
            raise InputError(
                f"{self.folder}/{step}: its description is damaged ({str(error)[:200]})",
                "a checkpoint that jaxrecon wrote",
                "remove this step to use an earlier one, or train without resuming",
            ) from error
        expected = _described(like)
        differ = sorted(
            k for k in saved.keys() | expected.keys() if saved.get(k) != expected.get(k)
        )
        if differ:
            name = differ[0]
            raise self._misfit(step, f"{name} is {saved.get(name)}, expected {expected.get(name)}")
        abstract = jax.tree.map(self._ocp.utils.to_shape_dtype_struct, like)
        try:
            restored = self._manager.restore(step, args=self._ocp.args.StandardRestore(abstract))
            return cast(TrainState, restored)
        except _BROKEN as error:
            raise self._misfit(step, str(error)[:200]) from error

    def _misfit(self, step: int, why: str) -> InputError:
        return InputError(
            f"{self.folder}/{step}: does not fit this configuration ({why})",
            "a checkpoint of a run with the same configuration",
            "use the configuration of that run, or another folder",
        )

    def close(self) -> None:
        """Wait for pending saves."""
        self._manager.wait_until_finished()
        self._manager.close()


def _refuse_links(folder: pathlib.Path) -> None:
    """A checkpoint is plain files in folders: nothing that leads elsewhere, and nothing to hang on.

    Paths that its own descriptions name are not followed: names of arrays must be those expected,
    and tensorstore refuses keys that leave the folder.
    """
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            what = "a link" if stat.S_ISLNK(mode) else "no plain file"
            raise InputError(
                f"{path}: {what} inside a checkpoint folder",
                "plain files",
                "use a folder of yours",
            )


def _described(tree) -> dict[str, str]:
    """Path of each leaf -> its shape and dtype as stored (keys as their data)."""

    def stored(leaf):
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        return f"{tuple(leaf.shape)} {jax.numpy.dtype(leaf.dtype)}"

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): stored(x) for p, x in leaves}
