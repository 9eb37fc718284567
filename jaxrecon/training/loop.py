"""The training loop: batches in, states out; progress with an ETA, JSONL metrics, checkpoints,
clean interruption.
"""

from __future__ import annotations

import functools
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator

import jax

from jaxrecon.training import metrics
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
    deadline: float | None = None,
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
        metrics_file: JSONL, one line per log, appended. Lines of `name` after the step the run
            starts from are dropped first: a killed run may have logged beyond its last save.
        evaluate: state -> metrics of held-out data.
        deadline: time of `time.monotonic` (s) after which no step begins, or None.

    Returns:
        (state, finished): finished is False after SIGINT, SIGTERM or the deadline, once the state
        has been saved.
    """
    saved = None if checkpoints is None else checkpoints.latest()
    if checkpoints is not None and saved is not None and saved > int(state.step):
        state = checkpoints.restore(state)
    done = int(state.step)
    if metrics_file is not None:
        metrics.drop_after(metrics_file, name, done)
    stop = threading.Event()
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, functools.partial(_stop, stop))
    progress = metrics.Progress(name, steps)
    try:
        source = batches(done)
        while done < steps and not stop.is_set():
            if deadline is not None:
                # Steps run behind their dispatch: without this wait, many may be under way.
                jax.block_until_ready(state.step)
                if time.monotonic() > deadline:
                    break
            state, values = step(state, next(source))
            done += 1
            due = evaluate is not None and (done % evaluate_every == 0 or done == steps)
            if due or done % log_every == 0 or done == steps:
                values = {k: float(v) for k, v in jax.device_get(values).items()}
                if evaluate is not None and due:
                    values |= evaluate(state)
                progress.show(done, values)
                if metrics_file is not None:
                    metrics.append(metrics_file, name, done, values)
            if checkpoints is not None and (done % save_every == 0 or done == steps):
                checkpoints.save(state)
        if checkpoints is not None:
            checkpoints.save(state, wait=True)
    finally:
        progress.close()
        for number, handler in previous.items():
            signal.signal(number, handler)
    return state, done >= steps


def _stop(stop: threading.Event, *_) -> None:
    """The first signal ends the run after its step, with a save; a second one ends it at once."""
    if stop.is_set():
        raise KeyboardInterrupt
    stop.set()
