"""One train step: a pure function of state and batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxrecon.training.state import TrainState

Loss = Callable[[Any, dict], tuple[jax.Array, dict]]


def train_step(
    loss: Loss,
    optimiser: optax.GradientTransformation,
    state: TrainState,
    batch: dict,
    axis_name: str | None = None,
) -> tuple[TrainState, dict]:
    """One gradient step on a batch mean.

    Args:
        loss: (params, batch) -> (scalar, metrics).
        optimiser: optax transformation.
        state: before the step.
        batch: leaves with a leading batch axis.
        axis_name: mapped axis over which gradients and metrics are averaged (pmap), or None.

    Returns:
        (state after, metrics with `loss` and `gradient_norm`). A step whose gradient is not finite
        changes nothing but the step count, and counts in metrics["skipped"].
    """
    (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(state.params, batch)
    metrics = {"loss": value, **metrics}
    if axis_name is not None:
        gradients, metrics = jax.lax.pmean((gradients, metrics), axis_name)
    norm = optax.tree.norm(gradients)
    updates, opt_state = optimiser.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    finite = jax.numpy.isfinite(norm)
    params, opt_state = jax.tree.map(
        lambda new, old: jax.numpy.where(finite, new, old),
        (params, opt_state),
        (state.params, state.opt_state),
    )
    metrics |= {"gradient_norm": norm, "skipped": 1.0 - finite}
    return TrainState(state.step + 1, params, opt_state, state.key), metrics
