"""What a run tells: a progress line with an ETA, and metrics as JSON lines."""

from __future__ import annotations

import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Mapping

BAR = 24
"""Characters."""


def append(path: pathlib.Path, stage: str, step: int, values: Mapping[str, float]) -> None:
    """One line {"stage", "step", **values}; values that are not finite become null."""
    plain = {k: v if math.isfinite(v) else None for k, v in values.items()}  # JSON has no NaN
    with open(path, "a") as file:
        file.write(json.dumps({"stage": stage, "step": step, **plain}) + "\n")


def drop_after(path: pathlib.Path, stage: str, step: int) -> None:
    """Take away a stage's lines later than `step`, and a last line cut short by a kill.

    The file is replaced whole: a kill leaves the old one or the new one.
    """
    if not path.exists():
        return
    text = path.read_text()
    kept = "".join(line for line in text.splitlines(True) if _stays(line, stage, step))
    if kept != text:
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(kept)
        os.replace(temporary, path)


def _stays(line: str, stage: str, step: int) -> bool:
    try:
        values = json.loads(line)
        return line.endswith("\n") and (values["stage"] != stage or values["step"] <= step)
    except (ValueError, KeyError, TypeError):
        return False


class Progress:
    """Progress of one stage on stderr: a bar that is redrawn on a terminal, else lines."""

    def __init__(self, name: str, steps: int):
        self._name, self._steps = name, steps
        self._first: tuple[float, int] | None = None
        self._open = False

    def show(self, done: int, values: Mapping[str, float]) -> None:
        """Steps done, their rate, the time left, and values.

        The rate is that since the first call, so that compilation does not count in the ETA; at
        the first call itself it is not known.
        """
        now, terminal = time.monotonic(), sys.stderr.isatty()
        pace = ""
        if self._first is None:
            self._first = now, done
        else:
            since, start = self._first
            seconds = (now - since) / max(done - start, 1)
            left = seconds * (self._steps - done)
            eta = f"{left / 60:.0f} min" if left >= 90 else f"{left:.0f} s"
            pace = f"  {1 / max(seconds, 1e-9):.1f} steps/s  ETA {eta}"
        filled = BAR * done // self._steps
        bar = f"[{'#' * filled}{'.' * (BAR - filled)}] " if terminal else ""
        text = " ".join(f"{k} {v:.4g}" for k, v in values.items())
        line = f"{self._name} {bar}{done}/{self._steps}{pace}  {text}"
        # On a terminal: back to the start of the line, and clear it.
        print(
            f"\r\x1b[K{line}" if terminal else line, file=sys.stderr, end="" if terminal else "\n"
        )
        self._open = terminal

    def close(self) -> None:
        """End the line."""
        if self._open:
            print(file=sys.stderr)
            self._open = False
