"""One of two processes of a run: PORT INDEX. Prints the last loss and the sum of the parameters."""

import os
import pathlib
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
sys.path[:0] = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parents[2])]

import jax  # noqa: E402

PORT, INDEX = sys.argv[1], int(sys.argv[2])
jax.distributed.initialize(f"127.0.0.1:{PORT}", num_processes=2, process_id=INDEX)

import jax.numpy as jnp  # noqa: E402
import test_parallel as toy  # noqa: E402
from jax.experimental import multihost_utils  # noqa: E402

from jaxrecon.training import parallel  # noqa: E402

mesh = parallel.make_mesh()
assert mesh.size == 4 and len(mesh.local_devices) == 2
state = parallel.replicate(toy.first_state(toy.SGD), mesh)
step = parallel.jitted(toy.one_step(toy.SGD), mesh)
half = slice(INDEX * toy.BATCH // 2, (INDEX + 1) * toy.BATCH // 2)
for i in range(3):
    state, metrics = step(state, jax.tree.map(lambda x: x[half], toy.batch_of(i)))
total = sum(float(jnp.sum(jnp.abs(value))) for value in state.params.values())
print(float(metrics["loss"]), total)
multihost_utils.sync_global_devices("end")
jax.distributed.shutdown()
