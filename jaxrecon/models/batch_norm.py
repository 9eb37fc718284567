"""Batch normalisation with torch's rules, and networks applied with their running statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_INITIALISATION = jax.nn.initializers


class BatchNorm(nn.Module):
    """y = (x - mean) / sqrt(variance + 1e-5) scale + bias over the last axis, as torch does it.

    Trained batches are normalised by their own biased variance; the running variance (collection
    `batch_stats`) takes up the unbiased one, 0.1 of it at each step. Flax's layer takes up the
    biased one: fine-tuned batches of 2 would differ by half.
    """

    axis_name: str | None = None
    """Mapped axis over whose devices the statistics of a batch are taken, or None."""
    epsilon: float = 1e-5
    """Added to the variance."""
    momentum: float = 0.1
    """Weight of the newest batch in the running statistics."""

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "*n c"], train: bool = False
    ) -> Float[Array, "*n c"]:
        """Normalised x, by the running statistics or (train) by those of x.

        Raises:
            ValueError: one value for each channel cannot be normalised by itself.
        """
        x = jnp.asarray(x)
        shape = (x.shape[-1],)
        scale = self.param("scale", _INITIALISATION.ones, shape)
        bias = self.param("bias", _INITIALISATION.zeros, shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        if train and not self.is_initializing():
            mean, var, count = self._statistics(x)
            m = self.momentum
            running_mean.value = (1 - m) * running_mean.value + m * mean
            running_var.value = (1 - m) * running_var.value + m * var * (count / (count - 1))
        else:
            mean, var = running_mean.value, running_var.value
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        lead = (None,) * (x.ndim - 1)
        return (x - mean[lead]) * factor[lead] + bias[lead]

    def _statistics(self, x) -> tuple[Array, Array, int]:
        axes, lead = tuple(range(x.ndim - 1)), (None,) * (x.ndim - 1)
        count = x.size // x.shape[-1]
        mean = jnp.mean(x, axis=axes)
        if self.axis_name is not None:
            mean = jax.lax.pmean(mean, self.axis_name)
            count *= jax.lax.axis_size(self.axis_name)
        if count < 2:
            raise ValueError("batch normalisation of one value for each channel")
        var = jnp.mean((x - mean[lead]) ** 2, axis=axes)
        if self.axis_name is not None:
            var = jax.lax.pmean(var, self.axis_name)
        return mean, var, count


def apply_network(
    module: nn.Module,
    variables: Mapping[str, Any],
    *inputs: Any,
    train: bool = False,
    key: Array | None = None,
) -> tuple[Any, dict]:
    """(output, new batch_stats) of a network whose `__call__` takes `train`, as a pure function.

    Args:
        module: its configuration.
        variables: `params`, `batch_stats` and further collections.
        *inputs: positional arguments of the network.
        train: whether batches are normalised by themselves and dropout is active.
        key: of the dropout; needed to train a network that has some.
    """
    stats = variables.get("batch_stats", {})
    if not train:
        return module.apply(variables, *inputs, train=False), dict(stats)
    rngs = {} if key is None else {"dropout": key}
    output, new = module.apply(variables, *inputs, train=True, rngs=rngs, mutable=["batch_stats"])
    return output, dict(new.get("batch_stats") or {})
