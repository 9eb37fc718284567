"""The slope of a function along a direction: by its gradient, and by differences."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def random_direction(rng: np.random.Generator, point):
    """Normal numbers in the shape of a pytree."""
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), point)


def along(gradient, direction) -> float:
    """The product of two pytrees."""
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    return sum(float(jnp.sum(a * b)) for a, b in pairs)


def central_difference(function: Callable, point, direction, h: float) -> float:
    """(f(x + h d) - f(x - h d)) / 2 h."""
    ahead, behind = (
        float(function(jax.tree.map(lambda x, d, s=sign: x + s * h * d, point, direction)))
        for sign in (1, -1)
    )
    return (ahead - behind) / (2 * h)
