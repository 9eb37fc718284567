"""The training loop: batches in, states out; progress with an ETA, JSONL metrics, checkpoints,
clean interruption.
"""

from __future__ import annotations

import functools
import json
import math
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import jax

from jaxrecon.training.checkpoints import Checkpoints
from jaxrecon.training.state import TrainState

Hook = Callable[[TrainState], dict]


def run(
    state: TrainState,
    step: Callable[[TrainState, dict], tuple[TrainState, dict]],
    batches: Callable[[int], Iterator[dict]],
    steps: int,
    *,
    name: str = "train",
    checkpoints: Checkpoints | None = None,
    save_every: int = 500,
    log_every: int = 50,
    metrics_file: pathlib.Path | None = None,
    evaluate: Hook | None = None,
    evaluate_every: int = 1000,
) -> tuple[TrainState, bool]:
    """Train until `steps` steps are done.

    Args:
        state: to start from; with checkpoints whose newest step is later, that one is restored.
        step: (state, batch) -> (state, metrics), usually jitted with the state donated.
        batches: start step -> iterator of batches from that step on (so that a resumed run sees
            the same data).
        steps: total, counting those already done.
        name: shown in progress and metrics.
        checkpoints: where to save and resume, or None.
        save_every, log_every, evaluate_every: in steps.
        metrics_file: JSONL, one line per log, appended.
        evaluate: state -> metrics of held-out data.

    Returns:
        (state, finished): finished is False after SIGINT or SIGTERM, once the state has been saved.
    """
    saved = None if checkpoints is None else checkpoints.latest()
    if checkpoints is not None and saved is not None and saved > int(state.step):
        state = checkpoints.restore(state)
    start = done = int(state.step)
    stop = threading.Event()
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, functools.partial(_stop, stop))
    began = time.monotonic()
    try:
        source = batches(start)
        while done < steps and not stop.is_set():
            state, metrics = step(state, next(source))
            done += 1
            due = evaluate is not None and (done % evaluate_every == 0 or done == steps)
            if due or done % log_every == 0 or done == steps:
                values = {k: float(v) for k, v in jax.device_get(metrics).items()}
                if evaluate is not None and due:
                    values |= evaluate(state)
                _report(
                    name,
                    done,
                    steps,
                    (time.monotonic() - began) / (done - start),
                    values,
                    metrics_file,
                )
            if checkpoints is not None and (done % save_every == 0 or done == steps):
                checkpoints.save(state)
        if checkpoints is not None:
            checkpoints.save(state, wait=True)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return state, done >= steps


def _stop(stop: threading.Event, *_) -> None:
    """The first signal ends the run after its step, with a save; a second one ends it at once."""
    if stop.is_set():
        raise KeyboardInterrupt
    stop.set()


def _report(name, done, steps, seconds, values, metrics_file) -> None:
    left = seconds * (steps - done)
    eta = f"{left / 60:.0f} min" if left >= 90 else f"{left:.0f} s"
    text = " ".join(f"{k} {v:.4g}" for k, v in values.items())
    end = "\r" if sys.stderr.isatty() and done < steps else "\n"
    print(
        f"{name} {done}/{steps}  {1 / seconds:.1f} steps/s  ETA {eta}  {text}",
        file=sys.stderr,
        end=end,
    )
    if metrics_file is not None:
        with open(metrics_file, "a") as file:
            # JSON has no NaN
            plain = {k: v if math.isfinite(v) else None for k, v in values.items()}
            file.write(json.dumps({"stage": name, "step": done, **plain}) + "\n")
