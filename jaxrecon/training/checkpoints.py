"""Checkpoints of one's own runs, with orbax, always restored against an abstract tree.

Orbax folders from strangers are not safe to open; released weights are safetensors
(interop/weights.py).
"""

from __future__ import annotations

import pathlib
from typing import cast

import jax

from jaxrecon.errors import InputError
from jaxrecon.training.state import TrainState


class Checkpoints:
    """Saves and restores `TrainState`s under one folder, keeping the latest ones."""

    def __init__(self, folder: str | pathlib.Path, keep: int = 2):
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self.folder = pathlib.Path(folder).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.rglob("*"):
            if path.is_symlink():
                raise InputError(
                    f"{path}: a link inside a checkpoint folder",
                    "plain files",
                    "use a folder of yours",
                )
        self._manager = ocp.CheckpointManager(
            self.folder, options=ocp.CheckpointManagerOptions(max_to_keep=keep)
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
            InputError: none is there, or it does not fit.
        """
        step = self.latest()
        if step is None:
            raise InputError(
                f"{self.folder}: no checkpoint",
                "a folder of an earlier run",
                "train without resuming",
            )
        abstract = jax.tree.map(self._ocp.utils.to_shape_dtype_struct, like)
        try:
            restored = self._manager.restore(step, args=self._ocp.args.StandardRestore(abstract))
            return cast(TrainState, restored)
        except ValueError as error:
            raise InputError(
                f"{self.folder}/{step}: does not fit this configuration ({str(error)[:200]})",
                "a checkpoint of a run with the same configuration",
                "use the configuration of that run, or another folder",
            ) from error

    def close(self) -> None:
        """Wait for pending saves."""
        self._manager.wait_until_finished()
        self._manager.close()
