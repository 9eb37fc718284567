"""Data parallelism: one train step, run on one device, on many, or on several hosts.

A step is a pure function (state, batch) -> (state, metrics) whose loss is a mean over the batch:
the mean of the devices' losses is then the loss of the whole batch. `jitted` lets the compiler
insert the reductions; `pmapped` runs the same step on each device's share, with averages over the
axis "data" (`train_step(..., axis_name=AXIS)`). Both leave the state unstacked.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxrecon.errors import InputError

AXIS = "data"
"""Name of the one mesh axis, along which batches are split."""

Step = Callable[..., tuple[Any, dict]]


def make_mesh(devices: int | None = None) -> Mesh:
    """A 1-D mesh over the first `devices` devices of all hosts, or over all of them.

    Raises:
        InputError: there are fewer.
    """
    found = jax.devices()
    count = len(found) if devices is None else devices
    if not 1 <= count <= len(found):
        raise InputError(f"{count} devices", f"1 to {len(found)}, as jax.devices() finds", "")
    # Auto: with the default, Explicit, a reshape or gather over the batch axis is an error.
    return jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=found[:count])


def replicate(tree: Any, mesh: Mesh) -> Any:
    """A copy of `tree` on every device of the mesh; each process passes the same values."""
    # Without the copy, device 0 shares the caller's buffer, and a donating step would delete it.
    tree = jax.tree.map(jnp.copy, tree)
    everywhere = NamedSharding(mesh, PartitionSpec())
    if not mesh.is_multi_process:
        return jax.device_put(tree, everywhere)
    return jax.tree.map(functools.partial(_place, jax.device_put, everywhere), tree)


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """`batch` placed on the mesh, its leading axis split over the devices.

    Args:
        batch: leaves (b, ...). With several processes, the examples of this process: the
            global batch is all of theirs, in the order of the processes.
        mesh: of `make_mesh`.

    Raises:
        InputError: a leaf does not divide by the number of this process's devices.
    """
    _check(batch, len(mesh.local_devices))
    split = NamedSharding(mesh, PartitionSpec(AXIS))
    if not mesh.is_multi_process:
        return jax.device_put(batch, split)

    return jax.tree.map(functools.partial(_place, _from_local, split), batch)


def _from_local(leaf, sharding):
    return jax.make_array_from_process_local_data(sharding, leaf)


def _place(put, sharding, leaf):
    """`put(leaf, sharding)`, keys by way of their data: neither `put` takes keys over processes."""
    if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = put(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    return put(leaf, sharding)


def jitted(step: Step, mesh: Mesh, keyed: bool = False, donate: bool = True) -> Step:
    """`step` compiled for the mesh: batch split, everything else replicated.

    Args:
        step: (state, batch) -> (state, metrics), with axis_name=None.
        mesh: of `make_mesh`.
        keyed: the step takes a third argument, a key.
        donate: the state given to a call is deleted by it.

    Returns:
        A function of `replicate`d state and a batch, which it places with `shard_batch`: a host
        array passed to a sharded jit may silently be computed whole on every device.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec(AXIS))
    compiled = jax.jit(
        step,
        in_shardings=(everywhere, split, *([everywhere] if keyed else [])),
        out_shardings=everywhere,
        donate_argnums=(0,) if donate else (),
    )

    def place_and_step(state, batch, *key):
        return compiled(state, shard_batch(batch, mesh), *key)

    return place_and_step


def pmapped(
    step: Step, devices: int | None = None, keyed: bool = False, donate: bool = True
) -> Step:
    """`step` under `jax.pmap` over the first `devices` local devices, or all, with unstacked state.

    Args:
        step: (state, batch) -> (state, metrics) of one device's share, with axis_name=AXIS.
        devices: how many; `split_batch` takes the same number.
        keyed: the step takes a third argument, a key, the same on every device.
        donate: the state given to a call is deleted by it.

    Returns:
        A function of state and a batch of `split_batch`.
    """
    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, 0, None) if keyed else (None, 0),
        # One copy, not a stack: reading x[0] of a stack gathers the whole of it.
        out_axes=None,
        devices=None if devices is None else jax.local_devices()[:devices],
        donate_argnums=(0,) if donate else (),
    )


def split_batch(batch: Any, devices: int) -> Any:
    """Leaves (b, ...) as (devices, b / devices, ...), for `pmapped`.

    Raises:
        InputError: a leaf does not divide.
    """
    _check(batch, devices)
    return jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)


def _check(batch: Any, devices: int) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        shape = tuple(leaf.shape)
        if not shape or shape[0] % devices:
            raise InputError(
                f"batch{jax.tree_util.keystr(path)} of shape {shape} for {devices} devices",
                "a leading axis that divides by the number of devices",
                "change the batch size or the number of devices",
            )
