"""Named objectives: each has a loss, an optimiser, and the parameters it trains.

A stage is a step with one objective; two players are a step with two, taken in turn. What an
objective does not train is neither differentiated nor touched, and has no optimiser state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrecon.errors import InputError
from jaxrecon.training.state import TrainState
from jaxrecon.training.step import Loss, train_step


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is minimised, over what, and how."""

    name: str
    """Unique within a step; prefixes its metrics where there are several objectives."""
    loss: Loss
    """As in `train_step`, of all parameters: (params, batch) -> (scalar, metrics), means over the
    batch."""
    optimiser: optax.GradientTransformation
    """Sees the trained parameters only."""
    trainable: tuple[str, ...] | None = None
    """Keys of the nested parameters, such as "reference" or "generator/mapping", each with all that
    lies below; None trains everything."""


def partition(params: Mapping, prefixes: Sequence[str]) -> tuple[dict, dict]:
    """Nested parameters as (those at or below one of `prefixes`, the rest).

    Raises:
        InputError: a prefix names no parameters.
    """
    for prefix in prefixes:
        below: Any = params
        for key in prefix.split("/"):
            if not isinstance(below, Mapping) or key not in below:
                known = ", ".join(below) if isinstance(below, Mapping) else "nothing below it"
                raise InputError(f"no parameters {prefix!r}", f"a key among: {known}", "")
            below = below[key]
    chosen, rest = {}, {}
    for key, value in params.items():
        below = [p[len(key) + 1 :] for p in prefixes if p == key or p.startswith(f"{key}/")]
        if "" in below:
            chosen[key] = value
        elif below:
            chosen[key], rest[key] = partition(value, below)
        else:
            rest[key] = value
    return chosen, rest


def merge(a: Mapping, b: Mapping) -> dict:
    """The union of nested parameters that share no leaf: the inverse of `partition`."""
    both = {key: merge(a[key], b[key]) for key in a.keys() & b.keys()}
    return {**a, **b, **both}


def _split(objective: Objective, params: Any) -> tuple[Any, dict]:
    return (params, {}) if objective.trainable is None else partition(params, objective.trainable)


def create_objectives_state(
    params: Mapping,
    objectives: Sequence[Objective],
    key: jax.Array,
    batch_stats: Mapping | None = None,
) -> TrainState:
    """A fresh state whose `opt_state` is {name: state of that objective's optimiser}.

    All is copied, as in `state.create_state`.

    Raises:
        InputError: two objectives share a name, or one trains what is not there.
    """
    names = [objective.name for objective in objectives]
    if len(set(names)) < len(names) or not names:
        raise InputError(f"objectives named {names}", "one or more, with different names", "")
    params, stats, key = jax.tree.map(jnp.copy, (dict(params), dict(batch_stats or {}), key))
    opt_state = {o.name: o.optimiser.init(_split(o, params)[0]) for o in objectives}
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state, key, stats)


def objectives_step(
    objectives: Sequence[Objective],
    state: TrainState,
    batch: dict,
    axis_name: str | None = None,
    chunks: int = 1,
) -> tuple[TrainState, dict]:
    """One `train_step` of each objective in turn, on one batch; counts as one step.

    Args:
        objectives: in order; each sees the parameters and batch statistics that the one before
            has left.
        state: of `create_objectives_state`.
        batch: leaves with a leading batch axis.
        axis_name, chunks: as in `train_step`.

    Returns:
        (state after, metrics, named `objective/metric` where there are several objectives).
    """
    params, stats = state.params, state.batch_stats
    opt_state, metrics = dict(state.opt_state), {}
    for objective in objectives:
        trained, frozen = _split(objective, params)

        def loss(trained, *rest, objective=objective, frozen=frozen):
            return objective.loss(merge(trained, frozen) if frozen else trained, *rest)

        part = TrainState(state.step, trained, opt_state[objective.name], state.key, stats)
        part, values = train_step(loss, objective.optimiser, part, batch, axis_name, chunks)
        params = merge(part.params, frozen) if frozen else part.params
        opt_state[objective.name], stats = part.opt_state, part.batch_stats
        prefix = f"{objective.name}/" if len(objectives) > 1 else ""
        metrics |= {f"{prefix}{name}": value for name, value in values.items()}
    return TrainState(state.step + 1, params, opt_state, state.key, stats), metrics
