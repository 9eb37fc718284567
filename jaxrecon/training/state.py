"""The state of a training run: an immutable pytree."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a step reads and writes."""

    step: Any
    """() int32, steps done"""
    params: Any
    """trained parameters"""
    opt_state: Any
    """state of the optimiser"""
    key: Any
    """typed PRNG key of the run; step keys are folded in, so that a resumed run draws the same"""
    batch_stats: Any = dataclasses.field(default_factory=dict)
    """running statistics of batch normalisation; empty for networks without"""


def create_state(
    params: Any,
    optimiser: optax.GradientTransformation,
    key: jax.Array,
    batch_stats: Any = None,
) -> TrainState:
    """A fresh state. All is copied: donated steps must not delete the caller's."""
    params, key, stats = jax.tree.map(jnp.copy, (params, key, batch_stats or {}))
    return TrainState(jnp.zeros((), jnp.int32), params, optimiser.init(params), key, stats)
