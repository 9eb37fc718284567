"""Several subjects fitted together: `fitting.fit` in short scans, vmapped over subjects, with
progress, interruption and resuming. One subject is a batch of one.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrecon.fitting import fit as fitting
from jaxrecon.fitting.fit import FitResult, Setting
from jaxrecon.fitting.problem import FitConfig, Hyper, ViewData
from jaxrecon.pipelines import fit_progress
from jaxrecon.pipelines.fit_progress import Progress, Store
from jaxrecon.pipelines.priors import Prior

STEPS_A_CALL = 10
"""Steps between two looks at progress and signals (1-3 s on two cores)."""
SAVE_EVERY = 10.0
"""Seconds between two saves."""


class Stopped(Exception):
    """The caller asked to stop; what can be resumed is saved."""


@dataclasses.dataclass(frozen=True)
class FittedBatch:
    """All lanes after the last step."""

    setting: Setting
    """leading axis: lanes"""
    errors: np.ndarray
    """(lanes,) landmark error after the first stage, pixels"""
    progress: Progress

    def result(self, prior: Prior, lane: int) -> FitResult:
        """What one lane found."""
        setting, state = jax.tree.map(lambda x: x[lane], (self.setting, self.progress.state))
        history = {k: v[lane] for k, v in self.progress.history.items()}
        return fitting.finish(
            prior.functions, prior.params, prior.space, setting, state,
            [history] if history else [], self.errors[lane],
        )  # fmt: skip


def stack(views: Sequence[ViewData]) -> ViewData:
    """Subjects of equal shapes as the lanes of one batch."""
    return jax.tree.map(lambda *x: jnp.stack(x), *views)


def _each_lane(function: Callable, *trees: Any) -> Any:
    """`function` of every lane; one lane alone is not vmapped: it traces and compiles faster."""
    if jax.tree.leaves(trees)[0].shape[0] > 1:
        return jax.vmap(function)(*trees)
    alone = function(*jax.tree.map(lambda x: x[0], trees))
    return jax.tree.map(lambda x: jnp.asarray(x)[None], alone)


@functools.partial(jax.jit, static_argnames=("functions", "config"))
def _begin(functions, params, space, views, key, config, hyper):
    def one(views):
        return fitting.begin(functions, params, space, views, key, config, hyper)

    return _each_lane(one, views)


@functools.partial(jax.jit, static_argnames=("functions", "config", "steps", "switch"))
def _steps(functions, params, space, setting, state, gates, config, steps, switch):
    def one(setting, state):
        return fitting.run_steps(
            functions, params, space, setting, state, gates, config, steps, switch
        )

    return _each_lane(one, setting, state)


def fit_batch(
    prior: Prior,
    views: ViewData,
    key: jax.Array,
    config: FitConfig,
    hyper: Hyper | None = None,
    *,
    progress: Callable[[str, int, int, float], None] | None = None,
    landmarks_done: Callable[[np.ndarray], None] | None = None,
    store: Store | None = None,
    notice: Callable[[str], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    save_every: float = SAVE_EVERY,
) -> FittedBatch:
    """Fit the lanes of `views` (see `stack`); all share key, configuration and hyper-parameters.

    Args:
        prior: weights.
        views: leading axis: lanes.
        key: typed PRNG key; draws the pixels.
        config: static sizes.
        hyper: None for the defaults.
        progress: called with (stage, steps done, steps in all, mean loss of the lanes).
        landmarks_done: called with the (lanes,) errors of the landmark stage in pixels; may raise.
        store: where progress is kept, and resumed from if it is there; None keeps none.
        notice: told why stored progress cannot be used.
        should_stop: asked every few steps; if true, progress is saved and `Stopped` raised.
        save_every: seconds between two saves; 0 saves after every few steps.

    Raises:
        Stopped: as asked.
        InputError: of the writers.
    """
    clock = time.monotonic()
    setting, state, error = _begin(
        prior.functions, prior.params, prior.space, views, key, config,
        Hyper() if hyper is None else hyper,
    )  # fmt: skip
    errors = np.asarray(error)
    if landmarks_done is not None:
        landmarks_done(errors)
    run = Progress(state, {}, {"landmarks": time.monotonic() - clock})
    start = "" if store is None else fit_progress.digest(state, errors)
    if store is not None:
        run = _resumed(store, run, start, notice or (lambda text: None))
    plans = fitting.stages(config)
    total, first, saved = sum(plan.steps for plan in plans), 0, time.monotonic()
    for plan in plans:
        gates, last = fitting.gates_of(plan), first + plan.steps
        while run.done < last:
            if should_stop is not None and should_stop():
                if store is not None and run.done:
                    fit_progress.save(store, run, start)
                raise Stopped
            clock = time.monotonic()
            state, values = _steps(
                prior.functions, prior.params, prior.space, setting, run.state, gates, config,
                min(STEPS_A_CALL, last - run.done), plan.switch,
            )  # fmt: skip
            history = _joined(run.history, jax.device_get(values))
            spent = run.seconds.get(plan.name, 0.0) + time.monotonic() - clock
            run = Progress(state, history, run.seconds | {plan.name: spent})
            due = run.done == total or time.monotonic() - saved >= save_every
            if store is not None and due:
                fit_progress.save(store, run, start)
                saved = time.monotonic()
            if progress is not None:
                progress(plan.name, run.done, total, _mean_loss(history["total"][:, -1]))
        first = last
    return FittedBatch(setting, errors, run)


def _resumed(store: Store, begun: Progress, start: str, notice: Callable[[str], None]) -> Progress:
    """The stored progress if there is one that fits, else `begun`."""
    try:
        return fit_progress.load(store, begun.state, start) or begun
    except fit_progress.Damaged as why:
        notice(f"the stored progress cannot be used, {why}: begun anew")
        return begun


def _joined(history: dict, values: dict) -> dict:
    if not history:
        return dict(values)
    return {k: np.concatenate([history[k], v], axis=1) for k, v in values.items()}


def _mean_loss(losses: np.ndarray) -> float:
    """Of the lanes that have not diverged."""
    finite = losses[np.isfinite(losses)]
    return float(finite.mean()) if len(finite) else float("nan")
