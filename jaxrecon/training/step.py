"""One train step: a pure function of state and batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrecon.training.state import TrainState

Loss = Callable[..., tuple[jax.Array, Any]]


def train_step(
    loss: Loss,
    optimiser: optax.GradientTransformation,
    state: TrainState,
    batch: dict,
    axis_name: str | None = None,
    chunks: int = 1,
) -> tuple[TrainState, dict]:
    """One gradient step on a batch mean.

    Random draws of the loss come from keys that travel in the batch, one for each example.

    Args:
        loss: (params, batch) -> (scalar, metrics), all means over the batch. Where the state has
            `batch_stats`: (params, batch_stats, batch) -> (scalar, (metrics, new batch_stats)).
        optimiser: optax transformation.
        state: before the step.
        batch: leaves with a leading batch axis.
        axis_name: mapped axis over which gradients, metrics and statistics are averaged (pmap), or
            None.
        chunks: parts of the batch whose gradients are computed one after another and averaged:
            the same step in less memory, and faster where a whole batch exceeds the caches.

    Returns:
        (state after, metrics with `loss` and `gradient_norm`). A step whose gradient is not finite
        changes nothing but the step count, and counts in metrics["skipped"].

    Raises:
        ValueError: the batch does not divide by `chunks`, or there are `batch_stats` and chunks,
            which would be normalised by themselves.
    """
    value, metrics, stats, gradients = _gradients(loss, state, batch, chunks)
    metrics = {"loss": value, **metrics}
    if axis_name is not None:
        gradients, metrics, stats = jax.lax.pmean((gradients, metrics, stats), axis_name)
    norm = optax.tree.norm(gradients)
    updates, opt_state = optimiser.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    finite = jnp.isfinite(norm)
    params, opt_state, stats = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        (params, opt_state, stats),
        (state.params, state.opt_state, state.batch_stats),
    )
    metrics |= {"gradient_norm": norm, "skipped": 1.0 - finite}
    return TrainState(state.step + 1, params, opt_state, state.key, stats), metrics


def _gradients(loss: Loss, state: TrainState, batch: dict, chunks: int):
    """(loss, metrics, batch_stats, gradients) of a batch."""
    gradient = jax.value_and_grad(loss, has_aux=True)
    if state.batch_stats:
        if chunks > 1:
            raise ValueError("batch_stats with chunks: each chunk would be normalised by itself")
        (value, aux), gradients = gradient(state.params, state.batch_stats, batch)
        return value, *aux, gradients
    if chunks == 1:
        (value, metrics), gradients = gradient(state.params, batch)
        return value, metrics, state.batch_stats, gradients
    if any(x.shape[0] % chunks for x in jax.tree.leaves(batch)):
        raise ValueError(f"a batch that does not divide into {chunks} chunks")
    # Example i goes to chunk i % chunks, so that every chunk has examples of all devices.
    parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, chunks, *x.shape[1:]), 1, 0), batch)

    def add(total, part):
        return jax.tree.map(jnp.add, total, gradient(state.params, part)), None

    shapes = jax.eval_shape(gradient, state.params, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, parts)
    (value, metrics), gradients = jax.tree.map(lambda x: x / chunks, total)
    return value, metrics, state.batch_stats, gradients
